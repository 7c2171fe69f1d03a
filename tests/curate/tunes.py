"""Small music made here: notes with a beat, different from seed to seed, and alike for one."""

from pathlib import Path

import numpy as np
import soundfile as sf


def tune(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """float32 [samples]: decaying notes of a scale, one every quarter of a second."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    audio = np.zeros(len(time))
    for start in np.arange(0, seconds, 0.25):
        here = time >= start
        since = time[here] - start
        pitch = 110 * 2 ** (rng.integers(0, 36) / 12)
        audio[here] += 0.2 * np.sin(2 * np.pi * pitch * since) * np.exp(-6 * since)
    return audio.astype(np.float32)


def write(path: Path, seconds: float = 4.0, rate: int = 16000, seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, tune(seconds, rate, seed), rate, **options)
    return path


RECIPE = """
seed: 3
sample_rate: 16000
stages:
  - read: {min_seconds: 0.5}
  - duplicates: {by: bytes}
  - cut: {seconds: 2, min_seconds: 2}
  - silence: {max_seconds: 1, below_db: -50}
  - merge: {model: ""}
  - vocal_words: {denials: true}
"""


def recipe_file(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path
