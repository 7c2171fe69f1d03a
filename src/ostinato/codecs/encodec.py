"""EnCodec (arXiv 2210.13438), MusicGen's codec: transformers' network, frozen, as a `Codec`."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

from ostinato.codecs.base import check_codes, latent_slices, whole_frames, with_length
from ostinato.utils.errors import UserError
from ostinato.utils.hub import Frozen, load_model, quiet


class EnCodec(Frozen):
    """`transformers.EncodecModel` as a `Codec`: the mono models (24 and 32 kHz). Entries are nearest in plain distance,
    and there is no projection, so a latent is 128 wide.

    num_codebooks: one of the numbers its bandwidths give (24 kHz: 2, 4, 8, 16, 32), by default the most. The model
    given is narrowed to them, so that a saved copy has the same codes. Raises UserError for another number, and for
    models whose audio does not come back from codes alone (48 kHz: stereo, in overlapping chunks, with scales apart).
    """

    def __init__(self, model: EncodecModel | EncodecConfig, num_codebooks: int | None = None):
        super().__init__()
        self.model: Any = EncodecModel(model) if isinstance(model, EncodecConfig) else model
        config: Any = self.model.config
        quantizer = self.model.quantizer
        self.name = self.model.name_or_path or "encodec"
        if config.audio_channels != 1 or config.chunk_length is not None or config.normalize:
            raise UserError(
                f"{self.name} is an EnCodec of {config.audio_channels} channels at {config.sampling_rate} Hz, "
                f"chunk_length_s={config.chunk_length_s}, normalize={config.normalize}: give a mono one without chunks "
                "or normalisation, such as facebook/encodec_24khz or facebook/encodec_32khz"
            )
        bandwidths = {quantizer.get_num_quantizers_for_bandwidth(kbps): kbps for kbps in config.target_bandwidths}
        K = max(bandwidths) if num_codebooks is None else num_codebooks
        if K not in bandwidths:
            raise UserError(f"{self.name} has no bandwidth of {K} codebooks: ask for one of {sorted(bandwidths)}")
        self.bandwidth = bandwidths[K]  # kbit/s
        config.target_bandwidths = [kbps for kbps in config.target_bandwidths if kbps <= self.bandwidth]
        quantizer.layers, quantizer.num_quantizers = quantizer.layers[:K], K
        self.sample_rate, self.hop = config.sampling_rate, config.hop_length
        self.frame_rate = self.sample_rate / self.hop
        self.num_codebooks, self.codebook_size = K, config.codebook_size
        self.latent_width = config.codebook_dim
        self.context: int | None = None  # an LSTM depends on everything before
        self.lookahead: int | None = self.context
        self.freeze()

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None) -> Self:
        """From a folder or hub id ("facebook/encodec_24khz"). Raises UserError where there is no whole model, or not
        one for this class."""
        return cls(load_model(EncodecModel, source), num_codebooks)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, as transformers reads them too; only the codebooks in use."""
        with quiet():
            self.model.save_pretrained(folder)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """See `Codec.encode`."""
        audio = whole_frames(audio, self.hop)
        return self.model.encode(audio, bandwidth=self.bandwidth, return_dict=False)[0][0]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """See `Codec.decode`."""
        check_codes(codes, self)
        audio = self.model.decode(codes[None], [None], return_dict=False)[0]
        return with_length(audio, codes.shape[-1] * self.hop)

    @torch.no_grad()
    def codes_to_latents(self, codes: Tensor) -> Tensor:
        """See `Codec.codes_to_latents`."""
        check_codes(codes, self)
        layers = self.model.quantizer.layers
        return torch.cat([layers[k].decode(codes[:, k]) for k in range(codes.shape[1])], 1)

    @torch.no_grad()
    def latents_to_codes(self, latents: Tensor) -> Tensor:
        """See `Codec.latents_to_codes`."""
        slices = latent_slices(latents, self)
        layers = self.model.quantizer.layers
        return torch.stack([layer.encode(x) for layer, x in zip(layers, slices, strict=False)], 1)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """See `Codec.decode_latents`."""
        audio = self.model.decoder(torch.stack(latent_slices(latents, self)).sum(0))
        return with_length(audio, latents.shape[-1] * self.hop)
