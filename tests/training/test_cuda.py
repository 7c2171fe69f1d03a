"""On a GPU: a run is the same run twice, resumed too, and the same seed gives the same bytes. `pytest -m cuda`."""

import pytest
import torch
from runs import assert_same_checkpoint, lively
from tiny import make_codec, make_lm, make_text

from ostinato.models.lm import VARIANTS
from ostinato.training.ema import EMA
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


def test_averages_in_main_memory_are_those_on_the_gpu():
    lm = make_lm(dtype=torch.float32).cuda()
    here, there = EMA(lm, 0.9), EMA(lm, 0.9, offload=True)
    for step in range(1, 4):
        with torch.no_grad():
            for p in lm.parameters():
                p.add_(torch.randn_like(p))
        for averages in (here, there):
            averages.update(lm, step)
    for name, kept in there.weights.items():
        assert kept.device.type == "cpu" and torch.allclose(kept, here.weights[name].cpu(), atol=1e-6)


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


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16", "float16"])
def test_other_number_types_give_music_and_the_same_twice(dtype):
    from ostinato.generation.pipeline import load

    try:
        model = load("pocket", "cuda", dtype)
        one, other = (model.generate("a calm piano", 1.0, seed=3).audio for _ in range(2))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(one, other) and one.isfinite().all() and one.square().mean().sqrt() > 0.003


def test_a_codec_encodes_the_same_twice():
    codec, audio = make_codec().cuda(), torch.randn(2, 1, 8000, device="cuda")
    assert torch.equal(codec.encode(audio), codec.encode(audio))
