"""What goes through the stages: tracks, clips of them, and what became of those that were left out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ostinato.utils.errors import UserError


class Halt(UserError):
    """What stops a run, as no clip can go on: an endpoint that stays away, a key that is refused. The same command goes
    on from there."""


@dataclass(frozen=True)
class Said:
    """One caption: of which part of the clip (s from its start; 0 seconds: all of it), and who wrote it ("given": it
    came with the track)."""

    text: str
    by: str
    start: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Track:
    """One recording of a collection. `id` is unique and valid Unicode; `path` is the file that holds its bytes, from
    `offset` on and `size` long where that is an archive (offset -1: the whole file) or row `offset` of a data set.

    fault: why it cannot be read at all, found while the collection was listed. sha256: as its publisher has it, ""
    where there is none. ids: further names that exclusion lists may know it by."""

    id: str
    path: str
    suffix: str
    size: int = 0
    mtime: int = 0
    offset: int = -1
    title: str = ""
    artist: str = ""
    licence: str = ""
    source: str = ""
    split: str = ""
    tags: tuple[str, ...] = ()
    captions: tuple[Said, ...] = ()
    ids: tuple[str, ...] = ()
    sha256: str = ""
    fault: str = ""

    @property
    def key(self) -> str:
        """24 hex digits that name its records."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Clip:
    """A piece of a track. audio: float32 [samples] in [-1, 1] at `rate` Hz; start in s of the track. measured: numbers
    by name, each a column of the result. caption: the one description, and who wrote it."""

    track: Track
    start: float
    rate: int
    audio: np.ndarray = field(repr=False)
    captions: tuple[Said, ...] = ()
    caption: str = ""
    caption_by: str = ""
    separated_by: str = ""
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.track.id}#{self.start:.3f}"

    @property
    def seconds(self) -> float:
        return len(self.audio) / self.rate

    def with_measured(self, **values: float) -> Clip:
        return replace(self, measured={**self.measured, **values})


@dataclass(frozen=True)
class Drop:
    """Why something is out: a short reason that is counted, and of this one a detail and what was measured."""

    reason: str
    detail: str = ""
    measured: dict[str, float] = field(default_factory=dict)


def share(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on the seed and the name only: the same on every machine, in any order."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") / 2**64


def stem_of(clip: Clip) -> str:
    """The path of a clip's file below OUT, without its suffix; two tracks never share one."""
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in Path(clip.track.id).stem)[:40].strip("-")
    key = clip.track.key
    return f"clips/{key[:2]}/{name or 'track'}-{key[:8]}-{clip.start:08.2f}".replace(".", "_")
