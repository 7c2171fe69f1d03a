"""How much music a second the language models make at once on the device at hand, in batches.

    python benchmarks/batches.py                                   # the paper's sizes, batches of 1 and 64 (a GPU)
    python benchmarks/batches.py --size small --batches 1,4 --seconds 1 --models prefix-simba     # a CPU

Weights are random and in `--dtype`; each clip has two branches, for guidance. ours: `generate_frames` as it is, with a
CUDA graph where the state allows one. eager: the same without the graph. again: as the authors' released code, the
whole sequence once more for every frame, timed at five lengths up to `--seconds` and averaged. musicgen-small:
transformers' decoder of that configuration with its cache. ms: of a frame, all rows together; music: seconds of it made
in a second, all rows together; peak: CUDA's allocator, weights counted.
"""

import argparse
import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from generate import BASELINE, MODELS
from machine import machine
from torch import Tensor, nn

from ostinato.generation import sampling
from ostinato.generation.guidance import guide
from ostinato.generation.sampling import Sampling, begin, generate_frames
from ostinato.models.lm import VARIANTS, LMConfig, MusicLM

TEXT = 24
WAYS = ("ours", "eager", "again")


def wait(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(device: str, run: Callable[[], object]) -> float:
    began = wait(device)
    run()
    return wait(device) - began


@torch.no_grad()
def ours(lm: MusicLM, way: str, rows: int, frames: int, device: str) -> float:
    """Seconds of a frame of all rows."""
    text = torch.randn(rows, TEXT, lm.config.text_width, device=device, dtype=lm.condition_linear.weight.dtype)
    mask = torch.ones(rows, TEXT, dtype=torch.bool, device=device)
    K = lm.config.num_codebooks
    if way == "again":
        both, found = (text.repeat(2, 1, 1), mask.repeat(2, 1)), []
        for length in (max(1, frames * share // 5) for share in range(1, 6)):
            steps = torch.randint(lm.special, (2 * rows, K, length), device=device)
            lm(steps, *both)
            found.append(timed(device, lambda steps=steps: guide(lm(steps, *both)[:, :, -1], 3.0)))
        return sum(found) / len(found)
    kept = sampling.graphed
    if way == "eager":
        sampling.graphed = lambda step, *_: step
    try:
        generation = begin(lm, (text, mask), (text[:1, :1], mask[:1, :1]), Sampling(), list(range(rows)))
        stream = generate_frames(lm, generation)
        next(stream)
        return timed(device, lambda: list(islice(stream, frames))) / frames
    finally:
        sampling.graphed = kept


@torch.no_grad()
def musicgen(rows: int, frames: int, device: str, dtype: torch.dtype) -> float:
    from transformers import DynamicCache, EncoderDecoderCache, MusicgenDecoderConfig, MusicgenForCausalLM

    config = MusicgenDecoderConfig(attn_implementation="sdpa")
    model, project = MusicgenForCausalLM(config).eval(), nn.Linear(768, config.hidden_size)
    model, project = model.to(device, dtype), project.to(device, dtype)
    cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
    text = project(torch.randn(2 * rows, TEXT, 768, device=device, dtype=dtype))
    mask = torch.ones(2 * rows, TEXT, dtype=torch.long, device=device)
    generators = [torch.Generator(device).manual_seed(i) for i in range(rows)]
    codes = torch.zeros(rows, config.num_codebooks, 1, dtype=torch.long, device=device)

    def frame(codes: Tensor) -> Tensor:
        ids = codes.repeat(2, 1, 1).flatten(0, 1)
        out = model(ids, past_key_values=cache, encoder_hidden_states=text, encoder_attention_mask=mask)
        logits = guide(out.logits[:, -1].view(2 * rows, config.num_codebooks, -1), 3.0)
        return sampling.sample(logits, Sampling(3.0, 1.0, 250), generators).unsqueeze(-1)

    def all_frames() -> None:
        current = codes
        for _ in range(frames):
            current = frame(current)

    frame(codes)
    return timed(device, all_frames) / frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="paper", choices=["paper", "small"])
    parser.add_argument("--models", help="some of the variants, and musicgen-small (default: all)")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--dtype", default="", help="default: bfloat16 on a GPU, float32 else")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype or ("bfloat16" if device == "cuda" else "float32"))
    names = args.models.split(",") if args.models else [*VARIANTS, "musicgen-small"]
    card = torch.cuda.get_device_name() if device == "cuda" else machine()
    print(
        f"{card}, {dtype}, {vars(args)}\n\n| model | way | rows | ms | music | peak GB |\n{'| --- ' * 6}|", flush=True
    )
    rows = []
    for name in names:
        rate, settings = MODELS[BASELINE if name == "musicgen-small" else f"{args.size}/{name}"]
        frames = max(2, round(args.seconds * rate))
        lm = None if name == "musicgen-small" else MusicLM(LMConfig(**settings)).eval().to(device, dtype)
        for way in ("ours",) if lm is None else WAYS if device == "cuda" else ("ours", "again"):
            for count in map(int, args.batches.split(",")):
                row = {"model": name, "way": way, "rows": count}
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                try:
                    spent = ours(lm, way, count, frames, device) if lm else musicgen(count, frames, device, dtype)
                except torch.cuda.OutOfMemoryError as error:
                    print(f"| {name} | {way} | {count} | out of memory | - | - |", flush=True)
                    rows.append(row | {"failed": str(error).splitlines()[0]})
                    continue
                peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
                row |= {"ms": 1000 * spent, "music": count / rate / spent, "peak": peak}
                rows.append(row)
                shown = f"{peak / 1e9:.2f}" if peak else "-"
                print(f"| {name} | {way} | {count} | {row['ms']:.2f} | {row['music']:.1f} | {shown} |", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": card, "dtype": str(dtype), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
