"""The pocket codec: a small spectral codec whose network runs at frame rate, so that one CPU core is enough.

STFT -> ConvNeXt encoder -> residual VQ with factorised codes -> ConvNeXt decoder -> inverse STFT.
The quantiser follows DAC (arXiv 2306.06546, section 3.2: low-dimensional, l2-normalised look-up and quantiser
dropout), the decoder and its spectral head follow Vocos (arXiv 2306.00814, section 3).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostinato.codecs.base import check_codes, latent_slices, whole_frames
from ostinato.utils.errors import UserError
from ostinato.utils.files import load_module, read_config, write_model_folder


@dataclass(frozen=True)
class PocketConfig:
    sample_rate: int = 32000
    hop: int = 640  # samples a frame: 50 frames a second
    window: int = 2560  # samples of an STFT window, a multiple of hop, at least twice it
    width: int = 384
    depth: int = 6  # ConvNeXt blocks in the encoder, and as many in the decoder
    num_codebooks: int = 8
    codebook_size: int = 1024
    code_width: int = 8
    lookahead: int = 3  # of the 7 frames that a block of the decoder sees, those after: a stream waits for them

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            least = 0 if f.name == "lookahead" else 1
            if getattr(self, f.name) < least:
                raise ValueError(f"{f.name} must be at least {least}, got {getattr(self, f.name)}")
        if self.lookahead > 3:
            raise ValueError(f"lookahead must be at most 3, got {self.lookahead}")
        if self.window % self.hop or self.window < 2 * self.hop:  # else a window's zero is covered by no other
            raise ValueError(f"window {self.window} must be a multiple of hop {self.hop}, at least {2 * self.hop}")
        if self.window > 1 << 16:  # the table of it is in no file, whose size would bound it
            raise ValueError(f"window must be at most {1 << 16} samples, got {self.window}")


class Quantised(NamedTuple):
    latent: Tensor  # [b, T, d], straight-through
    codes: Tensor  # [b, K, T]
    codebook_loss: Tensor
    commitment_loss: Tensor


def frames_of(audio: Tensor, window: int, hop: int) -> Tensor:
    """audio [b, samples], samples a multiple of hop -> overlapping frames [b, samples / hop, window]."""
    side = (window - hop) // 2
    return F.pad(audio, (side, window - hop - side)).unfold(-1, window, hop)


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Inverse layout of `frames_of`: frames [b, T, window] summed where they overlap -> [b, T * hop]."""
    b, T, window = frames.shape
    overlap = window // hop
    parts = frames.view(b, T, overlap, hop)
    shifted = [F.pad(parts[:, :, i], (0, 0, i, overlap - 1 - i)) for i in range(overlap)]
    side = (window - hop) // 2
    return sum(shifted[1:], shifted[0]).reshape(b, -1)[:, side : side + T * hop]


class ConvNeXt(nn.Module):
    """One ConvNeXt block over time (arXiv 2201.03545), `x` [b, T, d] -> [b, T, d]. Of its 7 frames `lookahead` come
    after a frame."""

    def __init__(self, width: int, depth: int, lookahead: int = 3):
        super().__init__()
        self.sides = (6 - lookahead, lookahead)
        self.mix = nn.Conv1d(width, width, 7, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1 / depth))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(F.pad(x.transpose(1, 2), self.sides)).transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(y))))


class ResidualVQ(nn.Module):
    """K codebooks, each coding what the ones before it left over, in a space of `code_width` dimensions."""

    usage: Tensor

    def __init__(self, config: PocketConfig):
        super().__init__()
        K, d, c = config.num_codebooks, config.width, config.code_width
        self.into = nn.ModuleList(nn.Linear(d, c) for _ in range(K))
        self.out = nn.ModuleList(nn.Linear(c, d) for _ in range(K))
        self.codebook = nn.Parameter(torch.empty(K, config.codebook_size, c).normal_())
        # Running share of use, times codebook_size (1 = an even share): revives entries that nothing chooses.
        self.register_buffer("usage", torch.ones(K, config.codebook_size))

    def nearest(self, k: int, projected: Tensor) -> Tensor:
        """projected [..., code_width] -> index of the entry of the smallest angle [...]."""
        return (projected @ F.normalize(self.codebook[k], dim=-1).T).argmax(-1)

    def forward(self, z: Tensor, keep: Tensor | None = None) -> Quantised:
        """z [b, T, d]; keep [b] = how many codebooks each item is decoded from (quantiser dropout)."""
        with torch.autocast(z.device.type, enabled=False):  # the nearest of 1024 is not to be found in bfloat16
            return self.quantise(z.float(), keep)

    def quantise(self, z: Tensor, keep: Tensor | None) -> Quantised:
        residual, latent = z, torch.zeros_like(z)
        codes, codebook_loss, commitment_loss = [], z.new_zeros(()), z.new_zeros(())
        for k in range(len(self.into)):
            projected = self.into[k](residual)
            index = self.nearest(k, projected.detach())
            entry = self.codebook[k][index]
            live = torch.ones_like(z[:, 0, 0]) if keep is None else (keep > k).to(z.dtype)
            unit = F.normalize(projected, dim=-1), F.normalize(entry, dim=-1)
            commitment_loss = commitment_loss + (live * (unit[0] - unit[1].detach()).square().mean((1, 2))).mean()
            codebook_loss = codebook_loss + (live * (unit[0].detach() - unit[1]).square().mean((1, 2))).mean()
            step = self.out[k](unit[0] + (unit[1] - unit[0]).detach())
            latent = latent + live[:, None, None] * step
            residual = residual - step
            if self.training and self.codebook.requires_grad:
                self.revive(k, index, unit[0].detach())
            codes.append(index)
        return Quantised(latent, torch.stack(codes, 1), codebook_loss, commitment_loss)

    @torch.no_grad()
    def revive(self, k: int, index: Tensor, projected: Tensor) -> None:
        """Move entries that are almost never chosen onto vectors of this batch; keeps all codebooks in use."""
        size = self.codebook.shape[1]
        share = torch.bincount(index.flatten(), minlength=size).float() * (size / index.numel())
        self.usage[k].lerp_(share, 0.01)
        dead = (self.usage[k] < 0.05).nonzero()[:, 0]
        if len(dead):
            pool = projected.flatten(0, 1)
            self.codebook[k, dead] = pool[torch.randint(len(pool), (len(dead),), device=pool.device)].float()
            self.usage[k, dead] = 1.0

    def latents(self, codes: Tensor) -> Tensor:
        """codes [b, n, T] -> projected latents [b, n * code_width, T]."""
        units = F.normalize(self.codebook, dim=-1)
        return torch.cat([units[k][codes[:, k]].transpose(1, 2) for k in range(codes.shape[1])], 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Projected latents [b, n * code_width, T] -> [b, T, d]."""
        parts = latents.transpose(1, 2).split(self.codebook.shape[-1], -1)
        return torch.stack([self.out[k](part) for k, part in enumerate(parts)]).sum(0)


class PocketCodec(nn.Module):
    """The codec protocol of `ostinato.codecs.base` in about 13 million parameters."""

    window: Tensor

    def __init__(self, config: PocketConfig):
        super().__init__()
        self.config, self.name = config, "pocket"
        self.sample_rate, self.hop = config.sample_rate, config.hop
        self.frame_rate = config.sample_rate / config.hop
        self.num_codebooks, self.codebook_size = config.num_codebooks, config.codebook_size
        self.latent_width = config.code_width
        windows = config.window // config.hop // 2  # frames, on either side
        self.context: int | None = (6 - config.lookahead) * config.depth + windows
        self.lookahead: int | None = config.lookahead * config.depth + windows
        bins, d = config.window // 2 + 1, config.width
        self.analyse = nn.Linear(3 * bins, d)
        self.encoder = nn.Sequential(*(ConvNeXt(d, config.depth) for _ in range(config.depth)), nn.LayerNorm(d))
        self.quantiser = ResidualVQ(config)
        blocks = (ConvNeXt(d, config.depth, config.lookahead) for _ in range(config.depth))
        self.decoder = nn.Sequential(*blocks, nn.LayerNorm(d))
        self.synthesise = nn.Linear(d, 2 * bins)
        self.register_buffer("window", torch.hann_window(config.window, device="cpu"), persistent=False)

    def forward(self, audio: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Quantised]:
        """audio [b, 1, samples] -> reconstruction [b, 1, samples], quantised. For training."""
        samples = audio.shape[-1]
        quantised = self.quantiser(self.encode_latent(audio), keep)
        return self.decode_latent(quantised.latent)[..., :samples], quantised

    def encode_latent(self, audio: Tensor) -> Tensor:
        """audio [b, 1, samples] -> [b, T, d], T = ceil(samples / hop)."""
        audio = whole_frames(audio, self.hop)[:, 0]
        spectrum = torch.fft.rfft(frames_of(audio, self.config.window, self.hop) * self.window)
        # |X|^0.3 has the dynamic range of hearing and no singularity at silence. Alone, and with its phase: no linear
        # layer could tell the magnitudes from the turning phases.
        magnitude = (spectrum.abs() + 1e-5).pow(0.3)
        turning = torch.view_as_real(spectrum * (spectrum.abs() + 1e-5).pow(-0.7)).flatten(2)
        return self.encoder(self.analyse(torch.cat([magnitude, turning], -1)))

    def decode_latent(self, latent: Tensor) -> Tensor:
        """latent [b, T, d] -> audio [b, 1, T * hop]."""
        log_magnitude, phase = self.synthesise(self.decoder(latent)).float().chunk(2, -1)
        spectrum = torch.polar(log_magnitude.clamp(max=6.0).exp(), phase)
        frames = torch.fft.irfft(spectrum, n=self.config.window) * self.window
        ones = (self.window * self.window).expand(1, frames.shape[1], -1)
        return (overlap_add(frames, self.hop) / overlap_add(ones, self.hop)).unsqueeze(1)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """audio [b, 1, samples] -> codes [b, K, T], T = ceil(samples / hop)."""
        return self.quantiser(self.encode_latent(audio)).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes [b, n, T] of the first n codebooks -> audio [b, 1, T * hop]."""
        check_codes(codes, self)
        return self.decode_latent(self.quantiser.decode(self.quantiser.latents(codes)))

    @torch.no_grad()
    def codes_to_latents(self, codes: Tensor) -> Tensor:
        """codes [b, n, T] -> [b, n * latent_width, T]: the (unit-length) codebook entries themselves."""
        check_codes(codes, self)
        return self.quantiser.latents(codes)

    @torch.no_grad()
    def latents_to_codes(self, latents: Tensor) -> Tensor:
        """latents [b, n * latent_width, T] -> codes [b, n, T], each slice to its nearest entry."""
        slices = latent_slices(latents, self)
        return torch.stack([self.quantiser.nearest(k, x.transpose(1, 2)) for k, x in enumerate(slices)], 1)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """latents [b, n * latent_width, T], be they entries of codebooks or not -> audio [b, 1, T * hop]."""
        latent_slices(latents, self)  # which checks the width
        return self.decode_latent(self.quantiser.decode(latents))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PocketCodec":
        """Load a folder written by `save_pretrained`. Raises UserError if it is not one."""
        try:
            sizes = PocketConfig(**read_config(folder)["codec"])
            return load_module(folder, lambda: cls(sizes), max(sizes.depth, sizes.num_codebooks))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{folder} is no whole pocket codec ({reason}); copy the folder again") from error

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json and model.safetensors."""
        config = {"model_type": "pocket", "codec": dataclasses.asdict(self.config)}
        write_model_folder(folder, config, {k: v.to(dtype) for k, v in self.state_dict().items()})
