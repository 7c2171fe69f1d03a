"""The short-time Fourier transform that losses, pictures and the pocket codec share."""

import torch
from torch import Tensor


def stft(audio: Tensor, window: int) -> Tensor:
    """audio [b, 1, samples] -> complex [b, bins, frames], Hann window, hop a quarter of it."""
    hann = torch.hann_window(window, device=audio.device)
    return torch.stft(audio[:, 0].float(), window, window // 4, window=hann, return_complex=True)
