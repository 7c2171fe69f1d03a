"""A sound chip of the 1980s: two pulse waves, a triangle for the bass, noise for drums, 4-bit steps of loudness.

The melody is the tune, the second pulse breaks each bar's chord into fast arpeggios, as the music of such machines did
for want of voices.
"""

import numpy as np
from music.scores import RATE, Tune, beat_of, chords_for, spans, triad


def pulse(pitch: float, seconds: float, duty: float, vibrato: float, start: float) -> np.ndarray:
    """A pulse wave [n] of height 2 and mean 0, softened by the mean over 4 samples against aliases; vibrato in
    semitones."""
    t = np.arange(round(4 * RATE * seconds)) / (4 * RATE)
    bend = vibrato * np.sin(2 * np.pi * 5.5 * (t + start)) * np.clip((t - 0.15) / 0.2, 0, 1)
    phase = np.cumsum(440 * 2 ** ((pitch + bend - 69) / 12)) / (4 * RATE) % 1
    wave = np.where(phase < duty, 2 - 2 * duty, -2 * duty)
    return wave[: len(wave) // 4 * 4].reshape(-1, 4).mean(1)


def triangle(pitch: float, seconds: float) -> np.ndarray:
    """A triangle wave in 16 steps."""
    t = np.arange(round(RATE * seconds)) / RATE
    return np.round(7.5 * (1 - 4 * np.abs((t * 440 * 2 ** ((pitch - 69) / 12)) % 1 - 0.5))) / 7.5


def fade(n: int, seconds: float, to: float = 0.0) -> np.ndarray:
    """A falling envelope [n] in 15 steps, as the chip's: from 1 towards `to` in `seconds`."""
    return np.ceil(15 * np.maximum(to, 1 - (1 - to) * np.arange(n) / (RATE * seconds))) / 15


def voices(tune: Tune, tonic: int, minor: bool, bpm: float, duty: float, drums: bool) -> np.ndarray:
    """The tune on the chip: mono samples [n], float32, peak 0.7."""
    beat, rng = 60 / bpm, np.random.default_rng(0)
    out = np.zeros(round(RATE * (tune.end * beat + 0.5)))

    def add(at: float, wave: np.ndarray, loud: float) -> None:
        first = round(at * beat * RATE)
        wave = wave[: max(0, len(out) - first)]
        out[first : first + len(wave)] += loud * wave

    for n in tune.notes:
        if n.channel == 0:
            wave = pulse(n.pitch, n.length * beat * 0.94, duty, 0.25, n.start)
            add(n.start, wave * fade(len(wave), 0.5, 0.4), 0.30)
    hits = []
    felt = beat_of(tune.meter)
    for (a, b), root in zip(spans(tune), chords_for(tune, tonic, minor), strict=True):
        tones = sorted(60 + (tonic + t - 60) % 12 for t in triad(root, minor))
        ticks = np.arange(a, b - 1e-6, 1 / 8)  # one tone of the chord after the other, 32nd notes
        for i, t in enumerate(ticks):
            wave = pulse(tones[i % 3], beat / 8, 0.5, 0, 0)
            add(t, wave * fade(len(wave), beat / 6, 0.3), 0.12)
        bass = 36 + (tonic + root - 36) % 12
        for i, t in enumerate(np.arange(a, b - 1e-6, felt / 2)):
            wave = triangle(bass + (12 if i % 4 == 3 else 0), felt / 2 * beat * 0.85)
            add(t, wave, 0.23)
        hits += [(t, i % 2) for i, t in enumerate(np.arange(a, b - 1e-6, felt))]
        hits += [(t + felt / 2, 2) for t in np.arange(a, b - 1e-6, felt)]
    for t, kind in hits if drums else []:
        length, hold = ((0.09, 1), (0.14, 2), (0.04, 1))[kind]
        noise = np.repeat(rng.choice([-1.0, 1.0], round(RATE * length / hold) + 1), hold)
        if kind == 0:  # the bass drum: a triangle that falls, and a click
            drop = np.sin(2 * np.pi * np.cumsum(np.linspace(180, 45, round(RATE * 0.11))) / RATE)
            add(t, drop * fade(len(drop), 0.11), 0.36)
        add(t, noise * fade(len(noise), length), (0.05, 0.24, 0.10)[kind])
    return (out * (0.7 / np.abs(out).max())).astype(np.float32)
