"""For run.sh --tiny: free music made here, prompts for it, and a listener of random weights where none is given.

The tunes are ours (CC0). The listener is a real EfficientAT network whose weights were never trained, only its norms
are those of the tunes: with it a metric is computed as with any other, and says little.
"""

import csv
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from torch import nn

from ostinato.evaluation.networks.passt import LogMel
from ostinato.evaluation.networks.taggers import MobileNet

RATE, SECONDS, TRACKS = 44100, 9.0, 12
SPEEDS = {"slow calm": 1.5, "fast energetic": 5.0}
SOUNDS = {"piano": (1, 0.5, 0.25), "organ": (1, 1, 1), "bass": (0.5, 0.25, 0.1)}


def tune(seed: int, beats: float, overtones: tuple[float, ...]) -> np.ndarray:
    """Decaying notes of a pentatonic scale: float32 [samples]."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(SECONDS * RATE)) / RATE
    audio = np.zeros(len(time))
    for start in np.arange(0, SECONDS, 1 / beats):
        since = time[time >= start] - start
        pitch = 220 * 2 ** (rng.choice([0, 2, 4, 7, 9, 12]) / 12)
        for number, loud in enumerate(overtones, 1):
            audio[-len(since) :] += 0.1 * loud * np.sin(2 * np.pi * number * pitch * since) * np.exp(-beats * since)
    return audio.astype(np.float32)


def listener(tunes: list[np.ndarray]) -> dict:
    """Random weights of the smallest EfficientAT; norms as these tunes have them, or it would hear them all alike."""
    torch.manual_seed(0)
    net = MobileNet(0.4)
    for norm in (part for part in net.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.momentum = None  # the mean of what it sees
    with torch.no_grad():
        net.train()(LogMel()(torch.from_numpy(np.stack(tunes))))
    return net.state_dict()


def main(out: Path) -> None:
    music, reference = out / "music", out / "reference"
    music.mkdir(parents=True, exist_ok=True)
    reference.mkdir(exist_ok=True)
    kinds = [(speed, sound) for speed in SPEEDS for sound in SOUNDS]
    rows = []
    for seed in range(TRACKS):
        speed, sound = kinds[seed % len(kinds)]
        audio = tune(seed, SPEEDS[speed], SOUNDS[sound])
        name, said = f"{seed:02d}.flac", f"{speed} {sound} music"
        split = "validation" if seed % 4 == 3 else "train"
        about = {"path": name, "caption": said, "licence": "CC0", "artist": "recipes/paper/tiny.py", "split": split}
        if not (music / name).exists():
            sf.write(music / name, audio, RATE)
        rows.append(about)
    (music / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (out / "prompts.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "caption"])
        for number in range(4):
            speed, sound = kinds[number]
            table.writerow([f"p{number}", f"{speed} {sound} music"])
            if not (reference / f"p{number}.flac").exists():
                sf.write(reference / f"p{number}.flac", tune(100 + number, SPEEDS[speed], SOUNDS[sound]), RATE)
    if not (out / "listener.pt").exists():
        heard = enumerate(product(SPEEDS.values(), SOUNDS.values()))
        torch.save(listener([tune(seed, *kind) for seed, kind in heard]), out / "listener.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
