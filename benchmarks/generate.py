"""How fast the language models generate on this CPU, and in how much memory, beside MusicGen-small of transformers.

    python benchmarks/generate.py                 # the four models at the paper's size and at a small one
    python benchmarks/generate.py --dtype float32,bfloat16 --json generate.json --markdown

One clip is generated, with guidance (both branches in one batch of 2), frame by frame, by `sampling.generate_frames`.
Weights are random and the text is 24 random vectors of width 768; text encoder and codec are left out on every side.
The baseline is `MusicgenForCausalLM` at its default configuration, which is MusicGen-small's (24 layers, width 1024,
16 heads, 4 codebooks by delay, 50 frames/s), with its key/value cache, in a loop that leaves out what else `generate`
does. "+ outputs last" is the same with its weights as ours lie in memory: what is left of a model's lead
over it is the architecture's. Frames are not alike: DAC has 86.13 a second, of one code or nine; the small models have
50 of eight, MusicGen 50 of four. Read by frame for the network, by second of music for the listener.

Each model runs in a process of its own, `--rounds` times, the models in turn, so that a disturbance shows as a distance
from median to minimum. A round draws the first frames, foretells from them how long each clip will take, and then
- draws a clip whole if that is within `--budget` seconds ("measured");
- of a longer one draws only the last `--window` frames, and integrates the time per frame over the lengths measured, by
  trapezoids ("integrated"). The state is brought there by filling key/value caches with random numbers (a step costs
  the same whatever they hold); a Mamba state has one shape at every length and stays as it is. With `--real` the model
  runs over random frames instead (`extend`, or a forward with the cache).

ms per frame: of the last `--window` frames at that length, median and minimum over all rounds. vs first: that median
over the one of the first frames (from the fifth on). frames/s and s per s (seconds of computing per second of music;
below 1 is faster than it plays): of the whole clip, median over rounds; reading the text is left out.
x MusicGen: how many times as fast, in frames and in music. State: what must be kept between two frames. Peak: resident
memory (ru_maxrss) up to that length, less that of the process after its imports: weights, state and scratch.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from machine import machine
from torch import Tensor, nn

from ostinato.generation.guidance import guide
from ostinato.generation.sampling import Sampling, begin, generate_frames, sample
from ostinato.models.attention import KVState
from ostinato.models.layout import outputs_last
from ostinato.models.lm import VARIANTS, LMConfig, MusicLM, count_parameters

SMALL = {"num_codebooks": 8, "pattern": "delay", "width": 384, "blocks": 8, "state": 64, "feed_forward": 768}
MODELS: dict[str, tuple[float, dict]] = {  # name -> frames per second of music, settings
    **{f"paper/{v}": (44100 / 512, {"variant": v}) for v in VARIANTS},
    "paper/prefix-simba-9": (44100 / 512, {"variant": "prefix-simba", "num_codebooks": 9, "pattern": "delay"}),
    **{f"small/{v}": (50.0, {"variant": v, **SMALL}) for v in VARIANTS},
    "musicgen/musicgen-small": (50.0, {}),
    "musicgen/musicgen-small + outputs last": (50.0, {}),
}
BASELINE, TEXT, SKIP = "musicgen/musicgen-small", 24, 4


@dataclass
class Run:
    """A generation under way."""

    network: nn.Module
    stream: Iterator[Tensor]  # draws a frame
    jump: Callable[[int], object]  # brings the state n frames on
    state: Callable[[], list[Tensor]]


def ours(config: LMConfig, dtype: torch.dtype, real: bool) -> Run:
    torch.set_default_dtype(dtype)  # so that no wider copy of the weights counts in the peak
    lm = MusicLM(config).eval()
    if dtype == torch.float32:
        outputs_last(lm)
    torch.set_default_dtype(torch.float32)
    text, mask = torch.randn(1, TEXT, config.text_width, dtype=dtype), torch.ones(1, TEXT, dtype=torch.bool)
    generation = begin(lm, (text, mask), (text[:, :1], mask[:, :1]), Sampling(), [0])

    def jump(n: int) -> None:
        for part in chunks(n):
            if real:
                lm.extend(torch.randint(lm.special, (2, config.num_codebooks, part)), generation.state)
                continue
            for layer in generation.state.layers:
                if isinstance(layer, KVState):
                    b, heads, _, width = layer.k.shape
                    layer.append(*torch.randn(2, b, heads, part, width, dtype=dtype), None)
            generation.state.position += part
        generation.done += n

    return Run(lm, generate_frames(lm, generation), jump, lambda: list(generation.state.tensors().values()))


def musicgen(dtype: torch.dtype, real: bool, outputs: bool) -> Run:
    from transformers import DynamicCache, EncoderDecoderCache, MusicgenDecoderConfig, MusicgenForCausalLM

    config = MusicgenDecoderConfig(attn_implementation="sdpa")
    torch.set_default_dtype(dtype)
    model, project = MusicgenForCausalLM(config).eval(), nn.Linear(768, config.hidden_size)
    torch.set_default_dtype(torch.float32)
    if outputs:
        outputs_last(model)
    K, special, settings = config.num_codebooks, config.vocab_size, Sampling(3.0, 1.0, 250)
    own, cross = DynamicCache(config=config), DynamicCache(config=config)
    cache, generator = EncoderDecoderCache(own, cross), torch.Generator().manual_seed(0)
    text = project(torch.randn(1, TEXT, 768, dtype=dtype))
    text = torch.cat([text, torch.zeros_like(text)])  # the branch without text is zeros, masked, as in `generate`
    both = {"encoder_hidden_states": text, "encoder_attention_mask": torch.tensor([[1], [0]]).expand(2, TEXT)}

    def forward(codes: Tensor) -> Tensor:  # [2, K, T] -> logits of the last frame [2, K, V]
        return model(codes.flatten(0, 1), past_key_values=cache, **both).logits[:, -1].view(2, K, -1)

    @torch.no_grad()
    def stream() -> Iterator[Tensor]:
        codes, step = torch.full((1, K, 1), special), 0
        while True:
            logits = guide(forward(codes.repeat(2, 1, 1)), settings.guidance)
            codes = sample(logits, settings, [generator]).unsqueeze(-1)
            codes[:, step + 1 :] = special  # the delay: codebook k begins k steps late
            step += 1
            if step >= K:
                yield codes

    def jump(n: int) -> None:
        for part in chunks(n) if real else ():
            forward(torch.randint(config.vocab_size, (2, K, part)))
        for i in range(0 if real else config.num_hidden_layers):
            own.update(*torch.randn(2, 2, config.num_attention_heads, n, own.layers[i].keys.shape[-1], dtype=dtype), i)

    def state() -> list[Tensor]:
        return [t for part in (own, cross) for layer in part.layers for t in (layer.keys, layer.values)]

    return Run(model, stream(), jump, state)


def chunks(n: int, size: int = 256) -> list[int]:
    return [min(size, n - i) for i in range(0, n, size)]


def timed(run: Run) -> float:
    start = time.perf_counter()
    next(run.stream)
    return time.perf_counter() - start


def trapezoids(curve: list[tuple[int, float]]) -> float:
    return sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(curve))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.no_grad()
def work(job: dict) -> dict:
    """One round of one model: what was measured, by length."""
    torch.manual_seed(job["seed"])
    torch.set_num_threads(job["threads"] or torch.get_num_threads())
    rate, settings = MODELS[job["model"]]
    dtype, imported, window = getattr(torch, job["dtype"]), peak(), job["window"]
    if job["model"].startswith("musicgen/"):
        run = musicgen(dtype, job["real"], job["model"] != BASELINE)
    else:
        run = ours(LMConfig(**settings), dtype, job["real"])
    times = [timed(run) for _ in range(SKIP + window)]  # of the frames from the first on, without a gap
    first, curve, points, at = times[SKIP:], [], [], len(times)
    for seconds in job["lengths"]:
        end = max(round(seconds * rate), SKIP + window)
        if measured := end * median(first) <= job["budget"]:
            times += [timed(run) for _ in range(end - at)]
            last, total = times[-window:], sum(times)
        else:
            curve = curve or [(at, median(times[-window:]))]
            run.jump(max(0, end - window - at))
            last = [timed(run) for _ in range(window)]
            curve.append((end, median(last)))
            total = sum(times) + trapezoids(curve)
        at, state = end, sum(t.numel() * t.element_size() for t in run.state())
        point = {"seconds": seconds, "frames": end, "measured": measured, "total": total, "last": last}
        points.append(point | {"state": state, "peak": peak() - imported})
    found = {"parameters": count_parameters(run.network), "first": first, "points": points}
    return {"model": job["model"], "dtype": job["dtype"]} | found


def spawn(job: dict) -> dict:
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def summary(rounds: list[dict]) -> list[dict]:
    """The rounds of one model -> a row for each length."""
    rows, one = [], rounds[0]
    first = median(t for r in rounds for t in r["first"])
    for points in zip(*(r["points"] for r in rounds), strict=True):
        last, totals = [t for p in points for t in p["last"]], [p["total"] for p in points]
        row = {"model": one["model"], "weights": one["dtype"], "parameters": one["parameters"]}
        row |= {"music": points[0]["seconds"], "frames/s": points[0]["frames"] / median(totals)}
        row |= {"ms": 1000 * median(last), "ms min": 1000 * min(last), "vs first": median(last) / first}
        row |= {"s per s": median(totals) / row["music"], "s per s min": min(totals) / row["music"]}
        row |= {"clip": "measured" if all(p["measured"] for p in points) else "integrated"}
        rows.append(row | {name: max(p[name] for p in points) for name in ("state", "peak")})
    return rows


def cells(r: dict, base: dict | None) -> dict[str, str]:
    """One line of the table, `base` being MusicGen's row."""
    return {
        "model": r["model"],
        "weights": r["weights"],
        "M param.": f"{r['parameters'] / 1e6:.0f}",
        "music": f"{r['music']:g} s",
        "ms per frame (min)": f"{r['ms']:.1f} ({r['ms min']:.1f})",
        "vs first": f"{r['vs first']:.2f}",
        "frames/s": f"{r['frames/s']:.2f}",
        "s per s (min)": f"{r['s per s']:.2f} ({r['s per s min']:.2f})",
        "clip": r["clip"],
        "x MusicGen, frames": f"{r['frames/s'] / base['frames/s']:.2f}" if base else "-",
        "x MusicGen, music": f"{base['s per s'] / r['s per s']:.2f}" if base else "-",
        "state MB": f"{r['state'] / 1e6:.0f}",
        "peak MB": f"{r['peak'] / 1e6:.0f}",
    }


def table(rows: list[dict], markdown: bool) -> str:
    base = {(r["weights"], r["music"]): r for r in rows if r["model"] == BASELINE}
    body = [cells(r, base.get((r["weights"], r["music"]))) for r in rows]
    lines = [list(body[0]), *(list(line.values()) for line in body)]
    if markdown:
        from ostinato.evaluation.reporting.tables import (
            markdown as as_markdown,  # not in the processes whose memory is measured
        )

        return as_markdown(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="paper,small", help="of our models (default: %(default)s)")
    parser.add_argument("--models", help="only these, by the part after the slash; musicgen-small for the baseline")
    parser.add_argument("--seconds", default="10,30,120", help="lengths of music (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16, or float32,bfloat16")
    parser.add_argument("--window", type=int, default=24, help="frames timed at each length")
    parser.add_argument("--budget", type=float, default=90, help="draw clips whole up to so many seconds")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="default: PyTorch's own choice")
    parser.add_argument("--real", action="store_true", help="bring states to their length by running the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write every time measured, and the table's rows")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        return print(json.dumps(work(json.loads(args.job))))
    lengths = sorted(float(s) for s in args.seconds.split(","))
    sizes, chosen = [*args.sizes.split(","), "musicgen"], args.models and args.models.split(",")
    names = [n for n in MODELS if n.split("/")[0] in sizes and (not chosen or n.split("/")[1] in chosen)]
    if not names:
        parser.error(f"no such model; there are: {', '.join(MODELS)}")
    keys = [(n, d) for d in args.dtype.split(",") for n in names if d == "float32" or "outputs last" not in n]
    results: dict[tuple[str, str], list[dict]] = {key: [] for key in keys}
    print(machine(args.threads), flush=True)
    for i in range(args.rounds):
        for model, dtype in keys:
            print(f"round {i + 1} of {args.rounds}: {model}, {dtype}", file=sys.stderr, flush=True)
            job = {**vars(args), "model": model, "dtype": dtype, "lengths": lengths, "seed": args.seed + i}
            results[model, dtype].append(spawn(job))
    rows = [row for rounds in results.values() for row in summary(rounds)]
    print(f"load at the end {os.getloadavg()[0]:.1f}\n\n{table(rows, args.markdown)}")
    if args.json:
        record = {"machine": machine(args.threads), "options": vars(args), "rows": rows}
        Path(args.json).write_text(json.dumps(record | {"rounds": list(results.values())}, indent=1))


if __name__ == "__main__":
    main()
