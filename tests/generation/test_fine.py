"""The fine stage: its codes are valid, its training resumes bit for bit, two stages make one model."""

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import CAPTIONS, FLAT, assert_same_checkpoint, lm_run, log_of, strange_store
from tiny import POCKET, make_codec, make_text

from ostinato.codecs.load import load_codec
from ostinato.generation.fine_stage import (
    FineStage,
    Scale,
    code_table,
    fine_folder,
    load_fine,
    measure_scale,
    quantize,
    save_fine,
)
from ostinato.generation.settings import FineSampling
from ostinato.models.denoisers import FineConfig, make_denoiser
from ostinato.models.text_encoder import load_text_encoder
from ostinato.training.config import FineRun, Optimisation, load_run
from ostinato.training.flops import step_flops
from ostinato.training.trainer import train
from ostinato.utils.errors import UserError
from ostinato.utils.files import load_module

K, WIDTH = POCKET.num_codebooks, POCKET.code_width
SMALL = {"num_codebooks": K, "latent_width": WIDTH, "width": 16, "heads": 2, "blocks": 1, "multiples": (1, 2)}
SMALL |= {"feed_forward": 24, "state": 4, "head_width": 8, "chunk": 8, "text_width": 384, "dropout": 0.1}
QUICK = FineSampling("dpm++", 2, 2.0, 0.5, 0.1)


def fine_run(stores, output, kind="unet", train=None, prediction_type="v", **changes):
    hyper = {"steps": 4, "batch": 2, "accumulation": 1, "warmup": 2, "precision": "fp32", "log_every": 1} | FLAT
    hyper |= {"ema": 0.5, "checkpoint_every": 2, "validate_every": 2} | (train or {})
    changes = {"text": "minilm", "clip_seconds": 1.0, "sampling": QUICK, "sample_seconds": 0.6} | changes
    model = FineConfig(kind, prediction_type, codebook_size=POCKET.codebook_size, **SMALL)
    return FineRun(str(stores / "codes"), str(output), model, train=Optimisation(**hyper), **changes)


def make_stage(codec, seed=0, **changes):
    torch.manual_seed(seed)
    denoiser = make_denoiser(FineConfig("simba", **SMALL | {"text_width": 12} | changes)).eval()
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    codes = torch.randint(codec.codebook_size, (4, K, 50), generator=torch.Generator().manual_seed(seed))
    return FineStage(denoiser, codec, measure_scale(codec.codes_to_latents(codes)), QUICK)


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(0, 99))
def test_snapped_latents_are_valid_codes_and_snapping_is_idempotent(T, seed):
    codec, g = make_codec(), torch.Generator().manual_seed(seed)
    coarse = torch.randint(codec.codebook_size, (2, 1, T), generator=g)
    codes = quantize(codec, coarse, torch.randn(2, (K - 1) * WIDTH, T, generator=g))
    assert codes.shape == (2, K, T) and torch.equal(codes[:, :1], coarse)
    assert codes.min() >= 0 and codes.max() < codec.codebook_size
    assert torch.equal(quantize(codec, coarse, codec.codes_to_latents(codes)[:, WIDTH:]), codes)


def test_latents_at_their_scale_have_mean_0_and_variance_1():
    g = torch.Generator().manual_seed(0)
    clips = [torch.randn(5, T, generator=g) * torch.arange(1, 6)[:, None] + 3 for T in (40, 7, 100)]
    scale = measure_scale(clips)
    found = scale.apply(torch.cat(clips, 1)[None])
    torch.testing.assert_close(found.mean(2), torch.zeros(1, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(2, correction=0), torch.ones(1, 5))
    torch.testing.assert_close(scale.undo(found[:, 2:], 2), torch.cat(clips, 1)[None, 2:])
    with pytest.raises(ValueError):
        Scale((0.0, 1.0), (1.0, 0.0))


@torch.no_grad()
def test_the_real_codes_come_back_from_a_denoiser_that_knows_them():
    """Normalising, windows, snapping and decoding leave nothing behind."""
    codec = make_codec()
    stage = make_stage(codec)
    codes = torch.randint(codec.codebook_size, (1, K, 60), generator=torch.Generator().manual_seed(5))
    fine = stage.scale.apply(codec.codes_to_latents(codes))[:, WIDTH:]

    class Knowing(torch.nn.Module):
        config = stage.sizes

        def __init__(self):
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(()))  # which tells the device

        def forward(self, noisy, coarse, time, text, mask):
            # Which frames these are is told by the coarse latent.
            known, T = stage.scale.apply(codec.codes_to_latents(codes))[0, :WIDTH], coarse.shape[-1]
            start = next(i for i in range(60) if torch.allclose(known[:, i : i + T], coarse[0], atol=1e-5))
            clean = fine[:, :, start : start + T]
            angle = time[0] * torch.pi / 2
            return (angle.cos() * noisy - clean) / angle.sin()  # v, given x

    knowing = FineStage(Knowing(), codec, stage.scale, dataclasses.replace(QUICK, guidance=1.0, steps=3))
    text = make_text(3, dtype=torch.float32)
    found = torch.cat([codes for codes, _ in knowing.refine(codes[:, :1].unbind(-1), text, text, [0])], -1)
    assert torch.equal(found, codes)


@torch.no_grad()
def test_a_temperature_is_of_the_odds():
    """Near 0 the likeliest codes are drawn, whatever the noise; a denoiser that tells v has no odds to change."""
    codec = make_codec()
    cold = FineSampling("ddim", 4, 1.0, 0.5, 0.1, temperature=1e-4)
    stage = make_stage(codec, prediction_type="codes", codebook_size=codec.codebook_size)
    text = make_text(3, dtype=torch.float32)
    coarse = torch.randint(codec.codebook_size, (1, 1, 9), generator=torch.Generator().manual_seed(5)).unbind(-1)

    def draw(seed, settings):
        return torch.cat([codes for codes, _ in stage.refine(coarse, text, text, [seed], settings)], -1)

    warm = dataclasses.replace(cold, temperature=1.0)
    assert not torch.equal(draw(0, warm), draw(1, warm))
    first = stage.velocity(1e-4)
    noisy, time = torch.randn(1, stage.sizes.fine, 9), torch.ones(1)
    latent = stage.scale.apply(codec.codes_to_latents(torch.stack([*coarse], -1)))
    found = -first(noisy, latent, time, *text)  # at time 1, v is the clean latent's negative
    table = code_table(codec, stage.scale)
    near = torch.cdist(found.unflatten(1, (K - 1, -1))[0].mT, table).min(2)
    assert near.values.max() < 1e-3
    told = stage.denoiser(noisy, latent, time, *text).unflatten(1, (K - 1, -1))[0]
    assert torch.equal(near.indices, told.argmax(1))
    with pytest.raises(UserError, match="no odds"):
        make_stage(codec).velocity(0.5)


def test_a_temperature_without_odds_is_refused_before_training():
    config = Path(__file__).parents[2] / "configs" / "fine-pocket-simba.yaml"
    assert load_run(config, ["sampling.temperature=0.7"]).sampling.temperature == 0.7
    with pytest.raises(UserError, match="no odds"):
        load_run(config, ["sampling.temperature=0.7", "model.prediction_type=v"])


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch():
    codec = make_codec()
    stage, text, empty = (
        make_stage(codec),
        make_text(3, 5, dtype=torch.float32),
        make_text(2, seed=1, dtype=torch.float32),
    )
    coarse = torch.randint(codec.codebook_size, (2, 1, 40), generator=torch.Generator().manual_seed(5))
    both = torch.cat([codes for codes, _ in stage.refine(coarse.unbind(-1), text, empty, [3, 4])], -1)
    row = text[0][1:], text[1][1:]
    alone = torch.cat([codes for codes, _ in stage.refine(coarse[1:].unbind(-1), row, empty, [4])], -1)
    assert torch.equal(both[1:], alone) and not torch.equal(both[0, 1:], both[1, 1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, prediction_type", [("unet", "v"), ("simba", "v"), ("unet", "codes"), ("simba", "codes")]
)
def test_training_resumes_bit_for_bit(stores, tmp_path, kind, prediction_type):
    straight = train(fine_run(stores, tmp_path / "straight", kind, prediction_type=prediction_type))
    train(fine_run(stores, tmp_path / "run", kind, {"steps": 2}, prediction_type))
    again = train(fine_run(stores, tmp_path / "run", kind, prediction_type=prediction_type))
    assert_same_checkpoint(again, straight)
    found, wanted = (log_of(tmp_path / name, "validation_ema")[-1] for name in ("run", "straight"))
    assert {k: v for k, v in found.items() if k != "time"} == {k: v for k, v in wanted.items() if k != "time"}
    assert min(found[name] for name in ("mel_coarse", "mel_fine", "loss")) > 0
    played = {p.stem.split("-")[1] for p in (tmp_path / "run" / "samples" / again.name).glob("*.wav")}
    assert played == {"coarse", "fine", "codec"}


@pytest.mark.slow
def test_the_share_of_a_gpus_peak_is_logged(stores, tmp_path, monkeypatch):
    monkeypatch.setattr("ostinato.training.throughput.peak_flops", lambda device: 1e9)
    run = fine_run(stores, tmp_path, train={"steps": 2}, text_dropout=0.0)
    train(run)
    text = max(load_text_encoder("minilm")([caption])[0].shape[1] for caption in CAPTIONS.values())
    for line in log_of(tmp_path):
        assert line["mfu"] * 1e9 / line["steps_per_second"] == pytest.approx(step_flops(run.model, 2, 50, text))


@pytest.mark.slow
def test_a_run_begins_with_a_fine_stage(stores, tmp_path):
    first = train(fine_run(stores, tmp_path / "first", train={"steps": 1}))
    config = tmp_path / "next.yaml"
    config.write_text(
        f"task: fine\ndata: {stores / 'codes'}\noutput: {tmp_path / 'next'}\nmodel: {{}}\nclip_seconds: 1\n"
        "sample_seconds: 0.6\nsampling: {steps: 2, window: 0.5, overlap: 0.1}\n"
        "train: {steps: 1, batch: 1, accumulation: 1, learning_rate: 1.0e-9, weight_decay: 0}\n"
    )
    run = load_run(config, [], {"init": str(first)})
    assert run.model == FineConfig("unet", codebook_size=POCKET.codebook_size, **SMALL)
    codec = make_codec()
    one, other = (load_fine(folder, codec) for folder in (first, train(run)))
    assert one.scale == other.scale
    for a, b in zip(one.denoiser.parameters(), other.denoiser.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    strange = f"data={strange_store(stores, tmp_path)}"
    with pytest.raises(UserError, match="prepare one with that"):
        train(load_run(config, [strange], {"init": str(first)}))
    over = [strange, f"codec={tmp_path / 'other'}", f"output={tmp_path / 'over'}"]
    other = load_fine(train(load_run(config, over, {"init": str(first)})), load_codec(tmp_path / "other"))
    assert one.scale != other.scale  # measured on the codes that it goes over to
    torch.testing.assert_close(*(next(stage.denoiser.parameters()) for stage in (one, other)), atol=1e-6, rtol=0)
    named = ["model.multiples=[1, 2]"]
    assert load_run(config, named, {"init": str(first)}).model == run.model
    with pytest.raises(UserError, match="fine stage"):
        load_run(config, [], {"init": str(train(lm_run(stores, tmp_path / "lm", train={"steps": 1})))})


@pytest.mark.parametrize("kind", ["unet", "simba"])
@torch.no_grad()
def test_a_grown_stage_knows_what_it_knew(tmp_path, kind):
    """`recipes/pocket/2_grow.py`: the odds of the codes that were there stay, whatever the new latents are."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "pocket"))
    grow_fine = importlib.import_module("2_grow").grow_fine
    sizes = FineConfig(kind, "codes", **SMALL | {"text_width": 12, "codebook_size": 16})
    torch.manual_seed(0)
    denoiser = make_denoiser(sizes).eval()
    for p in denoiser.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    scale = Scale((0.0,) * K * WIDTH, (1.0,) * K * WIDTH)
    save_fine(tmp_path / "few", sizes, scale, {"text": "t", "codec": "c"}, denoiser.state_dict())
    grow_fine(tmp_path / "few", tmp_path / "more", K + 2)
    grown, _, _, _ = fine_folder(tmp_path / "more")
    more = load_module(tmp_path / "more", lambda: make_denoiser(grown), 9)
    text = torch.randn(2, 5, 12), torch.ones(2, 5, dtype=torch.bool)
    noisy, coarse, time = torch.randn(2, grown.fine, 20), torch.randn(2, grown.coarse, 20), torch.rand(2)
    found, wanted = more(noisy, coarse, time, *text), denoiser(noisy[:, : sizes.fine], coarse, time, *text)
    torch.testing.assert_close(found[:, : sizes.outputs], wanted)
    assert not found[:, sizes.outputs :].any() and wanted.std() > 0.01
