"""Audio files: one read, one streamed read, one write, one loudness. Everything is mono float32 in [-1, 1].

Decoding and encoding are libsndfile's (through soundfile), resampling is soxr's HQ setting. libsndfile reads what
`AUDIO_SUFFIXES` lists; m4a/aac and wma are not among them and want converting first.
"""

import base64
import io
import json
import os
import shutil
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

from ostinato.utils.audio_files import AUDIO_SUFFIXES, WRITTEN_AS, check_input, check_output, check_whole
from ostinato.utils.errors import UserError
from ostinato.utils.files import why

TAGS = ("title", "comment", "software", "artist", "date", "copyright", "license")  # what libsndfile keeps everywhere
__all__ = ["AUDIO_SUFFIXES", "WRITTEN_AS", "check_output"]  # and what is here

# libvorbis puts a whole write on the stack, which a long one overflows (xiph/vorbis issue 99).
_WRITE_BLOCK = 1 << 14
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


def _add_wav_tags(path: Path, tags: Mapping[str, str]) -> None:
    data = json.dumps(dict(tags)).encode()
    data += b"\0" * (len(data) % 2)
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.write(struct.pack("<4sI", b"ostn", len(data)) + data)
        file.seek(4)
        file.write(struct.pack("<I", end + len(data)))


def write_audio(
    path: str | os.PathLike, audio: Tensor, sample_rate: int, tags: Mapping[str, str] | None = None
) -> None:
    """Write mono audio, clipped to [-1, 1]; the suffix chooses WAV or FLAC (both 16-bit PCM) or OGG (Vorbis).

    The file appears whole or not at all: it is written beside its place and renamed.

    Args: audio [1, samples] or [samples], any float type or device; tags: values by names of `TAGS`.
    Raises: UserError for another suffix, a folder that is missing or not writable, audio that is not finite;
        ValueError for another shape.
    """
    path = Path(path)
    check_output(path)
    if strange := sorted(set(tags or ()) - set(TAGS)):
        raise ValueError(f"write_audio knows the tags {', '.join(TAGS)}, not {strange[0]}")
    if audio.ndim not in (1, 2) or (audio.ndim == 2 and audio.shape[0] != 1):
        raise ValueError(f"write_audio takes [samples] or [1, samples], not {list(audio.shape)}")
    samples = audio.detach().to("cpu", torch.float32).reshape(-1)
    if not samples.isfinite().all():
        raise UserError(f"not writing {path}: the audio holds samples that are not finite numbers")
    form, subtype = WRITTEN_AS[path.suffix.lower()]
    if subtype == "VORBIS" and sample_rate > 200_000:  # libsndfile crashes the process there
        raise UserError(f"cannot write {path} at {sample_rate} Hz: Vorbis ends at 200000, use .wav")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with sf.SoundFile(temporary, "w", sample_rate, 1, subtype, format=form) as file:
            for name, value in (tags or {}).items():
                if form != "WAV" or len(value) < 500:
                    setattr(file, name, value)
            for block in samples.clamp(-1, 1).split(_WRITE_BLOCK):
                file.write(block.numpy())
        if tags and form == "WAV":
            _add_wav_tags(temporary, tags)
        os.replace(temporary, path)
    except (sf.LibsndfileError, OSError) as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_error(path: Path, error: Exception) -> UserError:
    """libsndfile says "System error" for a full disk, so the disk is asked."""
    if isinstance(error, sf.LibsndfileError) and shutil.disk_usage(path.parent).free < 1 << 16:
        return UserError(f"cannot write {path} (the disk is full: make room, or choose another place)")
    return UserError(f"cannot write {path} ({why(error)})")


def read_tail(path: str | os.PathLike, sample_rate: int, seconds: float) -> Tensor:
    """The last `seconds` of a file, with a warning that says so, or all of a shorter one; otherwise as `read_audio`."""
    with _open(Path(path)) as file:
        length = file.frames / file.samplerate
    if length > seconds:
        warnings.warn(f"of the {length:.0f} s of {path}, the last {seconds:g} s are read", stacklevel=2)
    return read_audio(path, sample_rate, max(0.0, length - seconds))


def pcm16(audio: Tensor) -> bytes:
    """audio [1, samples] in [-1, 1] -> little-endian 16-bit samples, as libsndfile makes them: those of a file."""
    whole = (audio * 32768).floor().clamp(-32768, 32767)
    return whole.to(torch.int16).cpu().numpy().astype("<i2").tobytes()


def wav_header(sample_rate: int) -> bytes:
    """Of a mono 16-bit WAV without end. A pipe cannot be rewound to write the length into the header, so it says the
    longest there is, as players expect."""
    endless = 2**32 - 1
    header = struct.pack("<4sI4s4sIHHII", b"RIFF", endless, b"WAVE", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate)
    return header + struct.pack("<HH4sI", 2, 16, b"data", endless)


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
