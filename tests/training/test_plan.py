import dataclasses
import io
import json
import re
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from runs import lm_run
from test_denoisers import SMALL
from test_fine import fine_run
from tiny import PATTERNS, make_lm, make_text
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from ostinato.cli import app
from ostinato.data.prepare import open_store
from ostinato.models.attention import CrossAttention, SelfAttention
from ostinato.models.denoisers import FineConfig
from ostinato.models.lm import VARIANTS, LMConfig, count_parameters
from ostinato.training import probe
from ostinato.training.config import load_run
from ostinato.training.flops import flops, step_flops
from ostinato.training.gpus import GPUS, find_gpu
from ostinato.training.lm_task import make_batch
from ostinato.training.memory import OUTSIDE, activations, fine_loss, lm_loss
from ostinato.training.plan import codec_parameters, encoder_cost, parameters, plan
from ostinato.utils.errors import UserError

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"
PAPER = {  # trainable parameters in millions, printed in the paper (but for 6 blocks, see recipes/paper/README.md)
    "prefix-mamba": 357,
    "prefix-simba": 281,
    "cross-simba": 381,
    "cross-transformer": 306,
    "prefix-simba-n12": 141,
    "prefix-simba-n6": 72.4,
    "prefix-simba-9": 300,
    "prefix-simba-9-flatten": 300,
}


def training_pass(lm, batch, frames, text):
    codes = [(torch.randint(lm.special, (lm.config.num_codebooks, frames)), "") for _ in range(batch)]
    inputs, targets, _ = make_batch(codes, lm.pattern, lm.special)
    embedded, mask = make_text(*[text] * batch, dtype=torch.float32)
    lm(inputs, embedded, mask, targets).mean().backward()


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=20)
@given(
    pattern=st.sampled_from(PATTERNS),
    batch=st.integers(1, 3),
    frames=st.integers(9, 40),
    text=st.integers(1, 6),
    blocks=st.integers(1, 3),
    chunk=st.integers(2, 8),
)
def test_flops_are_what_pytorch_counts(variant, pattern, batch, frames, text, blocks, chunk):
    """Its counter sees every product of matrices, forward and backward. It does not see the convolution, which is
    shifted products here, and sees the pairs above the diagonal, which PyTorch's plain attention computes and masks."""
    lm = make_lm(variant, *pattern, dtype=torch.float32, blocks=blocks, chunk=chunk).train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        training_pass(lm, batch, frames, text)
    parts = flops(lm.config, batch, frames, text)
    assert step_flops(lm.config, batch, frames, text) == sum(parts.values())
    convolution, S = parts.get("mamba: convolution", 0), lm.pattern.length(frames)
    masked = 3 * batch * blocks * 4 * lm.config.width * S * (S - 1) // 2 if "transformer" in variant else 0
    assert counter.get_total_flops() == sum(parts.values()) - convolution + masked


@settings(max_examples=20)
@given(
    kind=st.sampled_from(["unet", "simba"]),
    prediction_type=st.sampled_from(["v", "codes"]),
    multiples=st.sampled_from([(1,), (1, 2), (2, 1, 3)]),
    batch=st.integers(1, 3),
    frames=st.integers(5, 40),
    text=st.integers(1, 6),
    blocks=st.integers(1, 3),
)
def test_flops_of_a_fine_stage_are_what_pytorch_counts(kind, prediction_type, multiples, batch, frames, text, blocks):
    config = FineConfig(kind, prediction_type, codebook_size=9, **SMALL | {"multiples": multiples, "blocks": blocks})
    assert counted(config, batch, frames, text) == step_flops(config, batch, frames, text) - flops(
        config, batch, frames, text
    ).get("mamba: convolution", 0)


def counted(config, batch, frames, text):
    """FLOPs of a fine stage's pass, forward and backward, as PyTorch counts them without computing it."""
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        fine_loss(config, batch, frames, text, bf16=False)[1]().backward()
    return counter.get_total_flops()


def kept_and_peak(model, loss):
    """What `memory.traced` foretells, measured: bytes that autograd saves, and the peak that PyTorch's profiler reads
    off the allocator."""
    model.train()
    for module in model.modules():
        if isinstance(module, SelfAttention | CrossAttention):
            module.dropout = 0.0
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    own, saved = {p.data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = loss()
    kept = sum(tensor.untyped_storage().nbytes() for address, tensor in saved.items() if address not in own)
    saved.clear()
    del held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss().backward()
    changes = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return kept, max(accumulate(e.nbytes() for e in sorted(changes, key=lambda e: e.start_ns())))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_foretold_is_memory_taken(variant, bf16):
    sizes = {"text_width": 12, "width": 64, "feed_forward": 128, "state": 64, "head_width": 16, "heads": 4, "chunk": 32}
    config = LMConfig(variant, 3, "delay", codebook_size=127, blocks=3, **sizes)
    kept, peak = activations(config, 2, 200, 7, bf16, checkpointing=False)
    measured_kept, measured_peak = kept_and_peak(*lm_loss(config, 2, 200, 7, bf16))
    assert sum(kept.values()) == measured_kept
    # Fake tensors keep some of what real operators free within themselves: never too little, and not much too much.
    assert measured_peak <= peak <= 1.1 * measured_peak
    checkpointed, lower = activations(config, 2, 200, 7, bf16, checkpointing=True)
    assert lower < peak
    # Only their inputs, float32, and once the mask of the text.
    inputs = len(VARIANTS[variant].sublayers) * 3 * 2 * (202 + 7 * variant.startswith("prefix")) * 64 * 4
    assert set(checkpointed) == {OUTSIDE}
    assert inputs <= checkpointed[OUTSIDE] <= kept[OUTSIDE] + inputs + 2 * 209


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind, prediction_type", [("unet", "v"), ("simba", "v"), ("unet", "codes")])
def test_memory_foretold_of_a_fine_stage_is_memory_taken(kind, prediction_type, bf16):
    sizes = {"text_width": 12, "width": 64, "feed_forward": 128, "state": 64, "head_width": 16, "heads": 4, "chunk": 32}
    config = FineConfig(kind, prediction_type, 3, codebook_size=9, multiples=(1, 2, 2), blocks=3, **sizes)
    kept, peak = activations(config, 2, 200, 7, bf16, checkpointing=False)
    measured_kept, measured_peak = kept_and_peak(*fine_loss(config, 2, 200, 7, bf16))
    assert sum(kept.values()) == measured_kept
    if (kind, bf16) != ("unet", True):  # a CPU's own convolutions in bfloat16 reach another peak
        assert measured_peak <= peak <= 1.1 * measured_peak
    checkpointed, lower = activations(config, 2, 200, 7, bf16, checkpointing=True)
    assert lower < peak and set(checkpointed) == {OUTSIDE} and checkpointed[OUTSIDE] < sum(kept.values()) / 2


def printed(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_configs_plan(name):
    """Every one at its full size, without allocating it; clips of a second, to be quick."""
    run = load_run(CONFIGS / f"{name}.yaml")
    assert sum(parameters(run.model).values()) == pytest.approx(1e6 * PAPER[name], rel=0.01)
    shown = printed(plan(dataclasses.replace(run, clip_seconds=1.0), "RTX 3090"))
    K, pattern = run.model.num_codebooks, run.model.pattern
    steps = {"single": 86, "delay": 86 + K - 1, "flatten": 86 * K}[pattern]
    assert f"{steps} steps" in shown
    for word in ("RTX 3090", "none yet", "6 N D", "train.checkpointing: true", "fits in"):
        assert word in shown


def total(shown, which="this run"):
    """GiB of a run in all; "false": without checkpointing."""
    row = {"this run": r"in all \(this run\)", "false": r"in all"}[which]
    return float(re.search(row + r" +│ +([0-9.]+) GiB +│ train.checkpointing", shown)[1])


def test_the_papers_fine_stage_plans():
    """On a card of 24 GB."""
    run = load_run(CONFIGS / "fine-unet-24gb.yaml")
    shown = printed(plan(run, "RTX 3090"))
    for word in ("1227", "2,584 frames", "linear attention", "x 6 N D", "(this run)", "fits in RTX 3090's"):
        assert word in shown
    assert total(shown) * 2**30 < 24e9 and "averaged weights" not in shown
    assert counted(run.model, 2, 2584, 64) == step_flops(run.model, 2, 2584, 64)


@pytest.mark.parametrize("name", ["fine-unet", "prefix-simba-9-flatten"])
def test_variants_for_24_gb_train_the_same(name):
    small, large = (load_run(CONFIGS / f"{name}{end}.yaml") for end in ("-24gb", ""))
    of_step = [run.train.batch * run.train.accumulation for run in (small, large)]
    assert of_step[0] == of_step[1] and small.train.batch < large.train.batch
    own = {"batch": large.train.batch, "accumulation": large.train.accumulation, "ema_offload": False}
    assert dataclasses.replace(small, output=large.output, train=dataclasses.replace(small.train, **own)) == large


def test_flattening_fits_into_24_gb():
    """Nine steps a frame, a clip at once: weights, gradients, moments, text encoder and codec, and the pass."""
    run = load_run(CONFIGS / "prefix-simba-9-flatten-24gb.yaml")
    assert run.train.checkpointing and run.train.batch == 1
    always = 16 * sum(parameters(run.model).values()) + 4 * (encoder_cost(run.text, 64)[0] + codec_parameters("dac"))
    assert always + activations(run.model, 1, 2584, 64, True, checkpointing=True)[1] < 24e9


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_by_part_are_all(variant):
    lm = make_lm(variant, 3, "delay")
    assert sum(parameters(lm.config).values()) == count_parameters(lm)


def test_the_paper_size_fits_into_22_gb():
    run = load_run(CONFIGS / "prefix-simba.yaml")
    shown = printed(plan(run, "RTX 3090"))
    assert total(shown) * 2**30 < 22e9
    assert "1.23 x 6 N D" in shown
    assert "does not fit in RTX 3090's 24.00 GiB" in shown  # without checkpointing
    assert total(shown, "false") < 60  # nothing computed twice: for cards of 80 GB


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("4090", "RTX 4090"),
        ("rtx 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("Tesla T4", None),
        ("", None),
    ],
)
def test_names_of_gpus(name, entry):
    assert find_gpu(name) == entry
    assert all(find_gpu(key) == key for key in GPUS)


@pytest.fixture(autouse=True)
def short_probe(monkeypatch):
    monkeypatch.setattr(probe, "SECONDS", 0.05)


def test_hours_count_what_is_computed_twice_and_captions_once(monkeypatch):
    """At a fifth to two fifths of a peak; a third more with checkpointing; each caption is read once if all fit."""

    def spent(*settings):
        run = load_run(CONFIGS / "prefix-simba.yaml", settings)
        shown = printed(plan(run, "RTX 3090"))
        short, long = re.search(r"time +│ +([0-9.,]+) h to ([0-9.,]+) h", shown).groups()
        return float(short.replace(",", "")), float(long.replace(",", "")), shown

    short, long, shown = spent()
    assert long == pytest.approx(2 * short, rel=1e-3) and "assumed, not measured" in shown
    assert short == pytest.approx(6.87e19 * 4 / 3 / (0.4 * 71.2e12) / 3600, rel=0.01)
    assert "54,894 captions, as in the paper, 5.4 GB" in shown and "read once in a session" in shown
    assert spent("train.checkpointing=false")[0] == pytest.approx(short * 3 / 4, rel=0.01)
    count, rest = re.search(r"preparing +│ +([0-9.]+) h +│ +([0-9.e+]+) FLOPs of DAC", shown).groups()
    assert float(count) == pytest.approx(float(rest) / 1e13 / 3600, rel=0.05) and "worked out at" in shown
    assert "read every time" in spent("train.text_cache=2")[2]


def test_hours_here_are_measured(stores, tmp_path, monkeypatch):
    run = lm_run(stores, tmp_path / "run")
    monkeypatch.setattr("ostinato.training.plan.measured_rates", lambda *_: [1e9, 4e9])
    assert "2 passes of one block measured now: 0.001 to 0.004 TFLOP/s" in printed(plan(run))
    rates = probe.measured_rates(run, 100, 8, False)
    assert rates == sorted(rates) and 1e6 < rates[0] < 1e13


def test_plans_that_cannot_be():
    run = load_run(CONFIGS / "prefix-simba.yaml")
    for arguments, word in ((("RTX 409",), "RTX 4090"), (("H100", 0.0), "--mfu"), (("H100", 1.5), "--mfu")):
        with pytest.raises(UserError, match=word):
            plan(run, *arguments)
    with pytest.raises(UserError, match="language models"):
        plan(load_run(CONFIGS / "codec-pocket.yaml"))


@pytest.mark.parametrize("make", [lm_run, fine_run])
def test_from_the_command_line_on_a_store(stores, tmp_path, monkeypatch, make):
    """Prints and does nothing else; the captions and clips are those of the store."""
    run = make(stores, tmp_path / "run")
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(dataclasses.asdict(run)))
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["train", str(config), "--plan"])
    assert result.exit_code == 0, result.output
    store = open_store(run.data).split("train")
    for word in (f"{len(store)} clips", "tokens of text ", "6 N D", "this CPU", "measured now"):
        assert word in result.output
    assert not Path(run.output).exists()
