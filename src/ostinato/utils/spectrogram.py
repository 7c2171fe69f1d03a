"""The picture of a sound: a log-mel spectrogram as a PNG, without a plotting library."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from ostinato.utils.stft import stft

WINDOW, BANDS, RANGE = 2048, 128, 80.0  # samples of a window, rows of the picture, dB from the loudest to black
COLOURS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=np.float64)


def spectrogram(audio: Tensor, sample_rate: int) -> np.ndarray:
    """audio [1, samples] -> picture uint8 [128 mel bands, frames, 3], low bands at the bottom, black 80 dB below the
    loudest; 512 samples a column."""
    bank = mel_filter_bank(WINDOW // 2 + 1, BANDS, 0, sample_rate / 2, sample_rate, mel_scale="slaney")
    if audio.shape[-1] < WINDOW:
        audio = torch.nn.functional.pad(audio, (0, WINDOW - audio.shape[-1]))
    power = stft(audio[None].cpu(), WINDOW)[0].abs().square().numpy()
    level = 10 * np.log10(np.maximum(bank.T @ power, 1e-10))
    share = np.clip((level - level.max()) / RANGE + 1, 0, 1)[::-1]
    stops = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(share, stops, COLOURS[:, i]) for i in range(3)], -1).round().astype(np.uint8)


def write_spectrogram(path: Path, audio: Tensor, sample_rate: int) -> np.ndarray:
    """Write `spectrogram` as a PNG, two pixels a band; returns the picture."""
    picture = spectrogram(audio, sample_rate)
    Image.fromarray(picture.repeat(2, 0)).save(path)
    return picture
