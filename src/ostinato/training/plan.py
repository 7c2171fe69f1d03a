"""What a training run will cost, before anything runs: FLOPs, memory, hours. `ostinato train CONFIG --plan`."""

import random
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple, cast

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from ostinato.codecs.load import load_codec
from ostinato.data.prepare import open_store
from ostinato.data.store import Store
from ostinato.models.denoisers import FineConfig, make_denoiser
from ostinato.models.lm import LMConfig, MusicLM, count_parameters
from ostinato.models.patterns import make_pattern
from ostinato.models.text_encoder import Tokens, load_text_encoder, minilm_folder
from ostinato.training.config import FineRun, LMRun, Run
from ostinato.training.flops import flops
from ostinato.training.gpus import GPUS, find_gpu, peak_flops, timed_flops
from ostinato.training.memory import OUTSIDE, Live, activations, sublayers
from ostinato.training.probe import measured_rates
from ostinato.utils.errors import UserError, nearest
from ostinato.utils.hub import fetch


def parameters(config: LMConfig | FineConfig) -> dict[str, int]:
    """Trainable numbers, by kind of sub-layer; nothing is allocated."""
    with torch.device("meta"):
        model = MusicLM(config) if isinstance(config, LMConfig) else make_denoiser(config)
    if isinstance(model, MusicLM):
        rest = "projection of the text, last norm"
        parts = {"embeddings": count_parameters(model.embedding), "heads": count_parameters(model.lm_head)}
    else:
        rest, parts = OUTSIDE, {}
    for kind, layer in sublayers(model):
        parts[kind] = parts.get(kind, 0) + count_parameters(layer)
    return parts | {rest: count_parameters(model) - sum(parts.values())}


def encoder_cost(name: str, text: int) -> tuple[int, int]:
    """Parameters of a text encoder, and FLOPs of reading one text of `text` tokens. Raises what `fetch` raises."""
    from transformers import AutoConfig, BertModel, T5Config, T5EncoderModel

    if name == "google/flan-t5-base":  # its sizes, so that nothing has to be fetched
        width: dict[str, Any] = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "vocab_size": 32128}
        settings: Any = T5Config(num_layers=12, num_heads=12, feed_forward_proj="gated-gelu", **width)
    else:
        settings = fetch(AutoConfig.from_pretrained, minilm_folder() if name == "minilm" else name)
    settings._attn_implementation = "eager"  # products the counter sees
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = (
            T5EncoderModel(settings) if settings.model_type == "t5" else BertModel(settings, add_pooling_layer=False)
        )
        model(input_ids=torch.zeros(1, text, dtype=torch.long))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def dac() -> Any:
    """DAC at 44.1 kHz, of random weights."""
    from transformers import DacConfig, DacModel

    sizes: dict[str, Any] = {"downsampling_ratios": [2, 4, 8, 8], "n_codebooks": 9}  # else the defaults
    return DacModel(DacConfig(**sizes))


def codec_parameters(name: str) -> int:
    """Parameters of a codec, encoder and decoder; dac's without fetching it. Raises UserError as `load_codec` does."""
    if name == "dac":
        with torch.device("meta"):
            codec: Any = dac()
    else:
        codec = load_codec(name)
    return sum(p.numel() for p in codec.parameters())


MFU = (0.2, 0.4)  # of the peak of a GPU that is not here: assumed. 0.4 is an aim, which well-kept kernels reach
PAPER_HOURS, PREPARING = 457.45, 1e13  # of audio; FLOP/s
PAPER_CLIPS = 54_894  # of 30 s, each with a caption
TEXT = 64  # tokens that a caption is taken to have
RATES = {"dac": 44100 / 512, "pocket": 50.0, "encodec": 50.0}  # frames a second


class Device(NamedTuple):
    """What a run is planned for."""

    name: str
    rate: float  # FLOP/s at best
    source: str  # of the rate
    memory: float | None  # bytes, None for a CPU
    bf16: bool
    here: bool  # so that it can be measured


def pick_device(gpu: str | None, precision: str) -> Device:
    """The GPU named, or the one at hand, or this CPU. Raises UserError for a name that `GPUS` does not have."""
    bf16 = precision != "fp32"
    if gpu:
        name = find_gpu(gpu)
        if name is None:
            raise UserError(f"--gpu {gpu!r} is not in the table; {nearest(gpu, list(GPUS))}")
        return Device(name, GPUS[name].tflops * 1e12, "its peak, dense bf16", GPUS[name].memory * 2**30, bf16, False)
    if torch.cuda.is_available():
        device = torch.device("cuda")
        name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
        peak = peak_flops(device)
        if peak:
            return Device(name, peak, "its peak, dense bf16", memory, bf16, True)
        return Device(name, timed_flops(device, torch.bfloat16), "measured now, bf16 products", memory, bf16, True)
    bf16 = precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    measured = timed_flops(torch.device("cpu"), dtype)
    source = f"measured now: {'bf16' if bf16 else 'float32'} products on {torch.get_num_threads()} threads"
    return Device("this CPU", measured, source, None, bf16, True)


class Workload(NamedTuple):
    """What a training pass is over."""

    frames: int  # of a clip
    steps: int  # of the pattern; without one, frames
    text: int  # tokens of the longest caption of a batch
    read: bool  # whether `text` is the mean over captions of the store, and not assumed
    rate: float  # frames a second
    codec: str
    store: Store | None


def workload(run: LMRun | FineRun) -> Workload:
    """Sizes of a run's batches: read off its store, or, where there is none yet, those of its codec, or of DAC."""
    store = open_store(run.data) if (Path(run.data) / "store.json").is_file() else None
    codec = run.codec or (store.info["codec"] if store else "dac")
    rate = store.info["frame_rate"] if store else RATES.get(codec) or load_codec(codec).frame_rate
    frames = max(2, round(run.clip_seconds * rate))
    pattern = make_pattern(run.model.pattern, run.model.num_codebooks) if isinstance(run, LMRun) else None
    steps = pattern.length(frames) if pattern else frames
    read = store is not None and len(store) > 0 and (run.text == "minilm" or Path(run.text).is_dir())
    text = longest_captions(store, run.text, run.train.batch) if store and read else TEXT
    return Workload(frames, steps, text, read, rate, codec, store)


def longest_captions(store: Store, encoder: str, batch: int) -> int:
    """Tokens of the longest caption of a batch, the mean over 50 batches drawn at random."""
    draw, tokens = random.Random(0), cast(Tokens, load_text_encoder(encoder)).token_ids
    captions = [draw.choice(store.captions(draw.randrange(len(store))) or [""]) for _ in range(50 * batch)]
    lengths = [len(row) for row in tokens(captions)]
    return round(mean(max(lengths[i : i + batch]) for i in range(0, len(lengths), batch)))


Row = tuple[str, str, str]  # of the table: what, how much, of what kind


def plan(run: Run, gpu: str | None = None, mfu: float | None = None) -> Table:
    """The table of `train --plan`. Needs no data.

    gpu: a name in `GPUS`, by default the device at hand. mfu: the share of its rate that training is taken to reach,
    by default what ten seconds of one block measure here (`probe`), or `MFU` for a GPU that is not here.
    Raises UserError for a codec's run, an unknown GPU, an mfu out of range, and for a store, text encoder or codec that
    is damaged or not available.
    """
    if not isinstance(run, LMRun | FineRun):
        raise UserError(f"--plan is for language models and fine stages, and {run.output} is a run of task {run.task}")
    if mfu is not None and not 0 < mfu <= 1:
        raise UserError(f"--mfu must be above 0 and at most 1, got {mfu:g}")
    device, work = pick_device(gpu, run.train.precision), workload(run)
    table = Table(title=f"{run.output}, before it runs", show_header=False, title_justify="left")
    sections = sizes(run), amounts(run, work), efforts(run, work, device, mfu), memory(run, work, device)
    for rows in sections:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    return table


def sizes(run: LMRun | FineRun) -> list[Row]:
    """The model, and its parameters by part."""
    counts = parameters(run.model)
    told = ", ".join(f"{name} {millions(n)}" for name, n in counts.items())
    if isinstance(run, LMRun):
        c = run.model
        model = f"{c.variant} x {c.blocks}", f"width {c.width}; codebooks: {c.num_codebooks}, {c.pattern}"
    else:
        f = run.model
        levels = f" x {', '.join(map(str, f.multiples))}" if f.denoiser == "unet" else ""
        model = f"{f.denoiser} x {f.blocks}", f"width {f.width}{levels}; codebooks: 2 to {f.num_codebooks}"
    return [("model", *model), ("parameters", millions(sum(counts.values())), told)]


def clips_heard(run: LMRun | FineRun) -> int:
    """Clips that one process trains on, those of every step counted."""
    return run.train.batch * run.train.accumulation * run.train.steps


def amounts(run: LMRun | FineRun, work: Workload) -> list[Row]:
    """What is trained on."""
    hyper, clips = run.train, clips_heard(run)
    steps, tokens = ("steps", "tokens") if isinstance(run, LMRun) else ("frames", "frames")
    of_clip = f"{run.clip_seconds:g} s at {work.rate:.2f} frames/s; {work.text} tokens of text"
    heard = clips * run.clip_seconds / 3600
    if work.store:
        train, _ = work.store.sides(hyper.all_data)
        held, epochs = sum(train.table["seconds"].to_pylist()) / 3600, clips / max(1, len(train))
        data = f"{len(train):,} clips", f"{run.data}: {held:.2f} h to train on, {epochs:,.1f} times over"
    else:
        data = "none yet", f"{run.data} is to be prepared; frames are taken to be those of {work.codec}"
    return [
        ("a clip", f"{work.steps:,} {steps}", of_clip if work.read else f"{of_clip} assumed"),
        (
            "a step",
            f"{hyper.batch * hyper.accumulation:,} clips",
            f"{hyper.batch} at once, {hyper.accumulation} times, in one process",
        ),
        (
            "all steps",
            f"{hyper.steps:,}",
            f"{clips:,} clips, {heard:,.1f} h of audio, {clips * work.steps:.4g} {tokens}",
        ),
        ("data", *data),
    ]


def efforts(run: LMRun | FineRun, work: Workload, device: Device, mfu: float | None) -> list[Row]:
    """FLOPs, and the time they take."""
    clips, passes = clips_heard(run), run.train.accumulation * run.train.steps
    of_pass = flops(run.model, run.train.batch, work.frames, work.text)
    parts = {name: passes * count for name, count in of_pass.items()}
    total, paper = sum(parts.values()), 6 * sum(parameters(run.model).values()) * clips * work.steps
    tokens = "tokens" if isinstance(run, LMRun) else "frames"
    captions = distinct_captions(work, clips)
    reading = captions * encoder_cost(run.text, work.text)[1]
    again = sum(parts.values()) // 3 if run.train.checkpointing else 0  # the forward pass of every sub-layer and head
    return [
        ("FLOPs, as 6 N D", f"{paper:.4g}", f"6 x parameters x {tokens}, as the paper counts"),
        ("FLOPs, counted", f"{total:.4g}", f"{total / paper:.2f} x 6 N D"),
        *((f"  {name}", f"{count:.3g}", f"{count / total:.1%}") for name, count in parts.items()),
        ("FLOPs computed twice", f"{again:.3g}", "by train.checkpointing" if again else ""),
        ("FLOPs of the text encoder", f"{reading:.3g}", text_told(run, work, captions)),
        *preparing(work),
        hours(run, work, device, mfu, total, again, reading),
    ]


def preparing(work: Workload) -> list[Row]:
    """Hours to encode the paper's data on one GPU, and the memory of a clip of 30 s, where there is no store yet."""
    if work.store or work.codec != "dac":
        return []
    with torch.device("meta"), torch.no_grad():
        codec = dac()
        with FlopCounterMode(display=False) as counter:
            codec.encode(torch.zeros(1, 1, 44100))
        with Live() as live:
            codec.encode(torch.zeros(1, 1, 30 * 44100))
    count = counter.get_total_flops() * 3600 * PAPER_HOURS
    of = f"{count:.3g} FLOPs of DAC's encoder for the paper's {PAPER_HOURS:g} h"
    told = f"{of}, worked out at {PREPARING / 1e12:g} TFLOP/s in float32, assumed; reading files not counted"
    return [
        ("preparing", duration(count / PREPARING), told),
        ("  a clip of its batch", gib(live.peak), "ostinato prepare --batch, 30 s; --workers for several GPUs"),
    ]


def distinct_captions(work: Workload, clips: int) -> int:
    """Captions of the store, or, without one, as many as the paper has clips."""
    if work.store is None:
        return min(clips, PAPER_CLIPS)
    return len({caption for several in work.store.table["captions"].to_pylist() for caption in several or ()})


def text_told(run: LMRun | FineRun, work: Workload, captions: int) -> str:
    """How often captions are read: `CachedTextEncoder` keeps all that fit."""
    size = 2 * captions * work.text * run.model.text_width / 1e9
    of = f"{captions:,} captions{'' if work.store else ', as in the paper'}, {size:.1f} GB of memory in 16 bit"
    if size <= run.train.text_cache:
        return f"{of}: each is read once in a session"
    return f"{of}: more than train.text_cache ({run.train.text_cache:g} GB), and those above it are read every time"


def hours(
    run: LMRun | FineRun, work: Workload, device: Device, mfu: float | None, total: int, again: int, reading: int
) -> Row:
    """The time of a run, a range: at the rates measured here, or, for another GPU, at `MFU` of its peak. What is
    computed twice and the captions are in it; loading data, validation and checkpoints are not."""
    rates = [] if mfu or not device.here else measured_rates(run, work.frames, work.text, device.bf16)
    if rates:
        slow, fast = rates[0], rates[-1]
        seconds = [(total + reading) / rate for rate in (fast, slow)]  # measured with what is computed twice
        found = f"{len(rates)} passes of one block measured now: {slow / 1e12:.3g} to {fast / 1e12:.3g} TFLOP/s"
    else:
        shares = (mfu, mfu) if mfu else MFU
        seconds = [(total + again + reading) / (device.rate * share) for share in reversed(shares)]
        told = f"{mfu:.0%} of it, as asked" if mfu else f"{MFU[0]:.0%} to {MFU[1]:.0%} of it assumed, not measured"
        found = f"{device.rate / 1e12:.4g} TFLOP/s ({device.source}), {told}"
    short, long = (duration(s) for s in seconds)
    return "time", short if short == long else f"{short} to {long}", f"{device.name}: {found}"


def duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds > 3600 else f"{seconds / 60:.1f} min"


def memory(run: LMRun | FineRun, work: Workload, device: Device) -> list[Row]:
    """What the device holds, by part, and whether it can."""
    hyper, N = run.train, sum(parameters(run.model).values())
    moments = "AdamW's two moments" if hyper.optimizer == "adamw" else "moments, at most: Muon keeps one"
    always = {"weights": 4 * N, "gradients": 4 * N, moments: 8 * N}
    if hyper.ema and not hyper.ema_offload:
        always["averaged weights"] = 4 * N
    always[f"text encoder, {run.text}"] = 4 * encoder_cost(run.text, work.text)[0]
    always[f"codec, {work.codec}"] = 4 * codec_parameters(work.codec)
    passes = {
        again: activations(run.model, hyper.batch, work.frames, work.text, device.bf16, again)
        for again in (False, True)
    }
    kept, peak = passes[hyper.checkpointing]
    rows = [(name, gib(size), "float32") for name, size in always.items()]
    rows += [(f"kept: {name}", gib(size), "for the backward pass") for name, size in kept.items()]
    rows += [("the widest moment", gib(peak - sum(kept.values())), "of the backward pass, on top of what is kept")]
    for again, (_, most) in passes.items():
        size, told = most + sum(always.values()), f"train.checkpointing: {str(again).lower()}"
        mine = " (this run)" if again == hyper.checkpointing else ""
        rows += [(f"in all{mine}", gib(size), ", ".join(filter(None, [told, fits(size, device)])))]
    if isinstance(run, LMRun) and run.lora:
        less = "not counted: only they have gradients and moments, so it takes less"
        rows += [("adapters", f"rank {run.lora}", less)]
    return rows


def fits(size: float, device: Device) -> str:
    if device.memory is None:
        return ""
    verdict = "fits in" if size < device.memory else "does not fit in"
    return f"{verdict} {device.name}'s {gib(device.memory)} (driver and fragments not counted)"


def millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
