"""OpenL3's audio network, music, 256 mel bands, 512-d (Cramer et al., ICASSP 2019; its weights of version 0.4.0).

It is what stable-audio-metrics takes the Frechet distance of, with a hop of 0.5 s: audio at 44.1 kHz is resampled to
the network's 48 kHz and cut into windows of 1 s, the first of them centred on the first sample. Everything follows
the original stack (openl3 0.4.2 on kapre 0.3.7 and resampy 0.2.2), down to its resampling filter: that filter's slope
lies where the highest mel bands are, and the network hears 80 dB down.
"""

import gzip
import io
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from ostinato.evaluation.networks.base import cut, each_window
from ostinato.utils.errors import UserError
from ostinato.utils.hub import Frozen, first_line

RATE, HOP = 48000, 24000  # Hz of the network; samples from one window to the next
UP, DOWN = 160, 147  # 44.1 kHz to 48 kHz
# resampy 0.2.2's `kaiser_best`: a sinc of 64 zero crossings to either side, under a Kaiser window, in a table.
ZEROS, TABLE, BETA, ROLLOFF = 64, 512, 14.769656459379492, 0.9475937167399596


def resampling_filters() -> Tensor:
    """The filters of the 160 output samples that 147 input samples become: [160, 1, 274], the first tap 63 samples
    before the first input (J. O. Smith's band-limited interpolation; between entries of the table it is linear)."""
    u = np.linspace(0, ZEROS, ZEROS * TABLE + 1)
    table = ROLLOFF * np.sinc(ROLLOFF * u) * np.kaiser(2 * ZEROS * TABLE + 1, BETA)[ZEROS * TABLE :]
    filters = np.zeros((UP, 2 * ZEROS + DOWN - 1))
    taps = np.arange(1 - ZEROS, ZEROS + 1)
    for r in range(UP):
        n, rest = divmod(r * DOWN, UP)
        filters[r, n : n + 2 * ZEROS] = np.interp(np.abs(taps - rest / UP), u, table)
    return torch.tensor(filters, dtype=torch.float32)[:, None]


class MelDecibels(nn.Module):
    """kapre's front end: 1 s at 48 kHz [b, 48000] -> [b, 256, 199] in dB below the window's maximum, at least -80."""

    bank: Tensor
    hann: Tensor

    def __init__(self) -> None:
        super().__init__()
        bank = mel_filter_bank(1025, 256, 0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("bank", torch.tensor(bank.T, dtype=torch.float32), persistent=False)
        self.register_buffer("hann", torch.hann_window(2048), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        hop, size = 242, 2048
        frames = cut(audio, size, hop, math.ceil(audio.shape[-1] / hop))
        # Of the magnitude, not the power; the factor is 10 all the same.
        mel = self.bank @ torch.fft.rfft(frames * self.hann).abs().mT
        decibels = 10 * mel.clamp(min=1e-10).log10()
        return (decibels - decibels.amax((1, 2), keepdim=True)).clamp(min=-80)


def layers() -> list[nn.Module]:
    """The network in the order of its weights: pairs of convolutions 64, 128, 256, 512 wide with pooling between."""

    def norm(c: int) -> nn.Module:
        return nn.BatchNorm2d(c, eps=1e-3)

    def conv(c_in: int, c_out: int) -> nn.Module:
        return nn.Conv2d(c_in, c_out, 3, padding=1)

    all_layers, c_in = [norm(1)], 1
    for c in (64, 128, 256):
        all_layers += [conv(c_in, c), norm(c), nn.ReLU(), conv(c, c), norm(c), nn.ReLU(), nn.MaxPool2d(2)]
        c_in = c
    return all_layers + [conv(256, 512), norm(512), nn.ReLU(), conv(512, 512)]


class OpenL3(Frozen):
    """See `base.Listener`. path: openl3_audio_mel256_music-v0_4_0.h5, gzipped or not.

    Raises UserError where h5py is missing, and for other weights.
    """

    name, sample_rate, window, proxy = "openl3", 44100, 1.0, False
    filters: Tensor

    def __init__(self, path: str | Path):
        super().__init__()
        self.mel, self.net = MelDecibels(), nn.Sequential(*layers())
        self.register_buffer("filters", resampling_filters(), persistent=False)
        fill_from_keras(self.net, path)
        self.freeze()

    def resample(self, audio: Tensor) -> Tensor:
        """[b, samples] at 44.1 kHz -> [b, floor(160 / 147 samples)] at 48 kHz."""
        length = audio.shape[-1] * UP // DOWN
        padded = F.pad(audio[:, None], (ZEROS - 1, DOWN + ZEROS))
        return F.conv1d(padded, self.filters, stride=DOWN).mT.flatten(1)[:, :length]

    def windows(self, audio: Tensor) -> Tensor:
        """[b, samples] at 44.1 kHz -> [b, windows, 48000] at 48 kHz."""
        audio = F.pad(self.resample(audio), (RATE // 2, 0))
        return cut(audio, RATE, HOP, 1 + max(0, math.ceil((audio.shape[-1] - RATE) / HOP)))

    def forward(self, windows: Tensor) -> Tensor:
        """[b, 48000] -> [b, 512]."""
        return self.net(self.mel(windows)[:, None]).amax((2, 3))

    @torch.no_grad()
    def embed(self, audio: Tensor) -> Tensor:
        """[..., samples] -> [..., windows, 512], a window every 0.5 s."""
        found = each_window(self, self.windows(audio.reshape(-1, audio.shape[-1])))
        return found.unflatten(0, audio.shape[:-1]) if audio.ndim > 1 else found[0]


def fill_from_keras(net: nn.Sequential, path: str | Path) -> None:
    """Put the weights of a Keras file (HDF5) into the layers that have any, in order."""
    ours = [layer for layer in net if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    theirs = read_keras(path)
    for layer, weights in zip(ours, theirs, strict=False):
        slots = [slot for name, slot in layer.state_dict().items() if name != "num_batches_tracked"]
        if isinstance(layer, nn.Conv2d) and weights[0].ndim == 4:
            weights = [weights[0].permute(3, 2, 0, 1), *weights[1:]]
        if [slot.shape for slot in slots] != [weight.shape for weight in weights] or len(ours) != len(theirs):
            raise UserError(f"{path} holds no weights of OpenL3's mel256 audio network: check the path")
        for slot, weight in zip(slots, weights, strict=True):
            slot.copy_(weight)


def read_keras(path: str | Path) -> list[list[Tensor]]:
    """The weights of each layer that has any, as Keras's `save_weights` orders them. Errors as `OpenL3`."""
    try:
        import h5py
    except ImportError as error:
        raise UserError("OpenL3's weights are an HDF5 file: run pip install 'ostinato[evaluate]' to read it") from error
    try:
        data = Path(path).read_bytes()
        with h5py.File(io.BytesIO(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)) as file:
            root = file if "layer_names" in file.attrs else file["model_weights"]
            groups = [root[name] for name in root.attrs["layer_names"]]
            weights = [[torch.tensor(group[name][()]) for name in group.attrs["weight_names"]] for group in groups]
    except (OSError, EOFError, KeyError) as error:
        raise UserError(f"cannot read the weights {path} ({first_line(error)}): is it whole, and Keras's?") from error
    return [layer for layer in weights if layer]
