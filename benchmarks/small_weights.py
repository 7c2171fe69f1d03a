"""What weights of 16 and 8 bits change, graph by graph: for the page that `ostinato export MODEL OUT --web` writes.

    python benchmarks/small_weights.py GRAPHS      # a folder that `ostinato export pocket GRAPHS` wrote
    python benchmarks/small_weights.py GRAPHS --listener efficientat:mn04_as_mAP_432.pt

A row has one graph of few bits, all others as exported, and the same random numbers. Next codes: how often `step`, with
a state of its own and fed with the codes of the original, samples the same ones. Fine codes: how many are the same.
Sound: mean distance of log-mel-spectrograms at six resolutions, in dB (`codecs.losses`), from that of the original.

With `--listener`: the Frechet distance of its embeddings, of 10 s to each of the fifty sentences of kinds.py, to those
of as many clips of other seeds that the original made. A row has all graphs of the page's bits, or of 8; the first has
the original's own, with the same seeds as all other rows: the distance that chance alone makes.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kinds import PROMPTS as KINDS
from machine import machine
from rich.progress import track

from ostinato.codecs.losses import SpectralLoss
from ostinato.evaluation.metrics import frechet, moments
from ostinato.evaluation.networks.base import Listener, hear, load_listener
from ostinato.export.runtime import Exported, Noise, load_exported, open_graph
from ostinato.export.web import BITS, smaller

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


def fewer_bits(model: Exported, folder: Path, bits: dict[str, int]) -> Exported:
    """`model`, which `folder` holds, with some of its graphs of so many bits."""
    graphs = dict(model.graphs)
    with tempfile.TemporaryDirectory() as place:
        for name in bits.keys() & graphs.keys():
            path = Path(place) / f"{name}.onnx"
            path.write_bytes(smaller(folder / path.name, bits[name]))
            graphs[name] = open_graph(path)
    return replace(model, graphs=graphs)


def heard(model: Exported, listener: Listener, first_seed: int) -> list[np.ndarray]:
    """Embeddings [windows, d] of a clip of each sentence, each with a seed of its own."""
    prompts, found = [prompt for kind in KINDS.values() for prompt in kind], []
    for seed, prompt in enumerate(track(prompts, "clips"), first_seed):
        audio, _ = take(model, prompt, round(10 * model.frame_rate), seed)
        found.append(hear(listener, torch.from_numpy(audio)[None, None], model.sample_rate))
    return found


def by_ear(model: Exported, folder: Path, listener: Listener) -> None:
    reference = moments(heard(model, listener, 1000))
    print("| graphs | Frechet distance, 95 % | mean distance of a clip to its original's |\n| --- | --- | --- |")
    eight, original = dict.fromkeys(BITS, 8), None
    for name, bits in (("as exported", {}), ("of the page", BITS), ("8 bits, all", eight)):
        clips = heard(fewer_bits(model, folder, bits), listener, 0)
        original = original or clips
        moved = np.mean([np.linalg.norm(a.mean(0) - b.mean(0)) for a, b in zip(clips, original, strict=True)])
        score = frechet(clips, reference)
        print(f"| {name} | {score.value:.2f} [{score.low:.2f}, {score.high:.2f}] | {moved:.3f} |", flush=True)
    others = [np.linalg.norm(a.mean(0) - b.mean(0)) for i, a in enumerate(original) for b in original[:i]]
    print(f"\nThe clips of two sentences are {np.mean(others):.3f} apart.")


def by_numbers(model: Exported, folder: Path, frames: int) -> None:
    print(f"{len(PROMPTS)} sentences, {frames} frames each\n")
    print("| graph | bits | what | value |\n| --- | --- | --- | --- |")
    wanted = {prompt: take(model, prompt, frames) for prompt in PROMPTS}
    for name in ("text", "step", "denoise", "decode"):
        for bits in (16, 8) if name in model.graphs else ():
            small = fewer_bits(model, folder, {name: bits})
            if name in ("text", "step"):
                same = np.mean([same_codes(model, small, prompt, frames) for prompt in PROMPTS])
                print(f"| {name} | {bits} | same next codes | {same:.2%} |", flush=True)
                continue
            found = {prompt: take(small, prompt, frames) for prompt in PROMPTS}
            distance = np.mean([apart(found[p][0], wanted[p][0], model.sample_rate) for p in PROMPTS])
            print(f"| {name} | {bits} | sound, dB | {distance:.3f} |", flush=True)
            if name == "denoise":
                same = np.mean([(wanted[p][1][1:] == found[p][1][1:]).mean() for p in PROMPTS])
                print(f"| denoise | {bits} | same fine codes | {same:.2%} |", flush=True)
    other = np.mean([apart(take(model, p, frames, 1)[0], wanted[p][0], model.sample_rate) for p in PROMPTS])
    print(f"| another seed | 32 | sound, dB | {other:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--listener", help="for Frechet distances: efficientat:FILE, ...")
    args = parser.parse_args()
    print(machine(), "\n")
    model = load_exported(args.graphs)
    if args.listener:
        by_ear(model, args.graphs, load_listener(args.listener))
    else:
        by_numbers(model, args.graphs, args.frames)


if __name__ == "__main__":
    main()
