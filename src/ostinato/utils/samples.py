"""Samples to audio files and pipes, in NumPy alone: what `audio` does with tensors."""

import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile as sf

from ostinato.utils.audio_files import WRITTEN_AS, check_output
from ostinato.utils.errors import UserError, why

TAGS = ("title", "comment", "software", "artist", "date", "copyright", "license")  # what libsndfile keeps everywhere

# libvorbis puts a whole write on the stack, which a long one overflows (xiph/vorbis issue 99).
_WRITE_BLOCK = 1 << 14


def write_samples(
    path: str | os.PathLike, samples: np.ndarray, sample_rate: int, tags: Mapping[str, str] | None = None
) -> None:
    """`audio.write_audio` of float32 samples [samples]."""
    path = Path(path)
    check_output(path)
    if strange := sorted(set(tags or ()) - set(TAGS)):
        raise ValueError(f"write_audio knows the tags {', '.join(TAGS)}, not {strange[0]}")
    if not np.isfinite(samples).all():
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
            for start in range(0, len(samples), _WRITE_BLOCK):
                file.write(samples[start : start + _WRITE_BLOCK].clip(-1, 1))
        if tags and form == "WAV":
            _add_wav_tags(temporary, tags)
        os.replace(temporary, path)
    except (sf.LibsndfileError, OSError) as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _add_wav_tags(path: Path, tags: Mapping[str, str]) -> None:
    data = json.dumps(dict(tags)).encode()
    data += b"\0" * (len(data) % 2)
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.write(struct.pack("<4sI", b"ostn", len(data)) + data)
        file.seek(4)
        file.write(struct.pack("<I", end + len(data)))


def write_error(path: Path, error: Exception) -> UserError:
    """libsndfile says "System error" for a full disk, so the disk is asked."""
    if isinstance(error, sf.LibsndfileError) and shutil.disk_usage(path.parent).free < 1 << 16:
        return UserError(f"cannot write {path} (the disk is full: make room, or choose another place)")
    return UserError(f"cannot write {path} ({why(error)})")


def pcm16(samples: np.ndarray) -> bytes:
    """Samples in [-1, 1] -> little-endian 16-bit ones, as libsndfile makes them: those of a file."""
    return np.floor(samples * np.float32(32768)).clip(-32768, 32767).astype("<i2").tobytes()


def wav_header(sample_rate: int) -> bytes:
    """Of a mono 16-bit WAV without end. A pipe cannot be rewound to write the length into the header, so it says the
    longest there is, as players expect."""
    endless = 2**32 - 1
    header = struct.pack("<4sI4s4sIHHII", b"RIFF", endless, b"WAVE", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate)
    return header + struct.pack("<HH4sI", 2, 16, b"data", endless)
