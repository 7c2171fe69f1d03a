"""The fine stage's networks: a 1-D U-Net as in DiscoDiff, and a bidirectional SiMBA.

Both read the clean coarse latent beside the noisy fine one and the text, and predict v (see `diffusion`), or how likely
each code is:
    denoiser(noisy [b, F, T], coarse [b, C, T], time [b], text [b, s, w], text_mask [b, s], mask [b, T])
        -> v [b, F, T], or logits [b, (K - 1) V, T]
for any T >= 1. mask is False at padding, which must stand after all real frames and changes none of them.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostinato.models.attention import CrossAttention
from ostinato.models.lm import FeedForward, recomputed, sinusoids
from ostinato.models.mamba import Mamba2
from ostinato.utils.errors import UserError, nearest

KINDS = ("unet", "simba")
PREDICTION_TYPES = ("v", "codes")


@dataclass(frozen=True)
class FineConfig:
    """Sizes; by default those of the paper's fine stage, for DAC: 8 numbers coarse and 64 fine, about 1.2 B weights."""

    denoiser: str = "unet"  # or simba
    # "v", as the paper; or "codes": logits of each code, which `diffusion.code_velocity` turns into v
    prediction_type: str = field(default="v", metadata={"formerly": "tells"})
    num_codebooks: int = 9  # K; the first is coarse, K - 1 are fine
    latent_width: int = 8  # numbers of one codebook's entry
    codebook_size: int = 1024  # V, entries of a codebook; for "codes"
    text_width: int = 768
    width: int = 544
    heads: int = 8  # of attention
    dropout: float = 0.0
    multiples: tuple[int, ...] = (1, 2, 4, 4)  # U-Net: of `width`, at each level; a level has half the frames
    blocks: int = 3  # U-Net: on each level, and as many on the way back; SiMBA: in all
    feed_forward: int = 2048  # the rest: SiMBA
    state: int = 64
    expand: int = 2
    head_width: int = 64
    conv: int = 4
    chunk: int = 64

    def __post_init__(self) -> None:
        if self.denoiser not in KINDS:
            raise UserError(f"unknown denoiser {self.denoiser!r}; {nearest(self.denoiser, list(KINDS))}")
        if self.prediction_type not in PREDICTION_TYPES:
            advice = nearest(self.prediction_type, list(PREDICTION_TYPES))
            raise UserError(f"unknown prediction_type {self.prediction_type!r}; {advice}")
        for f in fields(self):
            if f.type is int and getattr(self, f.name) < 1:
                raise ValueError(f"{f.name} must be at least 1, got {getattr(self, f.name)}")
        if self.num_codebooks < 2:
            raise ValueError("a fine stage needs a codec of 2 codebooks or more: num_codebooks is 1")
        if not self.multiples or min(self.multiples) < 1:
            raise ValueError(f"multiples must be whole numbers from 1, got {list(self.multiples)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} must be even and a multiple of heads {self.heads}")
        if self.denoiser == "simba" and self.expand * self.width % self.head_width:
            raise ValueError(f"expand * width = {self.expand * self.width} must be a multiple of {self.head_width}")

    @property
    def coarse(self) -> int:
        """C, numbers of a coarse frame."""
        return self.latent_width

    @property
    def fine(self) -> int:
        """F, numbers of a fine frame."""
        return (self.num_codebooks - 1) * self.latent_width

    @property
    def outputs(self) -> int:
        """Numbers of a frame that a denoiser predicts."""
        return self.fine if self.prediction_type == "v" else (self.num_codebooks - 1) * self.codebook_size


def make_denoiser(config: FineConfig) -> "UNet | BidirectionalSimba":
    """The network that `config.denoiser` names."""
    return UNet(config) if config.denoiser == "unet" else BidirectionalSimba(config)


class Time(nn.Module):
    """time [b] -> [b, width]."""

    def __init__(self, width: int):
        super().__init__()
        self.width, self.up, self.down = width, nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        waves = sinusoids(1000 * time.float()[:, None], self.width)[:, 0]
        return self.down(F.silu(self.up(waves.to(self.up.weight.dtype))))


class ChannelNorm(nn.Module):
    """RMS norm of each frame of [b, d, T]: nothing is shared over time, so padding has no say."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = x.float().square().mean(1, keepdim=True).add(1e-5).rsqrt().to(x.dtype)
        return x * scale * self.weight[:, None].to(x.dtype)


class Residual(nn.Module):
    """Two convolutions of 3, the time by scale and shift between them: [b, inputs, T] -> [b, width, T]."""

    def __init__(self, inputs: int, width: int, time: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(inputs), nn.Conv1d(inputs, width, 3, padding=1)
        self.time = nn.Linear(time, 2 * width)
        self.norm2, self.conv2 = ChannelNorm(width), nn.Conv1d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv1d(inputs, width, 1) if inputs != width else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        scale, shift = self.time(F.silu(time)).unsqueeze(-1).chunk(2, 1)
        y = self.conv1(F.silu(self.norm1(x)) * mask)
        y = F.silu(self.norm2(y) * (1 + scale) + shift) * mask
        return self.skip(x) + self.conv2(self.dropout(y))


class LinearAttention(nn.Module):
    """Every frame to all others in time linear in T (arXiv 1812.01243): [b, d, T] -> [b, d, T]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, ChannelNorm(width)
        self.into = nn.Conv1d(width, 3 * width, 1, bias=False)
        self.out = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.into(self.norm(x)).unflatten(1, (3, self.heads, -1)).unbind(1)  # [b, heads, d / heads, T]
        k = k.masked_fill(mask.unsqueeze(1) == 0, float("-inf")).softmax(-1)
        summary = k @ v.mT  # [b, heads, d / heads, d / heads]
        return x + self.out((summary.mT @ q.softmax(2)).flatten(1, 2))


class UNetBlock(nn.Module):
    """Residual convolutions, linear attention over the frames, cross-attention to the text."""

    def __init__(self, inputs: int, width: int, config: FineConfig):
        super().__init__()
        self.residual = Residual(inputs, width, config.width, config.dropout)
        self.attention = LinearAttention(width, config.heads)
        self.norm = ChannelNorm(width)
        self.text = CrossAttention(width, config.heads, text_width=config.text_width)
        nn.init.zeros_(self.text.out_proj.weight)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, text_mask: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(self.residual(x, time, mask), mask)
        attended = self.text(self.norm(x).mT, self.text.text_state(text, text_mask))
        return x + attended.mT


class UNet(nn.Module):
    """The secondary model of DiscoDiff (reference [8] of the paper, section III-B)."""

    def __init__(self, config: FineConfig):
        super().__init__()
        c, widths = config, [config.width * m for m in config.multiples]
        self.config, self.checkpointing = config, False  # of activations, in training
        self.time = Time(c.width)
        self.into = nn.Conv1d(c.coarse + c.fine, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.stretch = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[max(0, i - 1)]
            if i:
                self.shrink.append(nn.Conv1d(before, width, 4, stride=2, padding=1))
                self.stretch.append(nn.Conv1d(width, before, 3, padding=1))
            self.down.append(nn.ModuleList(UNetBlock(width, width, c) for _ in range(c.blocks)))
            self.up.append(nn.ModuleList(UNetBlock(2 * width, width, c) for _ in range(c.blocks)))
        self.middle = nn.ModuleList(UNetBlock(widths[-1], widths[-1], c) for _ in range(2))
        around = int(c.prediction_type == "v")  # frames on either side; V logits of each are many already
        self.norm, self.out = ChannelNorm(widths[0]), nn.Conv1d(widths[0], c.outputs, 1 + 2 * around, padding=around)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(
        self, noisy: Tensor, coarse: Tensor, time: Tensor, text: Tensor, text_mask: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """See the top of this file."""
        T = noisy.shape[-1]
        real = torch.ones_like(noisy[:, :1]) if mask is None else mask.unsqueeze(1).to(noisy.dtype)
        pad = (0, -T % 2 ** (len(self.down) - 1))
        masks = [F.pad(real, pad)]
        for _ in self.shrink:
            masks.append(F.max_pool1d(masks[-1], 2))
        about = self.time(time), text, text_mask
        x = self.into(F.pad(torch.cat([coarse, noisy], 1), pad) * masks[0])
        kept = []
        for i, blocks in enumerate(self.down):
            x = self.shrink[i - 1](x * masks[i - 1]) if i else x
            for block in blocks:  # type: ignore[attr-defined]
                x = recomputed(self, block, x, *about, masks[i])
                kept.append(x)
        for block in self.middle:
            x = recomputed(self, block, x, *about, masks[-1])
        for i in reversed(range(len(self.up))):
            for block in self.up[i]:  # type: ignore[attr-defined]
                x = recomputed(self, block, torch.cat([x, kept.pop()], 1), *about, masks[i])
            x = self.stretch[i - 1](x.repeat_interleave(2, 2) * masks[i - 1]) if i else x
        return self.out(F.silu(self.norm(x)) * masks[0])[..., :T]


class SimbaBlock(nn.Module):
    """A Mamba-2 forwards and one backwards in time, cross-attention to the text, feed-forward; each sub-layer's norm is
    scaled and shifted, and its output gated, by the time (as in DiT, arXiv 2212.09748)."""

    def __init__(self, config: FineConfig):
        super().__init__()
        c, d = config, config.width
        self.forwards = Mamba2(d, c.state, c.expand, c.head_width, c.conv, c.chunk)
        self.backwards = Mamba2(d, c.state, c.expand, c.head_width, c.conv, c.chunk)
        self.text = CrossAttention(d, c.heads, c.dropout, text_width=c.text_width)
        self.feed_forward = FeedForward(d, c.feed_forward, c.dropout)
        # Added to what all blocks share (arXiv 2310.00426, section 2.3): a layer for each block would be a third of the
        # weights. Gates begin small, not at 0, where no sub-layer would learn before `out` has.
        offset = torch.zeros(3, 3, d)
        offset[:, 2] = 0.1
        self.offset = nn.Parameter(offset)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, text_mask: Tensor, mask: Tensor | None) -> Tensor:
        """x [b, T, d], time [b, 3, 3, d]."""
        (mix, read, think) = (time + self.offset).unsqueeze(3).unbind(1)
        x = x + gated(mix, x, lambda y: self.forwards(y, mask=mask) + self.flipped(y, mask))
        state = self.text.text_state(text, text_mask)
        x = x + gated(read, x, lambda y: self.text(y, state))
        return x + gated(think, x, self.feed_forward)

    def flipped(self, y: Tensor, mask: Tensor | None) -> Tensor:
        return self.backwards(y.flip(1), mask=None if mask is None else mask.flip(1)).flip(1)


def gated(how: Tensor, x: Tensor, layer: Any) -> Tensor:
    """how [b, 3, 1, d]: scale, shift and gate."""
    scale, shift, gate = how.unbind(1)
    return gate * layer(F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale) + shift)


class BidirectionalSimba(nn.Module):
    """SiMBA over whole windows: state space both ways in time in place of attention or convolutions."""

    def __init__(self, config: FineConfig):
        super().__init__()
        c, d = config, config.width
        self.config, self.checkpointing = config, False
        self.time, self.modulate = Time(d), nn.Linear(d, 9 * d)
        self.into = nn.Linear(c.coarse + c.fine, d)
        self.layers = nn.ModuleList(SimbaBlock(c) for _ in range(c.blocks))
        self.norm, self.out = nn.RMSNorm(d, eps=1e-5), nn.Linear(d, c.outputs)
        for linear in (self.modulate, self.out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, noisy: Tensor, coarse: Tensor, time: Tensor, text: Tensor, text_mask: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """See the top of this file."""
        x = self.into(torch.cat([coarse, noisy], 1).mT)
        how = self.modulate(F.silu(self.time(time))).unflatten(-1, (3, 3, -1))
        for block in self.layers:
            x = recomputed(self, block, x, how, text, text_mask, mask)
        return self.out(self.norm(x)).mT
