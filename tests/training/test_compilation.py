"""Compiled training: how often Dynamo compiles, and that it changes no number."""

import copy

import pytest
import torch
from runs import assert_same_checkpoint, lm_run, log_of
from test_denoisers import SMALL
from tiny import make_lm, make_text
from torch._dynamo.testing import CompileCounter

from ostinato.models.denoisers import FineConfig, make_denoiser
from ostinato.models.lm import VARIANTS
from ostinato.training import compilation, distributed
from ostinato.training.compilation import compile_parts, parts_of
from ostinato.training.config import Optimisation
from ostinato.training.trainer import train

pytestmark = pytest.mark.slow

BATCHES = ((4, 5), (3, 5), (4, 6), (2, 6))  # clips, tokens of text: the last of an epoch are fewer


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_kind_of_sublayer_is_compiled_once_for_each_length(variant):
    """However many layers there are, in training, in validation, and for a last small batch: nothing runs eagerly."""
    plain = make_lm(variant, dtype=torch.float32, blocks=6, dropout=0.0)
    lm, counter = copy.deepcopy(plain), CompileCounter()
    compile_parts(lm, counter)
    kinds = {layer.kind for layer in lm.layers}
    lengths = {kind: 2 if lm.variant.text == "prefix" or kind == "cross-attention" else 1 for kind in kinds}
    expected = sum(lengths.values())
    for training in (True, False):
        lm.train(training)
        for b, s in BATCHES:
            steps, text = torch.randint(0, 7, (b, 1, 20)), make_text(*[s] * b, dtype=torch.float32)
            with torch.set_grad_enabled(training):
                assert torch.allclose(lm(steps, *text), plain(steps, *text), atol=1e-5)
        assert counter.frame_count == expected * (1 if training else 2)


@pytest.mark.parametrize("kind", ["unet", "simba"])
def test_alike_blocks_of_a_denoiser_are_compiled_once(kind):
    config = FineConfig(kind, **SMALL | {"multiples": (1, 2, 3)})
    denoiser, counter = make_denoiser(config), CompileCounter()
    shapes = {tuple(p.shape for p in part.parameters()) for part in parts_of(denoiser)}
    compile_parts(denoiser, counter)
    for b in (4, 3, 2):
        noisy, coarse = torch.randn(b, config.fine, 24), torch.randn(b, config.coarse, 24)
        denoiser(noisy, coarse, torch.rand(b), *make_text(*[5] * b, dtype=torch.float32))
    assert counter.frame_count == len(shapes)


def test_a_compiled_run_compiles_no_more_than_its_lengths(stores, tmp_path, monkeypatch):
    """Clips of two lengths, captions of several, validation: each of the two kinds for training and for validation."""
    counter = CompileCounter()
    monkeypatch.setattr(compilation, "compile_parts", lambda module: compile_parts(module, counter))
    hyper = {"steps": 6, "validate_every": 3}
    model = {"blocks": 3, "dropout": 0.0}
    train(lm_run(stores, tmp_path / "compiled", model, hyper | {"compile": True}, clip_seconds=3.0))
    train(lm_run(stores, tmp_path / "plain", model, hyper, clip_seconds=3.0))
    assert counter.frame_count == 2 * 2
    for kind in ("train", "validation"):
        found, wanted = (log_of(tmp_path / name, kind) for name in ("compiled", "plain"))
        assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in wanted], rel=1e-4)


@pytest.mark.parametrize(("emulated", "itself", "wanted"), [(True, False, "no"), (True, True, "bf16")])
def test_bfloat16_is_for_gpus_that_have_it(monkeypatch, emulated, itself, wanted):
    """A T4 and a V100 emulate it, and say so only when asked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    answers = {True: emulated, False: itself}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: answers[including_emulation])
    assert distributed.precision(Optimisation()) == wanted


def test_deterministic_is_set_and_trains(stores, tmp_path):
    """What it does to CUDA's sums is for test_cuda.py."""
    try:
        found = train(lm_run(stores, tmp_path / "run", train={"deterministic": True, "steps": 2}))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_checkpoint(found, train(lm_run(stores, tmp_path / "plain", train={"steps": 2})))
