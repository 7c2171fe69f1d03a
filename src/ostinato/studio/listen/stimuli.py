"""The sounds of a listening test: clips of equal loudness, a low anchor, attention clips, a headphone check."""

import itertools

import numpy as np
import pyloudnorm
from scipy.signal import butter, sosfiltfilt

RATE = 44_100  # Hz of every clip: a rate of its own would give a system away
PEAK = 10 ** (-1 / 20)  # no sample is louder: -1 dB of full scale
FADE_SECONDS = 0.01  # at both ends, against clicks where a clip is cut
SHORTEST_SECONDS = 1.0  # BS.1770 measures blocks of 0.4 s
ANCHOR_HZ = 3_500.0  # the low anchor of ITU-R BS.1534-3
BEEP_HZ, BEEP_SECONDS, GAP_SECONDS = 1_000.0, 0.25, 0.45
TONE_HZ, TONE_SECONDS, TONE_GAP_SECONDS, TONE_QUIETER_DB = 200.0, 1.0, 0.5, -6.0


def loudness(audio: np.ndarray) -> float:
    """Integrated loudness of [samples] or [samples, channels] at `RATE`, in LUFS (ITU-R BS.1770-4); -inf of silence."""
    return float(pyloudnorm.Meter(RATE).integrated_loudness(audio.astype(np.float64)))


def most_loudness(audio: np.ndarray, level: float) -> float:
    """The loudest that a clip [samples] of `level` LUFS can be made without a sample above `PEAK`; inf of silence."""
    peak = float(np.abs(audio).max())
    return np.inf if peak == 0 or not np.isfinite(level) else level + 20 * float(np.log10(PEAK / peak))


def to_loudness(audio: np.ndarray, level: float, target: float) -> np.ndarray:
    """[samples] of `level` LUFS brought to `target`, ends faded; what has no loudness (silence) stays as it is."""
    loud = pyloudnorm.normalize.loudness(audio, level, target) if np.isfinite(level) else audio.copy()
    ramp = np.linspace(0, 1, round(FADE_SECONDS * RATE))
    loud[: len(ramp)] *= ramp
    loud[-len(ramp) :] *= ramp[::-1]
    return loud.astype(np.float32)


def low_anchor(audio: np.ndarray) -> np.ndarray:
    """[samples] without what is above 3.5 kHz, which every listener should hear as the worse."""
    return sosfiltfilt(butter(8, ANCHOR_HZ, fs=RATE, output="sos"), audio).astype(np.float32)


def attention_clip(audio: np.ndarray, beeps: int) -> np.ndarray:
    """A clip [samples] whose music stops after a quarter, at most 3 s; then so many beeps."""
    music = audio[: min(len(audio) // 4, 3 * RATE)].copy()
    music[-len(music) // 4 :] *= np.linspace(1, 0, len(music[-len(music) // 4 :]))
    time = np.arange(round(BEEP_SECONDS * RATE)) / RATE
    beep = np.sin(2 * np.pi * BEEP_HZ * time) * np.hanning(len(time)) * max(0.1, float(np.abs(audio).max()) / 2)
    gap = np.zeros(round(GAP_SECONDS * RATE))
    return np.concatenate([music, gap, *([beep, gap] * beeps)]).astype(np.float32)


def headphone_trials(seed: int) -> list[tuple[np.ndarray, int]]:
    """Six trials of three tones of 200 Hz, one of which is 6 dB quieter and another in opposite phase on the two
    sides, which loudspeakers in a room cancel: who listens by them takes that one for the quietest (Woods et al. 2017,
    "Headphone screening to facilitate web-based auditory experiments"). Each [samples, 2], with its quiet place."""
    time = np.arange(round(TONE_SECONDS * RATE)) / RATE
    edge = np.clip(np.minimum(time, TONE_SECONDS - time) / 0.1, 0, 1)
    tone = 0.25 * np.sin(2 * np.pi * TONE_HZ * time) * edge
    gap = np.zeros((round(TONE_GAP_SECONDS * RATE), 2))
    trials = []
    for quiet, opposite in itertools.permutations(range(3), 2):
        parts = []
        for place in range(3):
            left = tone * (10 ** (TONE_QUIETER_DB / 20) if place == quiet else 1)
            parts += [np.stack([left, -left if place == opposite else left], 1), gap]
        trials.append((np.concatenate(parts[:-1]).astype(np.float32), quiet))
    order = np.random.default_rng(seed).permutation(len(trials))
    return [trials[i] for i in order]


def pink_noise(seconds: float, seed: int) -> np.ndarray:
    """[samples] of noise with as much power in every octave: to set the volume by."""
    n = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    audible = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 20.0)
    noise = np.fft.irfft(spectrum / np.sqrt(audible), n)
    return (noise / np.abs(noise).max()).astype(np.float32)
