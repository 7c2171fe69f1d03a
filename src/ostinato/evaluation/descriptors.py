"""Plain descriptions of a clip, in NumPy alone: how busy, how bright, how pitched, how fast.

They rank clips ("faster", "brighter") rather than measure music: tempo may be half or double of what a person taps, and
harmonicity is of the mixture.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from transformers.audio_utils import mel_filter_bank

HOP = 0.0116  # s between frames of the onset strength: 512 samples at 44.1 kHz
ONSET_RISE = 3.0  # dB over the median of its surroundings that the mean rise of the mel bands must stand
ONSET_GAP = 0.06  # s between two onsets at least
TEMPI = (40.0, 240.0)  # beats a minute
FLOOR_DB = -80.0


@dataclass(frozen=True)
class Descriptors:
    """onset_rate: onsets a second; centroid: Hz; harmonicity: 0 (noise) to 1 (one periodic tone); tempo: beats a
    minute, 0 where there is no pulse; level: dBFS."""

    onset_rate: float
    centroid: float
    harmonicity: float
    tempo: float
    level: float


def describe(audio: np.ndarray, sample_rate: int) -> Descriptors:
    """All of them, for a mono clip [samples] in [-1, 1]. Raises ValueError for a clip under 0.2 s."""
    audio = np.asarray(audio, np.float32).reshape(-1)
    if len(audio) < 0.2 * sample_rate:
        raise ValueError(f"a clip of {len(audio) / sample_rate:.3f} s is too short to describe: give 0.2 s or more")
    strength = onset_strength(audio, sample_rate)
    level = 10 * np.log10(max(float(np.square(audio, dtype=np.float64).mean()), 1e-12))
    return Descriptors(
        len(onsets(strength)) / (len(audio) / sample_rate),
        centroid(audio, sample_rate),
        harmonicity(audio, sample_rate),
        tempo(strength),
        float(level),
    )


def spectrogram(audio: np.ndarray, window: int, hop: int) -> np.ndarray:
    """audio [samples] -> magnitudes float32 [frames, window // 2 + 1] under a Hann window; a full-scale sine reads 0.5.
    Shorter audio is filled up to one window."""
    audio = np.pad(audio, (0, max(0, window - len(audio))))
    frames = sliding_window_view(audio, window)[::hop]
    hann = np.hanning(window + 1)[:-1].astype("f4")
    # In blocks, since the copy that the window makes is `window / hop` times the audio.
    spectra = [np.abs(np.fft.rfft(frames[i : i + 512] * hann)) for i in range(0, len(frames), 512)]
    return (np.concatenate(spectra) / hann.sum()).astype("f4")


def log_mel(audio: np.ndarray, sample_rate: int, window: int, hop: int, bands: int = 40) -> np.ndarray:
    """audio [samples] -> dB [frames, bands] from 40 Hz to 10 kHz (or half the rate), floored at -80."""
    top = min(10_000, sample_rate / 2)
    bank = mel_filter_bank(window // 2 + 1, bands, 40, top, sample_rate, norm=None, mel_scale="htk")
    energy = np.square(spectrogram(audio, window, hop)) @ bank.astype("f4")
    return np.maximum(10 * np.log10(energy + 1e-12), FLOOR_DB)


def onset_strength(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean rise of 40 mel bands from frame to frame, in dB, one number every `HOP` seconds (spectral flux: Dixon,
    "Onset detection revisited", 2006)."""
    window = 1 << round(np.log2(0.046 * sample_rate))
    bands = log_mel(audio, sample_rate, window, round(HOP * sample_rate))
    return np.maximum(np.diff(bands, axis=0, prepend=bands[:1]), 0).mean(1)


def onsets(strength: np.ndarray) -> np.ndarray:
    """Frames at which something begins: maxima that stand `ONSET_RISE` dB over the median of 0.5 s around them and are
    the largest within `ONSET_GAP`."""
    around, gap = round(0.25 / HOP), max(1, round(ONSET_GAP / HOP))
    medians = np.median(sliding_window_view(np.pad(strength, around, mode="edge"), 2 * around + 1), axis=1)
    peaks = sliding_window_view(np.pad(strength, gap), 2 * gap + 1).max(1)
    return np.flatnonzero((strength >= peaks) & (strength > medians + ONSET_RISE))


def tempo(strength: np.ndarray) -> float:
    """Beats a minute whose period the onset strength repeats best with, weighed by a preference for 120 of one octave's
    width (Ellis, "Beat tracking by dynamic programming", 2007); 0 where nothing repeats."""
    # Smoothed, since a period that is no whole number of frames would otherwise lose to its double.
    centred = np.convolve(strength - strength.mean(), (0.25, 0.5, 0.25), "same")
    n = len(centred)
    power = np.abs(np.fft.rfft(centred, 2 * n)) ** 2
    repeat = np.fft.irfft(power)[:n] / np.arange(n, 0, -1)  # unbiased: later lags have fewer pairs
    first, last = (60 / beats / HOP for beats in TEMPI[::-1])
    lags = np.arange(int(np.ceil(first)), min(int(last), n // 2) + 1)
    if not len(lags) or repeat[0] <= 1e-9:
        return 0.0
    liked = np.exp(-0.5 * np.log2(60 / HOP / lags / 120) ** 2)
    best = int((repeat[lags] * liked).argmax())
    if repeat[lags[best]] < 0.1 * repeat[0]:
        return 0.0
    lag = float(lags[best])
    if 0 < lags[best] < n - 1:  # between two frames: the parabola through the peak and its neighbours
        a, b, c = repeat[lags[best] - 1 : lags[best] + 2]
        if a - 2 * b + c < 0:
            lag += float(np.clip(0.5 * (a - c) / (a - 2 * b + c), -0.5, 0.5))
    return 60 / HOP / lag


def centroid(audio: np.ndarray, sample_rate: int) -> float:
    """Mean frequency in Hz, weighed by the magnitude of the mean spectrum: loud passages count for more."""
    window = 1 << round(np.log2(0.046 * sample_rate))
    spectrum = spectrogram(audio, window, window // 2).mean(0, dtype=np.float64)
    total = spectrum.sum()
    return float(spectrum @ np.linspace(0, sample_rate / 2, len(spectrum)) / total) if total > 0 else 0.0


def harmonicity(audio: np.ndarray, sample_rate: int) -> float:
    """How periodic 50 ms windows are, mean weighed by their energy: the largest autocorrelation at a lag of 1 / 1000 to
    1 / 60 s, over that of the window itself (Boersma, "Accurate short-term analysis", 1993)."""
    window = round(0.05 * sample_rate)
    frames = sliding_window_view(audio, window)[:: window // 2]
    hann = np.hanning(window)
    of_window = np.fft.irfft(np.abs(np.fft.rfft(hann, 2 * window)) ** 2)[:window]
    first, last = round(sample_rate / 1000), min(round(sample_rate / 60), window // 2)
    best, weight = 0.0, 0.0
    for i in range(0, len(frames), 256):
        x = (frames[i : i + 256] - frames[i : i + 256].mean(1, keepdims=True)) * hann
        own = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * window)) ** 2)[:, :window]
        energy = own[:, 0]
        loud = energy > 1e-8
        scaled = own[loud] / energy[loud, None] / (of_window / of_window[0])
        best += float((scaled[:, first:last].max(1).clip(0, 1) * energy[loud]).sum()) if loud.any() else 0.0
        weight += float(energy[loud].sum())
    return best / weight if weight > 0 else 0.0
