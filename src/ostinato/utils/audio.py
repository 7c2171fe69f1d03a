"""Audio files: one read, one streamed read, one write, one loudness. Everything is mono float32 in [-1, 1].

Decoding and encoding are libsndfile's (through soundfile), resampling is soxr's HQ setting. libsndfile reads what
`AUDIO_SUFFIXES` lists; m4a/aac and wma are not among them and want converting first.
"""

import base64
import io
import json
import os
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf
import soxr
import torch
from torch import Tensor

from ostinato.utils import samples
from ostinato.utils.audio_files import AUDIO_SUFFIXES, WRITTEN_AS, check_input, check_output, check_whole
from ostinato.utils.errors import UserError
from ostinato.utils.samples import TAGS, wav_header, write_samples

__all__ = ["AUDIO_SUFFIXES", "WRITTEN_AS", "check_output"]  # and what is here

_READ_BLOCK = 1 << 18


class EmptyAudio(UserError):
    """A file that is there but holds no samples."""


def _open(path: Path) -> sf.SoundFile:
    check_input(path)
    try:
        if path.stat().st_size == 0:
            raise EmptyAudio(f"{path} is empty (0 bytes): leave it out or fetch it again")
        check_whole(path)  # which opens it, and so says why it cannot, where libsndfile says "System error"
        return sf.SoundFile(path)
    except (sf.LibsndfileError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return UserError(f"cannot read {path} ({reason.strip().rstrip('.')}): is it whole, and audio?")


def _mono(block: np.ndarray, path: Path) -> np.ndarray:
    """[frames, channels] -> [frames]; UserError on NaN or infinity, which a float WAV can hold."""
    if not np.isfinite(block).all():
        raise UserError(f"{path} holds samples that are not finite numbers: export it again")
    return block.mean(axis=1, dtype=np.float32)


def read_audio(path: str | os.PathLike, sample_rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
    """Decode `path` to mono (mean of the channels) at `sample_rate` Hz.

    Args: start and seconds in seconds of the file; seconds=None reads to the end.
    Returns: float32 [1, samples]; with `seconds`, round(seconds * sample_rate) samples, or fewer where the file ends.
    Raises: UserError for a missing, unreadable or empty file, samples that are not finite, or a start outside the file.
    """
    path = Path(path)
    if start < 0 or (seconds is not None and seconds <= 0):
        raise UserError(f"cannot read {seconds} s from {start} s of {path}: give a start >= 0 and a length > 0")
    with _open(path) as file:
        try:
            skip = round(start * file.samplerate)
            if skip:
                skip = file.seek(min(skip, file.frames))
            # One frame more than asked: the resampler rounds its output length down.
            frames = -1 if seconds is None else int(np.ceil(seconds * file.samplerate)) + 1
            audio = _mono(file.read(frames, dtype="float32", always_2d=True), path)
        except (sf.LibsndfileError, OSError) as error:
            raise _unreadable(path, error) from error
        if not len(audio):
            if skip:
                raise UserError(f"{path} ends at {skip / file.samplerate:.2f} s: start earlier than {start} s")
            raise EmptyAudio(f"{path} holds no samples: leave it out or fetch it again")
        audio = soxr.resample(audio, file.samplerate, sample_rate, quality="HQ")
    if seconds is not None:
        audio = audio[: round(seconds * sample_rate)]
    return torch.from_numpy(np.ascontiguousarray(audio))[None]


def stream_audio(path: str | os.PathLike, sample_rate: int, clip_seconds: float) -> Iterator[Tensor]:
    """The same samples as `read_audio(path, sample_rate)` in consecutive pieces, in memory for one piece: for
    recordings of any length.

    Yields: float32 [1, round(clip_seconds * sample_rate)]; the last piece is shorter where the file ends inside it.
    Raises: UserError as `read_audio`, possibly after some pieces (a file broken in the middle).
    """
    path, size = Path(path), max(1, round(clip_seconds * sample_rate))
    with _open(path) as file:
        resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32", quality="HQ")
        kept: list[np.ndarray] = []
        have, last, any_yet = 0, False, False
        while not last:
            try:
                block = file.read(_READ_BLOCK, dtype="float32", always_2d=True)
            except (sf.LibsndfileError, OSError) as error:
                raise _unreadable(path, error) from error
            last = not len(block)
            kept.append(resampler.resample_chunk(_mono(block, path), last=last))
            have += len(kept[-1])
            while have >= size or (last and have):
                joined = np.concatenate(kept)
                piece, kept = joined[:size], [joined[size:]]
                have, any_yet = len(kept[0]), True
                yield torch.from_numpy(piece.copy())[None]
        if not any_yet:
            raise EmptyAudio(f"{path} holds no samples: leave it out or fetch it again")


def read_tags(path: str | os.PathLike) -> dict[str, str]:
    """What a file's tags say, those of `TAGS` that it has. Raises UserError for a missing or unreadable file."""
    with _open(Path(path)) as file:
        found = {name: value for name, value in file.copy_metadata().items() if name in TAGS and value}
        return found | (_wav_tags(Path(path)) if file.format == "WAV" else {})


def _wav_tags(path: Path) -> dict[str, str]:
    """The tags of the chunk that `write_audio` puts at a WAV's end: libsndfile drops all where they are above 2 kB."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"ostn":
                found = json.loads(file.read(min(size, 1 << 20)).rstrip(b"\0"))
                return {key: str(value) for key, value in found.items() if key in TAGS}
            file.seek(size + size % 2, 1)
    return {}


def write_audio(
    path: str | os.PathLike, audio: Tensor, sample_rate: int, tags: Mapping[str, str] | None = None
) -> None:
    """Write mono audio, clipped to [-1, 1]; the suffix chooses WAV or FLAC (both 16-bit PCM) or OGG (Vorbis).

    The file appears whole or not at all: it is written beside its place and renamed.

    Args: audio [1, samples] or [samples], any float type or device; tags: values by names of `TAGS`.
    Raises: UserError for another suffix, a folder that is missing or not writable, audio that is not finite;
        ValueError for another shape.
    """
    if audio.ndim not in (1, 2) or (audio.ndim == 2 and audio.shape[0] != 1):
        raise ValueError(f"write_audio takes [samples] or [1, samples], not {list(audio.shape)}")
    write_samples(path, audio.detach().to("cpu", torch.float32).reshape(-1).numpy(), sample_rate, tags)


def read_tail(path: str | os.PathLike, sample_rate: int, seconds: float) -> Tensor:
    """The last `seconds` of a file, with a warning that says so, or all of a shorter one; otherwise as `read_audio`."""
    with _open(Path(path)) as file:
        length = file.frames / file.samplerate
    if length > seconds:
        warnings.warn(f"of the {length:.0f} s of {path}, the last {seconds:g} s are read", stacklevel=2)
    return read_audio(path, sample_rate, max(0.0, length - seconds))


def pcm16(audio: Tensor) -> bytes:
    """audio [1, samples] in [-1, 1] -> little-endian 16-bit samples, as libsndfile makes them: those of a file."""
    return samples.pcm16(audio.float().cpu().numpy())


def data_url(audio: Tensor, sample_rate: int) -> str:
    """audio [1, samples] in [-1, 1] as a 16-bit WAV in an address, for a web page."""
    file = io.BytesIO()
    sf.write(file, np.frombuffer(pcm16(audio), "<i2"), sample_rate, "PCM_16", format="WAV")
    return f"data:audio/wav;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_stream(out: BinaryIO, pieces: Iterable[Tensor], sample_rate: int) -> None:
    """Write pieces [1, samples] as one 16-bit WAV to a pipe, each as it comes."""
    out.write(wav_header(sample_rate))
    for piece in pieces:
        out.write(pcm16(piece))
        out.flush()


def loudness_db(audio: Tensor) -> float:
    """Root mean square of the whole tensor in dB relative to full scale (a full-scale sine is -3.01); digital silence
    and no samples at all are -inf."""
    if not audio.numel():
        return float("-inf")
    return 10 * float(audio.float().square().mean().log10())
