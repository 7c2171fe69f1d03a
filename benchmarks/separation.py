"""How much of a voice does the stage `separate` remove, and what does it do to the music? SI-SDR on mixtures made here.

    python benchmarks/separation.py MUSIC WEIGHTS [--clips 12] [--voices FOLDER]

MUSIC: a folder of music without voices; WEIGHTS: what separate.weights takes (spleeter, htdemucs, a file). Over a clip
of 10 s of each of so many files a voice is laid, by espeak-ng as in benchmarks/voices.py, at 0 and -10 dB of its level.
With --voices, real voices alone are laid over in place of it.

SI-SDR (Le Roux et al. 2019) of the accompaniment, in dB, against the clip that it was: of the mixture as it is, and of
what the stage makes of it; and of the clip without a voice, which a perfect one would leave alone.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
from voices import voice

from ostinato.curate.separate import load_separator, split
from ostinato.utils.audio import AUDIO_SUFFIXES, read_audio

RATE, SECONDS, OVERLAP = 44100, 10.0, 0.25


def si_sdr(estimate: np.ndarray, truth: np.ndarray) -> float:
    """dB: the part of an estimate that is the truth at some level, over the rest of it."""
    estimate, truth = estimate.astype(np.float64), truth.astype(np.float64)
    part = truth * (estimate @ truth) / (truth @ truth)
    return 10 * float(np.log10((part @ part) / max((estimate - part) @ (estimate - part), 1e-20)))


def audio_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES]


def piece(path: Path, rng: random.Random) -> np.ndarray:
    import soundfile as sf

    start = rng.uniform(0, max(0.0, sf.info(path).duration - SECONDS))
    return np.resize(read_audio(path, RATE, start, SECONDS)[0].numpy(), round(SECONDS * RATE))


def mixtures(music: Path, count: int, voices: list[Path]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Kind, clip, and what is laid over it (zeros for nothing)."""
    rng = random.Random(0)
    files = [path for path in audio_files(music) if "voice" not in path.stem]
    made = []
    for path in rng.sample(files, min(count, len(files))):
        clip = piece(path, rng)
        made.append(("no voice", clip, np.zeros_like(clip)))
        for kind in ("real",) if voices else ("speech", "sung"):
            over = piece(rng.choice(voices), rng) if voices else np.resize(voice(kind, rng), len(clip))
            even = np.sqrt(np.mean(clip**2) / max(np.mean(over**2), 1e-12))
            made += [(f"{kind} at {db} dB", clip, over * even * 10 ** (db / 20)) for db in (0, -10)]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("music", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--voices", type=Path)
    asked = parser.parse_args()
    model = load_separator(asked.weights, "cpu")
    found: dict[str, list[tuple[float, float, float]]] = {}
    began, heard = time.perf_counter(), 0.0
    for kind, clip, over in mixtures(asked.music, asked.clips, audio_files(asked.voices) if asked.voices else []):
        vocals, rest = split(model, clip + over, RATE, OVERLAP, "cpu")
        before = si_sdr(clip + over, clip) if over.any() else float("inf")
        of_voice = si_sdr(vocals, over) if over.any() else float("nan")
        found.setdefault(kind, []).append((before, si_sdr(rest, clip), of_voice))
        heard += SECONDS
    spent = time.perf_counter() - began
    print(f"{asked.weights}: mean SI-SDR in dB, {asked.clips} clips of {SECONDS:g} s, {heard / spent:.1f} x real time")
    print("| laid over | accompaniment before | after | the worst and the best gain | voice |")
    print("| --- | --- | --- | --- | --- |")
    for kind, rows in found.items():
        before, after, voices = np.array(rows).T
        gain = f"{(after - before).min():+.1f} to {(after - before).max():+.1f}" if np.isfinite(before).all() else "-"
        print(f"| {kind} | {before.mean():.1f} | {after.mean():.1f} | {gain} | {voices.mean():.1f} |")


if __name__ == "__main__":
    main()
