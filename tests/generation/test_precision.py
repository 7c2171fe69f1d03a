"""Generating with other number types: what is played stays what float32 would play, but for rounding."""

import pytest
import torch
from test_denoisers import SMALL
from tiny import PATTERNS, make_lm, make_text
from typer.testing import CliRunner

import ostinato
from ostinato.cli import app
from ostinato.generation.fine_stage import identity
from ostinato.generation.precision import cast
from ostinato.generation.recipe import model_id
from ostinato.generation.sampling import Sampling, begin, generate_frames
from ostinato.models.denoisers import FineConfig, make_denoiser
from ostinato.models.lm import VARIANTS
from ostinato.models.mamba import Mamba2
from ostinato.utils.errors import UserError

PROMPT = "A calm solo piano piece"
HALVES = {torch.bfloat16: 0.05, torch.float16: 0.01}  # and how far odds may be off, as total variation


@pytest.fixture(scope="module")
def played():
    model = ostinato.load("pocket")
    return model, model.generate(PROMPT, 0.5, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_codes_stay_sensible(played, dtype):
    """Both stages of `pocket` beside themselves in float32, along the same codes: the odds of each next one, then the
    fine codes. (Sampled freely, one code that falls otherwise makes another piece.)"""
    exact, clip = played
    model, text = ostinato.load("pocket", dtype=dtype), exact.text([PROMPT])
    assert model.lm.embedding[0].weight.dtype == model.fine.denoiser.into.weight.dtype == dtype
    steps = torch.nn.functional.pad(clip.codes[None, :1], (1, -1), value=exact.lm.special)
    wanted, found = (m.lm(steps, *text).float().softmax(-1) for m in (exact, model))
    assert 0 < (found - wanted).abs().sum(-1).max() / 2 < HALVES[dtype]
    coarse, empty = list(clip.codes[None, :1].unbind(-1)), exact.text([""])
    wanted, found = (next(m.fine.refine(coarse, text, empty, [1]))[0] for m in (exact, model))
    assert (found == wanted).float().mean() > 0.95
    sound = model.generate(PROMPT, 0.3, seed=1).audio
    assert sound.isfinite().all() and sound.abs().max() > 0.001
    # A take of other numbers is another take: its recipe is not played by this model, nor are its clips its own.
    assert model_id(model) != model_id(exact) and identity(model.fine) != identity(exact.fine)


@pytest.mark.slow
def test_the_default_is_float32_to_the_bit(played):
    """(`test_saved` holds what it plays to what earlier versions played.)"""
    model, clip = played
    named = ostinato.load("pocket", dtype="float32")
    assert {p.dtype for p in (*named.lm.parameters(), *named.fine.denoiser.parameters())} == {torch.float32}
    assert (model_id(named), identity(named.fine)) == (model_id(model), identity(model.fine))
    assert torch.equal(named.generate(PROMPT, 0.5, seed=1).audio, clip.audio)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("K", "pattern"), PATTERNS)
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_every_variant_generates(variant, K, pattern, dtype):
    """And its odds, a step at a time, are near those of float32."""
    lm, half = (make_lm(variant, K, pattern, dtype=torch.float32) for _ in range(2))
    cast(half, dtype)
    text, empty = make_text(4, 2, dtype=torch.float32), make_text(1, dtype=torch.float32)
    for layer in half.modules():
        if isinstance(layer, Mamba2):
            assert layer.A_log.dtype == layer.dt_bias.dtype == torch.float32
    states = [m.start(*text) for m in (lm, half)]
    for _ in range(6):
        codes = torch.randint(0, 7, (2, K))
        wanted, found = (m.step(codes, s).float().softmax(-1) for m, s in zip((lm, half), states, strict=True))
        assert (found - wanted).abs().sum(-1).max() / 2 < 3 * HALVES[dtype]
    frames = generate_frames(half, begin(half, text, empty, Sampling(3.0, 1.0, 5), [1, 2]))
    assert all(next(frames).shape == (2, K) for _ in range(4))


@pytest.mark.parametrize("kind", ["unet", "simba"])
@torch.no_grad()
def test_every_denoiser_runs(kind):
    torch.manual_seed(0)
    denoiser = make_denoiser(FineConfig(kind, codebook_size=9, **SMALL)).eval()
    for p in denoiser.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    c = denoiser.config
    noisy, coarse, time = torch.randn(2, c.fine, 12), torch.randn(2, c.coarse, 12), torch.tensor([0.2, 0.7])
    text, mask = make_text(3, 2, width=c.text_width, dtype=torch.float32)
    wanted = denoiser(noisy, coarse, time, text, mask)
    cast(denoiser, torch.bfloat16)
    found = denoiser(noisy.bfloat16(), coarse.bfloat16(), time, text.bfloat16(), mask)
    assert (found.float() - wanted).square().mean() < 0.01 * wanted.square().mean()


def test_types_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="bfloat16"):
        ostinato.load("pocket", dtype="bfloat")
    with pytest.raises(UserError, match="tf32 is of CUDA GPUs"):
        ostinato.load("pocket", dtype="tf32")
    for words in (["generate", "a tune", "-o", str(tmp_path / "a.wav")], ["evaluate", str(tmp_path)]):
        result = CliRunner().invoke(app, [*words, "--dtype", "int8"])
        assert isinstance(result.exception, UserError) and "int8" in str(result.exception)
