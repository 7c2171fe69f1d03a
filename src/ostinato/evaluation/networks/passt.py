"""PaSST-S, a spectrogram transformer that tags audio with AudioSet's 527 classes (arXiv 2110.05069).

It is what stable-audio-metrics and AudioCraft take the KL divergence of: the network of hear21passt
(`passt_s_swa_p16_128_ap476`: 16 x 16 patches every 10, no patchout) and its front end, names as in its weights.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostinato.evaluation.networks.base import cut, each_window, fill, read_weights
from ostinato.utils.hub import Frozen

WIDTH, DEPTH, HEADS, CLASSES = 768, 12, 12, 527
PATCH, STRIDE = 16, 10
BANDS, FRAMES = 12, 99  # patches of 128 mel bands, and of 10 s


def kaldi_mel_banks(bands: int, n_fft: int, sample_rate: int, low: float, high: float) -> Tensor:
    """Kaldi's triangles [bands, n_fft / 2 + 1], straight in mel = 1127 ln(1 + Hz / 700); nothing at Nyquist."""
    mel = [1127 * math.log1p(f / 700) for f in (low, high)]
    points = torch.linspace(mel[0], mel[1], bands + 2, dtype=torch.float64)
    bins = 1127 * torch.log1p(torch.arange(n_fft // 2, dtype=torch.float64) * sample_rate / n_fft / 700)
    left, centre, right = (points[i : i + bands, None] for i in range(3))
    banks = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    return F.pad(banks, (0, 1)).float()


class LogMel(nn.Module):
    """The front end of PaSST and of EfficientAT: [b, samples] at 32 kHz -> [b, 128, samples / 320], about -1 to 1."""

    hann: Tensor
    banks: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hann", torch.hann_window(800, periodic=False), persistent=False)
        self.register_buffer("banks", kaldi_mel_banks(128, 1024, 32000, 0.0, 15000.0), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        emphasised = audio[:, 1:] - 0.97 * audio[:, :-1]
        spectrum = torch.stft(emphasised, 1024, 320, 800, self.hann, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return ((self.banks @ power + 1e-5).log() + 4.5) / 5


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.attn, self.mlp = Attention(), MLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Mel frames [b, 128, t], t at most ten seconds of them -> features [b, 768]: the mean of its two tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, WIDTH, PATCH, STRIDE)})
        self.cls_token, self.dist_token = (nn.Parameter(torch.zeros(1, 1, WIDTH)) for _ in range(2))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, WIDTH))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, WIDTH, BANDS, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, WIDTH, 1, FRAMES))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, 1e-6)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES))
        self.head_dist = nn.Linear(WIDTH, CLASSES)  # in the weights, and used by nobody

    def forward(self, mel: Tensor) -> Tensor:
        x = self.patch_embed["proj"](mel[:, None])
        x = x + self.time_new_pos_embed[..., : x.shape[-1]] + self.freq_new_pos_embed
        tokens = torch.cat([self.cls_token, self.dist_token], 1) + self.new_pos_embed
        x = torch.cat([tokens.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        return self.norm(self.blocks(x))[:, :2].mean(1)


def ten_seconds(audio: Tensor, sample_rate: int) -> Tensor:
    """[..., samples] -> [..., windows, 10 s], one every 5 s as stable-audio-metrics cuts them: a new one as long as 5 s
    are left, the last one padded with zeros. (A whole clip of 1.5 s or less it leaves unpadded; here it is padded.)"""
    step = 5 * sample_rate
    return cut(audio, 2 * step, step, math.ceil(max(step, audio.shape[-1] - step) / step))


class PaSST(Frozen):
    """See `base.Tagger`. path: passt-s-f128-p16-s10-ap.476-swa.pt. Raises UserError for other weights."""

    name, sample_rate, window, proxy = "passt", 32000, 10.0, False
    labels: tuple[str, ...] = ()  # the weights come without names

    def __init__(self, path: str | Path):
        super().__init__()
        self.mel = LogMel()
        with torch.device("meta"):
            self.net = Transformer()
        fill(self.net, read_weights(path), path, self.name)
        self.freeze()

    def embed(self, audio: Tensor) -> Tensor:
        """[..., samples] -> features [..., windows, 768]."""
        return each_window(lambda part: self.net(self.mel(part)), ten_seconds(audio, self.sample_rate))

    def tags(self, audio: Tensor) -> Tensor:
        """[..., samples] -> logits [..., windows, 527]. For the KL divergence their mean over windows goes through a
        softmax, as in stable-audio-metrics."""
        return each_window(lambda part: self.net.head(self.net(self.mel(part))), ten_seconds(audio, self.sample_rate))
