"""Audio codecs: waveform <-> codes, and codes <-> the latents they stand for.

DAC (arXiv 2306.06546) is the papers' codec; EnCodec (arXiv 2210.13438) is MusicGen's. Both networks are those of
transformers: here they are frozen and given one interface. `codecs.pocket` has a third, trained by this project.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, Protocol, Self

import huggingface_hub
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from ostinato.utils.errors import UserError
from ostinato.utils.hub import Frozen, fetch, load_model, model_type, quiet

SHORT_NAMES = {
    "dac": "descript/dac_44khz",
    "encodec": "facebook/encodec_32khz",
    "pocket": str(Path(__file__).parents[1] / "packs" / "pocket" / "codec"),  # ships with the package
}


class Codec(Protocol):
    """What every codec here does. Waveforms are mono at `sample_rate`; codes are [b, K, T], T counting frames.

    Tensors are to be on the codec's device. Codes or audio of another shape raise UserError.
    """

    name: str  # where it was loaded from, or its kind
    sample_rate: int  # Hz
    frame_rate: float  # frames a second, sample_rate / hop
    hop: int  # samples a frame
    num_codebooks: int  # K
    codebook_size: int  # entries of one codebook
    latent_width: int  # numbers in one entry
    context: int | None  # frames before and after one that its sound depends on; None: all of the clip

    def encode(self, audio: Tensor) -> Tensor:
        """audio [b, 1, samples] float32 -> codes [b, K, ceil(samples / hop)] int64; the last frame is filled up with
        zeros."""

    def decode(self, codes: Tensor) -> Tensor:
        """codes [b, n, T] of the first n <= K codebooks alone -> audio [b, 1, T * hop] float32."""

    def codes_to_latents(self, codes: Tensor) -> Tensor:
        """codes [b, n, T] -> their codebook entries, before any output projection, [b, n * latent_width, T]."""

    def latents_to_codes(self, latents: Tensor) -> Tensor:
        """latents [b, n * latent_width, T] -> codes [b, n, T]: every slice to the entry nearest to it, by the codec's
        own distance."""

    def decode_latents(self, latents: Tensor) -> Tensor:
        """latents [b, n * latent_width, T], be they entries of codebooks or not -> audio as `decode` gives it."""


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
        self.context: int | None = None  # an LSTM hears everything before
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


def dac_context(config: DacConfig) -> int:
    """Frames on either side that DAC's decoder hears (arXiv 2306.06546, section 3.1): a convolution of 7, then for each
    ratio a transposed one of twice it and three residual ones of 7, dilated 1, 3 and 9, and a last one of 7."""
    reach, frame = 3.0, 1.0  # in frames; the length of a frame at this stage, in samples
    for ratio in config.upsampling_ratios:
        reach, frame = reach + 1 / frame, frame * ratio
        reach += 3 * (1 + 3 + 9) / frame
    return math.ceil(reach + 3 / frame)


def whole_frames(audio: Tensor, hop: int) -> Tensor:
    """audio [b, 1, samples] -> the same with zeros at the end, up to a multiple of `hop` samples."""
    if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[2] < 1:
        raise UserError(f"audio of shape {list(audio.shape)}: give [batch, 1, samples], mono, with at least one sample")
    return F.pad(audio, (0, -audio.shape[-1] % hop))


def with_length(audio: Tensor, samples: int) -> Tensor:
    """audio [b, 1, any] -> [b, 1, samples], cut or filled up with zeros at the end."""
    return F.pad(audio, (0, samples - audio.shape[-1]))


def check_codes(codes: Tensor, codec: Codec) -> None:
    """Raise UserError unless codes are [b, 1 <= n <= K, T >= 1] and each is an entry of a codebook."""
    if codes.ndim != 3 or not 1 <= codes.shape[1] <= codec.num_codebooks or codes.shape[2] < 1:
        raise UserError(
            f"codes of shape {list(codes.shape)}: give [batch, codebooks, frames] with 1 to {codec.num_codebooks} "
            f"codebooks for {codec.name}"
        )
    # Asked here, because an index out of range on a GPU ends the process with an unreadable message.
    low, high = (int(x) for x in codes.aminmax())
    if low < 0 or high >= codec.codebook_size:
        raise UserError(
            f"codes from {low} to {high}: {codec.name} has 0 to {codec.codebook_size - 1}; were they made by another "
            "codec, or do they still hold mask tokens?"
        )


def latent_slices(latents: Tensor, codec: Codec) -> tuple[Tensor, ...]:
    """latents [b, n * latent_width, T] -> n times [b, latent_width, T]. Raises UserError for any other width."""
    width = codec.latent_width
    if latents.ndim != 3 or latents.shape[1] not in range(width, codec.num_codebooks * width + 1, width):
        raise UserError(
            f"latents of shape {list(latents.shape)}: give [batch, n * {width}, frames] with 1 <= n <= "
            f"{codec.num_codebooks} for {codec.name}"
        )
    return latents.split(width, 1)


def sound(codec: Codec, frames: Tensor) -> Tensor:
    """Codes [b, n, T] of whole numbers, or latents [b, n * latent_width, T] -> audio [b, 1, T * hop]."""
    return codec.decode_latents(frames) if frames.is_floating_point() else codec.decode(frames)


def fingerprint(codec: Codec) -> str:
    """16 hex digits that two codecs share when a code means the same to both: of their codebooks, in float32, and of
    the numbers that frame them. The same on every device, and after saving and loading."""
    numbers = codec.sample_rate, codec.hop, codec.num_codebooks, codec.codebook_size, codec.latent_width
    digest = hashlib.sha256(repr(numbers).encode())
    # Weights, and not codes_to_latents: an entry that is computed may differ in its last bit between devices.
    for name, weight in getattr(codec, "state_dict", dict)().items():
        if "codebook" in name:
            digest.update(weight.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def sound_id(codec: Codec) -> str:
    """16 hex digits that two codecs share when they sound alike: of all their weights, a decoder's too, which
    `fingerprint` leaves out."""
    digest = hashlib.sha256(f"{type(codec).__name__} {fingerprint(codec)}".encode())
    for weight in getattr(codec, "state_dict", dict)().values():
        digest.update(weight.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def hub_folder(source: str) -> Path:
    """The cached folder of a hub id that holds config.json and model.safetensors, fetched where need be. Errors:
    `fetch`."""
    # One by one: `model_type` leaves a snapshot of config.json alone, which snapshot_download takes for the whole. The
    # weights first: their fetch may move the cache to a newer revision, whose config then is fetched, too.
    names = ("model.safetensors", "config.json")
    files = [fetch(huggingface_hub.hf_hub_download, source, filename=name) for name in names]
    return Path(files[-1]).parent


def load_codec(name_or_folder: str | Path, device: str | torch.device = "cpu") -> Codec:
    """A codec by short name ("dac", "encodec", "pocket"), folder or hub id, on `device`.

    A folder of that name goes before a short name. Raises UserError for a name that is none of these, a hub that
    cannot be reached, and a model that is not a codec known here.
    """
    source = str(name_or_folder)
    if not Path(source).is_dir():
        if "/" not in source and source not in SHORT_NAMES:
            raise UserError(f"no codec {source!r}: give {', '.join(SHORT_NAMES)}, a codec's folder or a hub id")
        source = SHORT_NAMES.get(source, source)
    kind = model_type(source)
    codec: nn.Module
    if kind == "dac":
        codec = DAC.from_pretrained(source)
    elif kind == "encodec":
        codec = EnCodec.from_pretrained(source)
    elif kind == "pocket":
        from ostinato.codecs.pocket import PocketCodec

        codec = PocketCodec.from_pretrained(source if Path(source).is_dir() else hub_folder(source))
    else:
        raise UserError(f"{source} holds a model of type {kind!r}, which is no codec here: give dac, encodec or pocket")
    return codec.to(device)  # type: ignore[return-value]  # all three have what Codec asks for
