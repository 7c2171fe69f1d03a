"""What the codec is trained against: multi-resolution spectral losses and a spectrogram discriminator.

Mel loss as in DAC (arXiv 2306.06546, section 3.4); the discriminator is a small multi-resolution complex-STFT
one (DAC section 3.3), with the hinge objective and feature matching of EnCodec (arXiv 2210.13438, section 3.4).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from transformers.audio_utils import mel_filter_bank

from ostinato.utils.stft import stft

MEL_BINS = {4096: 320, 2048: 160, 1024: 80, 512: 40, 256: 20, 128: 10}  # mel bands at each STFT window
DISCRIMINATOR_WINDOWS = (2048, 1024, 512)


class SpectralLoss(nn.Module):
    """L1 between log-mel spectrograms at several resolutions."""

    def __init__(self, sample_rate: int):
        super().__init__()
        for window, bands in MEL_BINS.items():
            bank = mel_filter_bank(window // 2 + 1, bands, 0, sample_rate / 2, sample_rate, mel_scale="slaney")
            self.register_buffer(f"bank_{window}", torch.tensor(bank, dtype=torch.float32), persistent=False)

    def mel(self, spectrum: Tensor, window: int) -> Tensor:
        bank: Tensor = getattr(self, f"bank_{window}")
        return (bank.T @ spectrum.abs()).clamp(min=1e-4).log10()

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """made, real [b, 1, samples] -> mean mel distance, in log10 units."""
        pairs = [(self.mel(stft(made, w), w), self.mel(stft(real, w), w)) for w in MEL_BINS]
        return torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()


def waveform_distance(made: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference relative to the real clip's mean absolute value: keeps the phase of what is loud."""
    return ((made - real).abs().mean(-1) / (real.abs().mean(-1) + 1e-3)).mean()


def si_sdr(made: Tensor, real: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, mean over the batch (arXiv 1811.02508, equation 3)."""
    made, real = made.flatten(1), real.flatten(1)
    target = real * (made * real).sum(1, keepdim=True) / real.square().sum(1, keepdim=True).clamp(min=1e-8)
    ratio = target.square().sum(1) / (made - target).square().sum(1).clamp(min=1e-8)
    return (10 * ratio.clamp(min=1e-8).log10()).mean()


class Discriminator(nn.Module):
    """One convolutional judge for each STFT resolution."""

    def __init__(self, windows: tuple[int, ...] = DISCRIMINATOR_WINDOWS, channels: int = 24):
        super().__init__()
        self.windows = windows
        self.judges = nn.ModuleList(judge(channels) for _ in windows)

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        """audio [b, 1, samples] -> for each resolution the feature maps of every layer, the score map last."""
        out = []
        for window, layers in zip(self.windows, self.judges, strict=True):
            spectrum = stft(audio, window) / window**0.5
            # The dynamic range of hearing, as in the codec's own input: on plain spectra 80 steps taught the judges
            # nothing (hinge loss 2.00 -> 1.97), on these what is made from what is real (2.00 -> 1.13).
            x = torch.view_as_real(spectrum * (spectrum.abs() + 1e-4).pow(-0.7))
            x = x.permute(0, 3, 2, 1)  # [b, 2, frames, bins]
            features = []
            for layer in layers:  # type: ignore[attr-defined]
                x = layer(x)
                features.append(x)
            out.append(features)
        return out


def judge(channels: int) -> nn.ModuleList:
    def block(inputs: int, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Module:
        padding = (kernel[0] // 2, kernel[1] // 2)
        return nn.Sequential(weight_norm(nn.Conv2d(inputs, channels, kernel, stride, padding)), nn.LeakyReLU(0.1))

    return nn.ModuleList(
        [
            block(2, (3, 9), (1, 2)),
            block(channels, (3, 9), (1, 2)),
            block(channels, (3, 9), (1, 2)),
            block(channels, (3, 3), (1, 1)),
            weight_norm(nn.Conv2d(channels, 1, 3, padding=1)),
        ]
    )


def discriminator_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """Hinge loss of the judges, mean over resolutions."""
    losses = [F.relu(1 - r[-1]).mean() + F.relu(1 + m[-1]).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Generator's hinge loss, and feature matching relative to the size of the real features."""
    score = torch.stack([-m[-1].mean() for m in made]).mean()
    pairs = [(r, m) for rs, ms in zip(real, made, strict=True) for r, m in zip(rs[:-1], ms[:-1], strict=True)]
    matching = torch.stack([(r.detach() - m).abs().mean() / r.detach().abs().mean() for r, m in pairs]).mean()
    return score, matching
