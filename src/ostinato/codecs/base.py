"""What every codec here does: waveform <-> codes, and codes <-> the latents they stand for.

Beside the interface, what the codecs share: checks of shapes, and names by which two codecs are known to be alike.
"""

import hashlib
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from ostinato.utils.errors import UserError


class Codec(Protocol):
    """What every codec here does. Waveforms are mono at `sample_rate`; codes are [b, K, T], T counting frames.

    Tensors are to be on the codec's device. Codes or audio of another shape raise UserError.
    """

    name: str  # where it was loaded from, or its type
    sample_rate: int  # Hz
    frame_rate: float  # frames a second, sample_rate / hop
    hop: int  # samples a frame
    num_codebooks: int  # K
    codebook_size: int  # entries of one codebook
    latent_width: int  # numbers in one entry
    context: int | None  # frames before one that its sound depends on; None: all of the clip
    lookahead: int | None  # likewise after one, which a stream waits for

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
