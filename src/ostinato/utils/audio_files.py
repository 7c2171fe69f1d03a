"""Audio files by name and header, without decoding any: what can be read and written, and whether a file is whole.

Nothing here needs torch, so that a mistake is reported at once.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from ostinato.utils.errors import UserError

AUDIO_SUFFIXES = frozenset(
    (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2")
    + (".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64")
)
WRITTEN_AS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
UNKNOWN = 0x7FFF0000  # a length from here on was written before it was known: to a pipe


def check_input(path: Path) -> None:
    """Raise UserError unless `path` is a file that can be opened."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an audio file: name a file in it")
    if not path.is_file():
        raise UserError(f"no audio file {path}: check the name")


def check_output(path: str | os.PathLike) -> None:
    """Raise the UserError that `write_audio` would for this name, before there is audio: another suffix, or a folder
    that is missing or not writable."""
    path = Path(path)
    if path.suffix.lower() not in WRITTEN_AS:
        raise UserError(f"cannot write {path.name!r}: end the name in .wav, .flac, .ogg or .mp3")
    try:
        if not path.parent.is_dir():
            raise UserError(f"cannot write {path}: no folder {path.parent}; make it first")
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UserError(f"cannot write {path}: it is a folder, or its folder is not writable; choose another place")
        if len(os.fsencode(path.name)) > 200:  # 255 for most file systems, and the temporary name is longer
            raise UserError(f"cannot write {path.name[:40]!r}...: the name is too long, shorten it")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {str(path)[:80]!r} ({getattr(error, 'strerror', None) or error})") from error


def check_whole(path: Path) -> None:
    """Raise UserError for a WAV, AIFF or AU file shorter than its header says, or an OGG file that ends inside a page.
    FLAC's decoder finds out by itself; an MP3 has no length that can be relied on. Raises OSError."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic in (b"RIFF", b"FORM"):
            end = iff_end(file, "<" if magic == b"RIFF" else ">", size)
        elif magic == b".snd":
            start, length = struct.unpack(">II", file.read(8).ljust(8, b"\xff"))
            end = start + length if length < UNKNOWN else 0
        elif magic == b"OggS":
            end = ogg_end(file, size)
        else:
            return
    if end > size:
        raise UserError(f"{path} is cut off ({size} bytes of {end} or more): fetch or export it again")


def iff_end(file: BinaryIO, order: str, size: int) -> int:
    """Where the samples of a RIFF ("<") or FORM (">") file end by its header, 0 where it does not say."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack(f"{order}4sI", head)
        if name in (b"data", b"SSND"):
            return file.tell() + length if length < UNKNOWN else 0
        if file.tell() + length > size:
            return 0
        file.seek(length + length % 2, os.SEEK_CUR)
    return 0


def ogg_end(file: BinaryIO, size: int) -> int:
    """Where the last page of an OGG file ends by its own header, 0 for no page."""
    begin = max(0, size - (1 << 17))  # a page has 65307 bytes at the most
    file.seek(begin)
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return 0
    segments = tail[at + 27 : at + 27 + tail[at + 26]] if len(tail) > at + 26 else b""
    if len(tail) <= at + 26 or len(segments) < tail[at + 26]:
        return size + 1
    end = at + 27 + len(segments) + sum(segments)
    if tail[end : end + 4] and b"OggS".startswith(tail[end : end + 4]):  # the first bytes of one more
        return size + 1
    return begin + end
