"""What weights of 16 and 8 bits change, graph by graph: for the page that `ostinato export MODEL OUT --web` writes.

    python benchmarks/small_weights.py GRAPHS      # a folder that `ostinato export pocket GRAPHS` wrote

A row has one graph of few bits, all others as exported, and the same random numbers. Next codes: how often `step`, with
a state of its own and fed with the codes of the original, samples the same ones. Fine codes: how many are the same.
Sound: mean distance of log-mel-spectrograms at six resolutions, in dB (`codecs.losses`), from that of the original.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from ostinato.codecs.losses import SpectralLoss
from ostinato.export.runtime import Exported, Noise, load_exported, open_graph
from ostinato.export.web import smaller

PROMPTS = (
    "A slow Bach chorale played on church organ",
    "A fast techno track with synthesizers and drums",
    "A calm solo piano piece",
)


def take(model: Exported, prompt: str, frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples and codes."""
    audio, codes = zip(*model.play(prompt, frames, seed), strict=True)
    return np.concatenate(audio), np.concatenate(codes, -1)


def apart(a: np.ndarray, b: np.ndarray, rate: int) -> float:
    made, real = (torch.from_numpy(x)[None, None] for x in (a, b))
    return 20 * float(SpectralLoss(rate)(made, real))


class Both:
    """The step of two models side by side, with the codes of the first; counts how often they agree."""

    def __init__(self, first: Exported, second: Exported, prompt: str):
        self.graph, self.other = first.graphs["step"], second.graphs["step"]
        self.text, self.state = second.read(prompt, second.sampling)
        self.agreed: list[float] = []

    def get_outputs(self) -> Any:
        return self.graph.get_outputs()

    def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
        wanted = self.graph.run(names, inputs)
        codes, *after = self.other.run(names, inputs | self.text | self.state)
        self.state = dict(zip(self.state, after, strict=True))
        self.agreed.append(float((codes == wanted[0]).mean()))
        return wanted


def same_codes(model: Exported, small: Exported, prompt: str, frames: int) -> float:
    both = Both(model, small, prompt)
    fed, read = replace(model, graphs=model.graphs | {"step": both}), model.read(prompt, model.sampling)
    fed.read = lambda *_: read  # type: ignore[method-assign]
    for _ in zip(range(frames), fed.frames(prompt, fed.sampling, Noise(0)), strict=False):
        pass
    return float(np.mean(both.agreed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    args = parser.parse_args()
    print(machine(), f"\n{len(PROMPTS)} sentences, {args.frames} frames each\n")
    print("| graph | bits | what | value |\n| --- | --- | --- | --- |")
    model = load_exported(args.graphs)
    wanted = {prompt: take(model, prompt, args.frames) for prompt in PROMPTS}
    for name in ("text", "step", "denoise", "decode"):
        for bits in (16, 8) if name in model.graphs else ():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name}.onnx"
                path.write_bytes(smaller(args.graphs / path.name, bits))
                small = replace(model, graphs=model.graphs | {name: open_graph(path)})
            if name in ("text", "step"):
                same = np.mean([same_codes(model, small, prompt, args.frames) for prompt in PROMPTS])
                print(f"| {name} | {bits} | same next codes | {same:.2%} |", flush=True)
                continue
            found = {prompt: take(small, prompt, args.frames) for prompt in PROMPTS}
            distance = np.mean([apart(found[p][0], wanted[p][0], model.sample_rate) for p in PROMPTS])
            print(f"| {name} | {bits} | sound, dB | {distance:.3f} |", flush=True)
            if name == "denoise":
                same = np.mean([(wanted[p][1][1:] == found[p][1][1:]).mean() for p in PROMPTS])
                print(f"| denoise | {bits} | same fine codes | {same:.2%} |", flush=True)
    other = np.mean([apart(take(model, p, args.frames, 1)[0], wanted[p][0], model.sample_rate) for p in PROMPTS])
    print(f"| another seed | 32 | sound, dB | {other:.2f} |")


if __name__ == "__main__":
    main()
