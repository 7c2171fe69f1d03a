"""Folders of clips and their embeddings by a network, kept on disk: none is made twice, and memory stays flat."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from ostinato.evaluation.networks.base import Listener, peak_normalised
from ostinato.utils.audio import AUDIO_SUFFIXES, read_audio
from ostinato.utils.errors import UserError

WINDOWS = 2  # goes up when a listener cuts clips another way, and what is kept is no longer what it hears
SHORTEST = 0.5  # share of the seconds asked that a clip must last
RAW = ("vggish",)  # hears clips at their own level; stable-audio-metrics brings all others' peaks to -1 dB


@dataclass
class ClipSet:
    """The audio files of one row of a table, by stem. `lost` says why a clip is not evaluated, by stem or file name;
    `notes` what the reader of its numbers should know; `about` what made it."""

    name: str
    files: dict[str, Path]
    kind: str = "clips"
    lost: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    about: dict = field(default_factory=dict)


class Embeddings(Sequence[np.ndarray]):
    """What a listener heard in each of several clips, read from disk each time: "embedding" [windows, d] or "tags"
    (logits) [windows, classes]."""

    def __init__(self, files: Sequence[Path], what: str = "embedding"):
        self.files, self.what = files, what

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]  # nobody takes slices
        with np.load(self.files[i]) as heard:
            return heard[self.what]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


def find_clips(folder: str | Path, name: str | None = None) -> ClipSet:
    """The audio files right in `folder`, or, where it has none, in all folders below it. Raises UserError for no
    folder and for one without audio."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: check the path")
    here = [p for p in folder.iterdir() if p.is_file()]
    audio = [p for p in here if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith(".")]
    if not audio:
        audio = [p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith(".")]
    if not audio:
        raise UserError(f"{folder} has no audio files (of {len(here)} files): give a folder of WAV, FLAC, OGG or MP3")
    found = ClipSet(name or folder.name, {})
    for path in sorted(audio):
        if path.stem in found.files:
            found.lost[str(path)] = f"{found.files[path.stem]} has the same name"
        else:
            found.files[path.stem] = path
    return found


class Embedder:
    """A listener with its cache. weights: what tells its weights apart from others of the same name (a path); tags and
    embedding: what is to be heard, each a pass of the network."""

    def __init__(self, listener: Listener, weights: str, cache: Path, embedding: bool = True, tags: bool = False):
        self.listener, self.cache = listener, cache / listener.name
        self.embedding, self.tags = embedding, tags
        self.identity = [WINDOWS, listener.name, weights, *_stamp(Path(weights)), embedding, tags]
        self.device = next(listener.parameters()).device if isinstance(listener, torch.nn.Module) else "cpu"

    def embed(
        self,
        clips: ClipSet,
        seconds: float,
        start: float = 0.0,
        least: float | None = None,
        on_clip: Callable[[], object] = lambda: None,
    ) -> dict[str, Path]:
        """The cached file of every clip by stem, of `seconds` from `start` (s) on. Clips that cannot be heard go into
        `clips.lost` with the reason, those of which less than `least` s is left (default: half of `seconds`) too."""
        least = SHORTEST * seconds if least is None else least
        heard = {}
        for stem, path in clips.files.items():
            try:
                heard[stem] = self._one(path, seconds, start, least)
            except UserError as error:
                clips.lost.setdefault(stem, str(error))
            on_clip()
        return heard

    @torch.inference_mode()
    def _one(self, path: Path, seconds: float, start: float, least: float) -> Path:
        key = json.dumps([str(path.resolve()), *_stamp(path), seconds, start, *self.identity])
        kept = self.cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
        if kept.is_file():
            return kept
        rate = self.listener.sample_rate
        audio = read_audio(path, rate, start, seconds)[0]
        if len(audio) < least * rate:
            lasts = f"{path} lasts {start + len(audio) / rate:.2f} s"
            raise UserError(f"{lasts}: too short for {start:g} to {start + seconds:g} s")
        audio = audio.to(self.device)
        if self.listener.name not in RAW:
            audio = peak_normalised(audio)
        found = {"embedding": self.listener.embed(audio)} if self.embedding else {}
        if self.tags:
            found["tags"] = self.listener.tags(audio)  # type: ignore[attr-defined]  # asked of taggers only
        arrays = {name: value.float().cpu().numpy() for name, value in found.items()}
        if not all(np.isfinite(value).all() for value in arrays.values()):
            raise UserError(f"{path}: {self.listener.name} gave values that are not finite")
        self.cache.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".{kept.stem}.{os.getpid()}.npz")
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, kept)
        return kept


def _stamp(path: Path) -> list[int]:
    """Size (bytes) and time (ns) of a file, which tell whether it is still the one that was heard."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def rate_notes(clips: ClipSet, reference: ClipSet | None = None) -> list[str]:
    """A note for every sampling rate of `clips` that is not the usual one of the reference (without one: of theirs):
    all are resampled, and what a low one cut off stays off."""
    rates, usual_of = rates_of(clips), rates_of(reference or clips)
    if not usual_of:
        return []
    usual = max(usual_of, key=lambda rate: len(usual_of[rate]))
    most = "most of the reference is" if reference else "most are"
    return [
        f"{len(paths)} of {len(clips.files)} clips are at {rate} Hz where {most} at {usual} Hz (such as "
        f"{paths[0].name}): resampled, but brightness differs"
        for rate, paths in sorted(rates.items())
        if rate != usual
    ]


def rates_of(clips: ClipSet) -> dict[int, list[Path]]:
    """The files that can be read, by sampling rate (Hz)."""
    rates: dict[int, list[Path]] = {}
    for path in clips.files.values():
        with suppress(sf.LibsndfileError, OSError):  # told when it is read
            rates.setdefault(sf.info(path).samplerate, []).append(path)
    return rates
