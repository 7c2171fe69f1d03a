"""DAC (arXiv 2306.06546), the papers' codec: transformers' network, frozen, as a `Codec`."""

import math
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import DacConfig, DacModel

from ostinato.codecs.base import check_codes, latent_slices, whole_frames, with_length
from ostinato.utils.hub import Frozen, load_model, quiet


class DAC(Frozen):
    """`transformers.DacModel` as a `Codec`. Entries are nearest after l2 normalisation (arXiv 2306.06546, 3.2)."""

    def __init__(self, model: DacModel | DacConfig):
        super().__init__()
        self.model: Any = DacModel(model) if isinstance(model, DacConfig) else model
        config = self.model.config
        self.name = self.model.name_or_path or "dac"
        self.sample_rate, self.hop = config.sampling_rate, config.hop_length
        self.frame_rate = self.sample_rate / self.hop  # config.frame_rate is rounded up
        self.num_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        self.latent_width = config.codebook_dim
        self.context: int | None = dac_context(config)
        self.lookahead: int | None = self.context
        self.freeze()

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """From a folder or hub id ("descript/dac_44khz"). Raises UserError where there is no whole model."""
        return cls(load_model(DacModel, source))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, as transformers reads them too."""
        with quiet():
            self.model.save_pretrained(folder)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """See `Codec.encode`."""
        return self.model.encode(whole_frames(audio, self.hop), return_dict=False)[2]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """See `Codec.decode`. An odd upsampling ratio costs DAC's transposed convolutions some of the last samples
        (8 of 320 a frame at 16 and 24 kHz, none at 44.1 kHz): zeros stand for them."""
        check_codes(codes, self)
        audio = self.model.decode(audio_codes=codes, return_dict=False)[0].unsqueeze(1)
        return with_length(audio, codes.shape[-1] * self.hop)

    @torch.no_grad()
    def codes_to_latents(self, codes: Tensor) -> Tensor:
        """See `Codec.codes_to_latents`."""
        check_codes(codes, self)
        return self.model.quantizer.from_codes(codes)[1]

    @torch.no_grad()
    def latents_to_codes(self, latents: Tensor) -> Tensor:
        """See `Codec.latents_to_codes`."""
        slices = latent_slices(latents, self)
        quantizers = self.model.quantizer.quantizers
        return torch.stack([q.decode_latents(x)[1] for q, x in zip(quantizers, slices, strict=False)], 1)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """See `Codec.decode_latents`."""
        slices = zip(self.model.quantizer.quantizers, latent_slices(latents, self), strict=False)
        audio = self.model.decoder(sum(q.out_proj(x) for q, x in slices))
        return with_length(audio, latents.shape[-1] * self.hop)


def dac_context(config: DacConfig) -> int:
    """Frames on either side that a frame of DAC's sound depends on (arXiv 2306.06546, section 3.1): a convolution of
    7, then for each ratio a transposed one of twice it and three residual ones of 7, dilated 1, 3 and 9, and a last one
    of 7."""
    reach, frame = 3.0, 1.0  # in frames; the length of a frame at this stage, in samples
    for ratio in config.upsampling_ratios:
        reach, frame = reach + 1 / frame, frame * ratio
        reach += 3 * (1 + 3 + 9) / frame
    return math.ceil(reach + 3 / frame)
