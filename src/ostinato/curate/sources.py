"""A collection, of any of four kinds, becomes a list of tracks: `list_tracks`. Nothing is decoded here.

    MUSIC                   a folder of audio, searched in all folders below, links followed once
    mtg-jamendo:FOLDER      MTG-Jamendo, see `jamendo`
    webdataset:FOLDER       tar shards whose members of one stem are one sample (x.mp3, x.json, x.txt)
    datasets:NAME[:SPLIT]   a Hugging Face data set with an audio column: a folder of save_to_disk, or a hub id

Whatever lies in a folder gets a row: what cannot be a track has a `fault`, its reason in the result (with a detail
after a colon).
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ostinato.curate.clip import Said, Track
from ostinato.data.captions import About, gather
from ostinato.utils.audio import AUDIO_SUFFIXES
from ostinato.utils.errors import UserError

# Audio that libsndfile does not read: worth another word than "not audio".
OTHER_AUDIO = frozenset(
    (".m4a", ".aac", ".mp4", ".wma", ".ape", ".wv", ".mpc", ".alac", ".dsf", ".dff", ".ra", ".amr", ".mka", ".webm")
)
SIDECARS = frozenset((".txt", ".json"))
TABLES = frozenset(("captions.csv", "captions.jsonl"))


def list_tracks(music: str) -> list[Track]:
    """All tracks of a collection, sorted by id. Raises: UserError for a collection that is not there, or holds
    nothing at all."""
    kind, colon, rest = music.partition(":")
    if colon and kind == "mtg-jamendo":
        from ostinato.curate.jamendo import jamendo_tracks

        tracks = jamendo_tracks(Path(rest))
    elif colon and kind == "webdataset":
        tracks = shard_tracks(Path(rest))
    elif colon and kind == "datasets":
        tracks = dataset_tracks(rest)
    else:
        tracks = folder_tracks(Path(music))
    if not tracks:
        raise UserError(f"{music} holds no files: check the name")
    return sorted(tracks, key=lambda track: track.id)


def name_of(path: str) -> str:
    """A path as valid Unicode; bytes that are not UTF-8 show as escapes, so that two names stay two."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def folder_tracks(folder: Path) -> list[Track]:
    """A row for each file below `folder` but hidden files, sidecars and captions tables."""
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}: give a folder of audio, mtg-jamendo:FOLDER, webdataset:FOLDER or datasets:NAME"
        )
    found: list[Track] = []
    for path, fault in _walk(folder, folder.resolve(), set()):
        suffix = path.suffix.lower()
        name = name_of(path.relative_to(folder).as_posix())
        if not fault and (suffix in SIDECARS or path.name in TABLES):
            continue
        found.append(_file(name, path, suffix, fault))
    _name_the_same(found)
    return _described(folder, found)


def _walk(folder: Path, root: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, str]]:
    """Files, and what else wants a row with its fault. A folder that was seen under another name is not entered."""
    try:
        there = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield folder, f"a folder that cannot be read: {error.strerror}"
        return
    if (there.st_dev, there.st_ino) in seen:
        yield folder, "a link to a folder that is read already"
        return
    seen.add((there.st_dev, there.st_ino))
    # Real folders first: which name a linked folder goes by must not hang on the alphabet.
    for entry in sorted(entries, key=lambda entry: entry.is_symlink()):
        if entry.name.startswith("."):
            continue
        path = Path(entry.path)
        try:
            if entry.is_dir():
                yield from _walk(path, root, seen)
            else:
                yield path, ""
        except OSError as error:  # a link to itself
            yield path, f"a link that leads nowhere: {error.strerror}"


def _file(name: str, path: Path, suffix: str, fault: str) -> Track:
    size = mtime = 0
    if not fault:
        try:
            there = path.stat()
            size, mtime = there.st_size, there.st_mtime_ns
            if not stat.S_ISREG(there.st_mode):
                fault = "not a file"
            elif suffix in OTHER_AUDIO:
                fault = f"audio of a kind that is not read: convert {suffix} to FLAC first"
            elif suffix not in AUDIO_SUFFIXES:
                fault = f"not audio: {suffix or 'no suffix'}"
            elif not size:
                fault = "empty (0 bytes)"
        except OSError as error:
            fault = f"a link that leads nowhere: {error.strerror}"
    return Track(id=name, path=str(path), suffix=suffix, size=size, mtime=mtime, fault=fault)


def _name_the_same(tracks: list[Track]) -> None:
    """A file under several names (hard or symbolic links) is one track, the others say which."""
    first: dict[tuple[int, int], str] = {}
    order = sorted(range(len(tracks)), key=lambda i: (os.path.islink(tracks[i].path), tracks[i].id))
    for i in order:
        track = tracks[i]
        if track.fault:
            continue
        there = os.stat(track.path)
        name = first.setdefault((there.st_dev, there.st_ino), track.id)
        if name != track.id:
            tracks[i] = replace(track, fault=f"the same file under another name: {name}")


def _described(folder: Path, tracks: list[Track]) -> list[Track]:
    """Captions, titles, licences and splits of sidecars and of captions tables put in, as `ostinato prepare` reads
    them."""
    sound = {track.id: track for track in tracks if not track.fault and track.id == _plain(folder, track.path)}
    if not sound:
        return tracks
    about, _, _ = gather(folder, list(sound))
    return [with_about(track, about[track.id]) if track.id in sound else track for track in tracks]


def _plain(folder: Path, path: str) -> str:
    return Path(path).relative_to(folder).as_posix()


def with_about(track: Track, about: About) -> Track:
    """What is said of a track laid over what it has."""
    keys = ("title", "artist", "licence", "source", "split")
    text = {key: getattr(about, key) or getattr(track, key) for key in keys}
    return replace(track, **text, captions=given(about.captions) or track.captions)


def given(captions: tuple[str, ...]) -> tuple[Said, ...]:
    return tuple(Said(text, "given") for text in captions)


def shard_tracks(folder: Path) -> list[Track]:
    """WebDataset: the tar files below `folder`. Samples whose audio cannot be read, or that have none, get a fault."""
    shards = sorted(folder.rglob("*.tar")) if folder.is_dir() else [folder]
    if not shards or not all(shard.is_file() for shard in shards):
        raise UserError(f"no .tar shards in {folder}: check the name")
    return [track for shard in shards for track in _shard(shard, shard.relative_to(folder.parent).as_posix())]


def _shard(shard: Path, name: str) -> list[Track]:
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    said: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                stem, suffix = _split_name(member.name)
                samples.setdefault(stem, {})[suffix] = member
                if suffix in SIDECARS and (held := archive.extractfile(member)):
                    said.setdefault(stem, {})[suffix] = held.read()
    except (tarfile.TarError, OSError) as error:
        # What came before the damage is good.
        broken = Track(id=name, path=str(shard), suffix=".tar", fault=f"the archive is damaged: {error}")
        return [*_samples(shard, name, samples, said), broken]
    return _samples(shard, name, samples, said)


def _split_name(path: str) -> tuple[str, str]:
    """WebDataset's rule: the stem ends at the first dot of the file's name."""
    folder, _, name = path.rpartition("/")
    stem, _, suffix = name.partition(".")
    return f"{folder}/{stem}" if folder else stem, f".{suffix.lower()}"


def _samples(shard: Path, name: str, samples: dict, said: dict) -> list[Track]:
    mtime = shard.stat().st_mtime_ns
    tracks = []
    for stem, members in samples.items():
        audio = next((suffix for suffix in members if suffix in AUDIO_SUFFIXES), "")
        track = Track(id=f"{name}/{stem}", path=str(shard), suffix=audio, mtime=mtime, fault="no audio in this sample")
        if audio:
            member = members[audio]
            fault = "" if member.size else "empty (0 bytes)"
            track = replace(track, size=member.size, offset=member.offset_data, fault=fault)
        tracks.append(_with_sidecars(track, said.get(stem, {})))
    return tracks


def _with_sidecars(track: Track, said: dict[str, bytes]) -> Track:
    about = About()
    try:
        if ".json" in said and isinstance(values := json.loads(said[".json"]), dict):
            captions = values.get("captions") or values.get("caption") or ()
            captions = (captions,) if isinstance(captions, str) else tuple(map(str, captions))
            text = {key: str(values.get(key) or "") for key in ("title", "artist", "source", "split")}
            about = About(captions, licence=str(values.get("licence") or values.get("license") or ""), **text)
        if ".txt" in said and not about.captions:
            lines = said[".txt"].decode("utf-8").splitlines()
            about = about.over(About(captions=tuple(line.strip() for line in lines if line.strip())))
    except (ValueError, TypeError):
        return track  # as in a folder: a sidecar that cannot be understood says nothing
    return with_about(track, about)


def dataset_tracks(spec: str) -> list[Track]:
    """A data set of Hugging Face `datasets`: its rows, whose audio is fetched when their turn comes."""
    name, split = split_spec(spec)
    rows = open_dataset(name, split)
    column = audio_column(rows)
    plain = rows.remove_columns([column])
    tracks = []
    for i in range(len(rows)):
        row = plain[i]
        text = {key: str(row.get(key) or "") for key in ("title", "artist", "source")}
        captions = row.get("captions") or row.get("caption") or row.get("text") or ()
        captions = (captions,) if isinstance(captions, str) else tuple(map(str, captions))
        number = str(row.get("track_id") or row.get("id") or "")
        licence = str(row.get("licence") or row.get("license") or "")
        known: dict[str, Any] = {"captions": given(captions), "licence": licence, "ids": (number,) if number else ()}
        tracks.append(Track(id=f"{spec}/{i:07d}", path=spec, suffix="", offset=i, **known, **text))
    return tracks


def split_spec(spec: str) -> tuple[str, str]:
    """NAME[:SPLIT] -> name, split ("train" by default)."""
    name, colon, split = spec.rpartition(":")
    return (name, split) if colon and name and "/" not in split and "\\" not in split else (spec, "train")


def open_dataset(name: str, split: str) -> Any:
    """Raises: UserError where `datasets` is not installed, or has no such data set or split."""
    try:
        import datasets
    except ImportError as error:
        raise UserError("datasets:NAME needs the package datasets: pip install 'ostinato[curate]'") from error
    try:
        if Path(name, "dataset_dict.json").is_file():
            return datasets.load_from_disk(name)[split]
        if Path(name, "dataset_info.json").is_file():
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # whatever its readers raise
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot open the data set {name}, split {split} ({told}): check both names") from error


def audio_column(rows: Any) -> str:
    """The name of the one column of audio. Raises UserError for none."""
    import datasets

    found = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Audio)]
    if not found:
        raise UserError(f"the data set has no audio column; it has {', '.join(rows.features)}")
    return found[0]


_open_datasets: dict[str, Any] = {}  # by spec: opened once a process


def _row_bytes(track: Track) -> tuple[bytes, str]:
    import datasets

    if track.path not in _open_datasets:
        rows = open_dataset(*split_spec(track.path))
        column = audio_column(rows)
        _open_datasets[track.path] = rows.cast_column(column, datasets.Audio(decode=False)), column
    rows, column = _open_datasets[track.path]
    held = rows[track.offset][column] or {}
    suffix = PurePosixPath(held.get("path") or "").suffix
    if held.get("bytes"):
        return held["bytes"], suffix
    if held.get("path"):
        return Path(held["path"]).read_bytes(), suffix
    raise UserError("the row holds no audio")


@contextmanager
def as_file(track: Track) -> Iterator[Path]:
    """The track's bytes as a file, for as long as the context lasts. Raises: UserError where they cannot be read."""
    if track.offset < 0:
        with _plainly_named(Path(track.path)) as path:
            yield path
        return
    try:
        if track.suffix:
            with open(track.path, "rb") as archive:
                archive.seek(track.offset)
                held, suffix = archive.read(track.size), track.suffix
        else:
            held, suffix = _row_bytes(track)
    except OSError as error:
        raise UserError(f"cannot read {track.path} ({error.strerror}): is it whole?") from error
    with tempfile.TemporaryDirectory(prefix="ostinato-") as folder:
        path = Path(folder, f"track{suffix}")
        path.write_bytes(held)
        yield path


@contextmanager
def _plainly_named(path: Path) -> Iterator[Path]:
    """`path`, or where its name is not UTF-8, which libsndfile cannot open, a link to it that is."""
    if os.fsencode(path).decode("utf-8", "replace") == str(path):
        yield path
    else:
        with tempfile.TemporaryDirectory(prefix="ostinato-") as folder:
            link = Path(folder, f"track{name_of(path.suffix)}")
            link.symlink_to(path.absolute())
            yield link
