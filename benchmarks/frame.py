"""A frame of the language model, by part, beside the time that copying its weights alone takes.

    python benchmarks/frame.py                        # the model that ships, with guidance
    python benchmarks/frame.py --model runs/mine --threads 1 --frames 500
    python benchmarks/frame.py --graphs GRAPHS        # and as `ostinato export pocket GRAPHS` wrote it

Milliseconds, median (least) over `--frames` frames, all in one process; with one thread of its processor time, which
other programs disturb less than the clock's. copy: a plain copy of as many bytes as the
weights that a frame reads, with the same threads; it cannot take less to read them. step: `MusicLM.step` of both
branches. sublayers: the same sub-layers in a loop of their own, by kind. guide and sample: from logits to codes. frame:
`generate_frames` as it runs, which has all of them, by one thread where it takes one. ONNX Runtime: the same frame from
the graphs of an export.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from machine import machine

from ostinato.export.runtime import Noise, load_exported
from ostinato.generation.folders import load_lm, stage_folder
from ostinato.generation.guidance import guide
from ostinato.generation.sampling import begin, generate_frames, sample
from ostinato.generation.settings import Sampling


def times(run: Callable[[], object], count: int) -> list[float]:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(10):
        run()
    found = []
    for _ in range(count):
        began = clock()
        run()
        found.append(1000 * (clock() - began))
    return found


@torch.inference_mode()
def measure(name: str, frames: int, graphs: str | None) -> dict[str, list[float]]:
    lm, config = load_lm(stage_folder(name, "lm"))
    settings = Sampling(**config.get("sampling", {}))
    width = lm.config.text_width
    text, mask = torch.randn(1, 12, width), torch.ones(1, 12, dtype=torch.bool)
    generation = begin(lm, (text, mask), (text[:, :2], mask[:, :2]), settings, [0])
    state, codes = generation.state, torch.zeros(2, lm.config.num_codebooks, dtype=torch.long)
    weights = torch.cat([p.flatten() for part in (lm.layers, lm.lm_head, lm.norm) for p in part.parameters()])
    copy, x, logits = torch.empty_like(weights), torch.randn(2, lm.config.width), lm.step(codes, state)
    stream = generate_frames(lm, generation)
    found = {"copy": times(lambda: copy.copy_(weights), frames), "step": times(lambda: lm.step(codes, state), frames)}
    for kind in dict.fromkeys(lm.variant.sublayers):
        pairs = [(layer, s) for layer, s in zip(lm.layers, state.layers, strict=True) if layer.kind == kind]
        found[f"sublayers, {kind}"] = times(lambda pairs=pairs: [layer.step(x, s) for layer, s in pairs], frames)
    found["guide"] = times(lambda: guide(logits, settings.guidance), frames)
    found["sample"] = times(lambda: sample(logits[:1], settings, generation.generators), frames)
    found["frame"] = times(lambda: next(stream), frames)
    if graphs:
        exported = load_exported(graphs).frames("a calm solo piano piece", settings, Noise(0))
        found["frame, ONNX Runtime"] = times(lambda: next(exported), frames)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--graphs", help="a folder that `ostinato export` wrote of the same model")
    parser.add_argument("--threads", type=int, default=0, help="default: PyTorch's own choice")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # which ONNX Runtime is told
    print(machine(), flush=True)
    found = measure(args.model, args.frames, args.graphs)
    row = {part: median(values) for part, values in found.items()}
    row["ratio"] = row["frame"] / row["copy"]
    for part, values in found.items():
        print(f"{part:26} {row[part]:6.2f} ms ({min(values):.2f})")
    print(f"{'frame / copy':26} {row['ratio']:6.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": machine(), "rows": [row | {"model": args.model}]}, indent=1))


if __name__ == "__main__":
    main()
