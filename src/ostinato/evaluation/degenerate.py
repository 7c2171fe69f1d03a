"""Sounds that are no music whatever the sentence was: silence, hum, clipping, an endless loop. Counted by definition.

The thresholds are set so that real music has few: real recordings do hold a drone or loop a bar, so compare a model's
counts with those of real clips of the same length.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from ostinato.data.clips import near_silent
from ostinato.evaluation.descriptors import log_mel, spectrogram
from ostinato.utils.audio import read_audio
from ostinato.utils.errors import UserError

SILENCE_DB = -60.0
CLIPPED = 0.001  # share of samples
HUM_ENERGY, HUM_WINDOWS, HUM_SPREAD_DB = 0.5, 0.8, 3.0
LOOP_SECONDS = (0.2, 3.0)
LOOP_SHARE, LOOP_ALIKE = 0.5, 0.97


@dataclass(frozen=True)
class Faults:
    """Which faults a clip has; see the functions of the same names."""

    silence: bool
    hum: bool
    clipping: bool
    loop: bool


@dataclass
class Count:
    """Faults of a set of clips: how many clips were read, how many have each fault, the files of each, the files lost
    and why."""

    clips: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("silence", "hum", "clipping", "loop"), 0))
    files: dict[str, list[str]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


def faults(audio: np.ndarray, sample_rate: int) -> Faults:
    """Of a mono clip [samples] in [-1, 1]. A silent clip has no other fault."""
    audio = np.asarray(audio, np.float32).reshape(-1)
    if silence(audio, sample_rate):
        return Faults(True, False, False, False)
    hums = hum(audio, sample_rate)
    return Faults(False, hums, clipping(audio), not hums and loop(audio, sample_rate))


def silence(audio: np.ndarray, sample_rate: int) -> bool:
    """Its rms, or that of more than half its 50 ms windows, is under -60 dB of full scale (the rule by which clips are
    kept from training, at the same level)."""
    return not len(audio) or near_silent(torch.from_numpy(audio)[None], sample_rate, SILENCE_DB)


def clipping(audio: np.ndarray) -> bool:
    """More than 1 in 1000 samples lie flat: three or more in a row of one value that is at least 0.99 of the clip's
    peak, and that peak at least half of full scale."""
    size = np.abs(audio)
    peak = size.max(initial=0.0)
    if peak < 0.5:
        return False
    high = size >= 0.99 * peak
    same = high[1:] & high[:-1] & (np.abs(np.diff(audio)) < 1e-4)
    flat = np.zeros(len(audio), bool)
    three = same[1:] & same[:-1]
    for shift in range(3):
        flat[shift : shift + len(three)] |= three
    return bool(flat.mean() > CLIPPED)


def hum(audio: np.ndarray, sample_rate: int) -> bool:
    """One steady tone: a band three bins wide (about 30 Hz) that holds more than half the energy above 30 Hz in more
    than 80 % of the 93 ms windows, and whose level there has a standard deviation under 3 dB. (Below, an offset that
    nobody hears would be taken for a tone.)"""
    window = 1 << round(np.log2(0.093 * sample_rate))
    energy = np.square(spectrogram(audio, window, window // 2), dtype=np.float64)[:, round(30 * window / sample_rate) :]
    total = energy.sum(1)
    band = energy[:, :-2] + energy[:, 1:-1] + energy[:, 2:]
    best = int(band.sum(0).argmax())
    share = band[:, best] / np.maximum(total, 1e-20)
    if (share > HUM_ENERGY).mean() <= HUM_WINDOWS:
        return False
    return bool((10 * np.log10(band[share > HUM_ENERGY, best] + 1e-20)).std() < HUM_SPREAD_DB)


def loop(audio: np.ndarray, sample_rate: int) -> bool:
    """The second half of the clip repeats one passage of 0.2 to 3 s without change: log-mel frames a period apart
    differ by under 3 % of what unrelated frames of that half do, and the passage itself changes (by 2 dB at least)."""
    hop = round(0.02 * sample_rate)
    mel = log_mel(audio, sample_rate, 1 << round(np.log2(0.046 * sample_rate)), hop)
    mel = mel[round(len(mel) * (1 - LOOP_SHARE)) :]
    rate = sample_rate / hop
    variance = mel.var(0).mean()
    first, last = round(LOOP_SECONDS[0] * rate), min(round(LOOP_SECONDS[1] * rate), len(mel) // 2)
    if variance < 4 or last < first:
        return False
    return any(
        np.square(mel[lag:] - mel[:-lag]).mean() < 2 * (1 - LOOP_ALIKE) * variance for lag in range(first, last + 1)
    )


def count_faults(files: Iterable[Path], sample_rate: int = 44_100, seconds: float | None = None) -> Count:
    """Of audio files, each read at `sample_rate` (Hz) and up to `seconds`. A file that cannot be read is counted as
    lost, with the reason; the rest goes on."""
    found = Count()
    for file in files:
        try:
            audio = read_audio(file, sample_rate, seconds=seconds)[0].numpy()
        except UserError as error:
            found.lost[str(file)] = str(error)
            continue
        found.clips += 1
        for name, has in asdict(faults(audio, sample_rate)).items():
            if has:
                found.counts[name] += 1
                found.files.setdefault(name, []).append(str(file))
    return found
