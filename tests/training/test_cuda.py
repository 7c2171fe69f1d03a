"""On a GPU: a run is the same run twice, resumed too, and the same seed gives the same bytes. `pytest -m cuda`."""

import copy

import pytest
import torch
from runs import assert_same_checkpoint, lively
from tiny import make_codec, make_lm, make_text

from ostinato.generation.guidance import guide
from ostinato.generation.sampling import Sampling, begin, generate_frames, pick
from ostinato.models.lm import VARIANTS
from ostinato.training.trainer import train

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and none is found here"),
]


def test_a_resumed_run_is_the_uninterrupted_one(stores, tmp_path):
    exact = {"deterministic": True, "precision": "auto"}
    straight = train(lively(stores, tmp_path / "straight", **exact))
    train(lively(stores, tmp_path / "resumed", steps=4, **exact))
    assert_same_checkpoint(train(lively(stores, tmp_path / "resumed", **exact)), straight)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_parallel_is_step_by_step(variant):
    """In float64, as on a CPU, and the two devices agree."""
    lm, text = make_lm(variant), make_text(4, 2)
    steps = torch.randint(0, 7, (2, 1, 20))
    wanted = lm(steps, *text)
    lm, text = lm.cuda(), [t.cuda() for t in text]
    state = lm.start(*text)
    each = torch.stack([lm.step(column, state) for column in steps.cuda().unbind(-1)], 2)
    for found in (lm(steps.cuda(), *text), each):
        assert torch.allclose(found.cpu(), wanted, atol=1e-10)


def test_the_same_seed_gives_the_same_bytes():
    from ostinato.generation.pipeline import load

    model = load("pocket", "cuda")
    one, other = (model.generate("a calm piano", 1.0, seed=3).audio for _ in range(2))
    assert torch.equal(one, other)


def test_a_codec_encodes_the_same_twice():
    codec, audio = make_codec().cuda(), torch.randn(2, 1, 8000, device="cuda")
    assert torch.equal(codec.encode(audio), codec.encode(audio))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_generation_waits_for_nothing_and_a_graph_changes_nothing(variant):
    """The loop, captured where its state allows, gives what its steps give one by one, without a synchronisation."""
    lm, (embeddings, mask) = make_lm(variant).float().cuda(), make_text(4)
    text = embeddings.float().cuda(), mask.cuda()
    settings = Sampling(guidance=2.0, temperature=2.0, top_k=6)
    begun = begin(lm, text, text, settings, [5])
    eager, found = copy.deepcopy(begun), []
    stream = generate_frames(lm, begun)
    first = next(stream)  # which captures
    torch.cuda.set_sync_debug_mode("error")
    try:
        codes = torch.stack([first, *(next(stream) for _ in range(40))], 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(41):
        noise = eager.next_noise((1, lm.special))
        logits = guide(lm.step(eager.recent[:, :, -1].repeat(2, 1), eager.state), settings.guidance)
        eager.recent = pick(logits[..., : lm.special], settings, noise).unsqueeze(-1)
        found.append(eager.recent[..., 0])
    assert torch.equal(codes, torch.stack(found, 2))
