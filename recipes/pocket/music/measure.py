"""Measure three 10 s pieces of a track, at 1/5, 1/2 and 4/5 of it: what captions may say of loudness, tone and tempo.

piece: loudness (dB below full scale, RMS), centroid (Hz), low (share of energy below 150 Hz), onsets (a second),
       tempo (beats a minute), clarity (0..1: how much the onsets agree with that tempo), tonal (0..1: how far the
       spectrum is from noise)
"""

from pathlib import Path

import numpy as np
import soundfile

PLACES, SECONDS = (0.2, 0.5, 0.8), 10.0
SIZE, HOP = 2048, 512


def pieces(path: Path) -> list[tuple[np.ndarray, int]]:
    """Three pieces [n] in mono with their sample rate; a short track's overlap."""
    found = []
    with soundfile.SoundFile(path) as f:
        count = min(f.frames, int(SECONDS * f.samplerate))
        for place in PLACES:
            f.seek(max(0, min(f.frames - count, int(place * f.frames - count / 2))))
            found.append((f.read(count, dtype="float32", always_2d=True).mean(axis=1), f.samplerate))
    return found


def onset_curve(magnitude: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How much louder the bands get from frame to frame, [frames - 1]; 34 dB below the loudest is silence."""
    bands = np.add.reduceat(magnitude, edges, axis=1)
    bands = np.log10(0.02 * bands.max() + bands)
    return np.maximum(np.diff(bands, axis=0), 0).mean(axis=1)


def beat(curve: np.ndarray, rate: float) -> tuple[float, float]:
    """(beats a minute between 60 and 180, clarity 0..1) from the autocorrelation of the onset curve."""
    x = curve - curve.mean()
    full = np.correlate(x, x, "full")[len(x) - 1 :]
    if full[0] <= 0:
        return 0.0, 0.0
    full = full / full[0]
    bpm = np.arange(60, 180.5, 0.5)

    def at(lag: np.ndarray) -> np.ndarray:
        return np.interp(lag, np.arange(len(full)), full, right=0.0)

    lag = 60 * rate / bpm
    score = at(lag) + 0.5 * at(2 * lag) - 0.25 * at(1.5 * lag) - 0.1 * np.abs(np.log2(bpm / 115))
    best = int(np.argmax(score))
    return float(bpm[best]), float(np.clip(at(lag[best : best + 1])[0], 0, 1))


def measure(x: np.ndarray, rate: int) -> dict[str, float]:
    """The numbers of one piece [n]."""
    if len(x) < 4 * SIZE:
        x = np.pad(x, (0, 4 * SIZE - len(x)))
    frames = np.lib.stride_tricks.sliding_window_view(x, SIZE)[::HOP] * np.hanning(SIZE).astype(np.float32)
    magnitude = np.abs(np.fft.rfft(frames, axis=1))
    power, hertz = magnitude**2, np.fft.rfftfreq(SIZE, 1 / rate)
    total = power.sum() + 1e-12
    edges = np.unique(np.searchsorted(hertz, np.geomspace(60, min(12000, rate / 2 - 500), 25)))
    curve = onset_curve(magnitude, edges)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(curve, 4), 9)
    peaks = (curve == near.max(axis=1)) & (curve > near.mean(axis=1) + 0.6 * curve.std()) & (curve > 0.07)
    tempo, clarity = beat(curve, rate / HOP)
    heard = power[power.sum(axis=1) > 1e-3 * power.sum(axis=1).max()][:, hertz > 100]
    flat = np.exp(np.log(heard + 1e-10).mean(axis=1)) / (heard.mean(axis=1) + 1e-10)
    return {
        "loudness": round(float(10 * np.log10(np.mean(x**2) + 1e-10)), 1),
        "centroid": round(float((magnitude.sum(axis=0) * hertz).sum() / (magnitude.sum() + 1e-9))),
        "low": round(float(power[:, hertz < 150].sum() / total), 3),
        "onsets": round(float(peaks.sum() / (len(x) / rate)), 2),
        "tempo": tempo,
        "clarity": round(clarity, 2),
        "tonal": round(float(1 - np.median(flat) ** 0.25), 3),
    }


def listen(path: Path) -> list[dict[str, float]]:
    """The numbers of a track's three pieces."""
    return [measure(x, rate) for x, rate in pieces(path)]
