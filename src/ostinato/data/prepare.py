"""A folder of audio becomes a store of clips: `prepare`; what reads one back: `open_store`, `Store`.

The unit of work is a source file. A file's clips and the record that it is finished land in the same shard, by the same
rename: a run killed at any moment leaves no half file, and the next run goes on with the files no shard has recorded.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from ostinato.data.captions import About, gather, with_tags
from ostinato.data.clips import Groups, Record, described
from ostinato.data.request import check_request
from ostinato.data.store import (
    FORMAT,
    GONE,
    PAYLOAD,
    Store,
    open_store,
    read_done,
    read_info,
    read_shard,
    shard_files,
    shard_table,
    write_shard,
)
from ostinato.utils.audio import AUDIO_SUFFIXES
from ostinato.utils.bars import Bars
from ostinato.utils.errors import UserError
from ostinato.utils.files import only_writer, write_atomic

if TYPE_CHECKING:  # what it imports takes seconds, and PCM needs none of it
    from ostinato.codecs.base import Codec

__all__ = ["Report", "Store", "open_store", "prepare"]

# A shard closes at whichever comes first; the last bounds what an interruption loses.
SHARD_BYTES = 64 << 20
SHARD_CLIPS = 500
SHARD_SECONDS = 60.0
GROUP_BYTES = 64 << 20  # of files that are encoded together, where several make up a batch


@dataclass
class Report:
    """What `prepare` did. `outcomes` counts all files the store knows by outcome, those that left the folder as gone;
    `clips` and `seconds` (of audio kept) are those of the files that are there; `processed` files were read in this
    run; `strangers` are paths a captions table names that are not audio files of the folder."""

    processed: int = 0
    clips: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)


@dataclass
class _Open:
    """The shard being filled. A file and its rows are appended as one, and the name is fixed from the start: an
    interruption at any line can neither part them nor write them twice."""

    path: Path
    files: list[tuple[Record, list[dict]]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def full(self, payload: str) -> bool:
        clips = sum(record.clips for record, _ in self.files)
        size = sum(len(row[payload]) for _, rows in self.files for row in rows)
        return size >= SHARD_BYTES or clips >= SHARD_CLIPS or time.monotonic() - self.since >= SHARD_SECONDS


def prepare(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    codec: Codec | None = None,
    codec_name: str = "",
    codec_id: str = "",
    sample_rate: int | None = None,
    clip_seconds: float = 30.0,
    min_seconds: float = 1.0,
    silence_db: float = -50.0,
    captions: str | os.PathLike | None = None,
    batch: int = 1,
    progress: bool = True,
    workers: int = 0,
    devices: tuple[str, ...] = (),
) -> Report:
    """Cut every audio file under `folder` into non-overlapping mono clips and keep them in the store `out`: as codes of
    `codec`, or without one as 16-bit PCM at `sample_rate`.

    Run again, it does only new and changed files (by size and time), replaces the clips of changed ones, and brings
    edited captions into the store without encoding again. Clips of files that have left `folder` leave the store until
    these are back; what was encoded is kept for then. A broken file is tried again when it has changed or become
    readable. A file is known by its path relative to `folder`: keep one store for one folder.

    Args:
        codec_name, codec_id: kept in store.json; codec_id (`codec.fingerprint`) says which weights made the codes.
        sample_rate: Hz; needed without a codec, otherwise the codec's own.
        clip_seconds, min_seconds: length of a clip; the remainder of a file is kept down to min_seconds.
        silence_db: clips are dropped as near-silent under this level (`clips.near_silent`).
        captions: a .csv or .jsonl table; None looks for captions.csv and captions.jsonl in `folder`.
        batch: clips encoded together, of one file or of several short ones.
        progress: show a bar on stderr.
        workers: processes that read and encode, 0: this one. The store is the same, file for file.
        devices: what the codec of each of them goes to, in turn ("cuda:0", "cuda:1"); none: where it is, the CPU.
    Raises: UserError for a folder that is missing, without audio or without any file that the store has clips of, an
        `out` that cannot be written, is in use by another run or was made with other settings, a captions table that
        cannot be understood, or when no clip came of it. Broken, empty, short and silent files and sidecars do not
        raise; report.csv in `out` lists them.
    """
    folder, out = Path(folder), Path(out)
    check_request(folder, out, clip_seconds, min_seconds, captions, codec is None, sample_rate)
    info = _settings(codec, codec_name, codec_id, sample_rate, clip_seconds, min_seconds, silence_db)
    files, dangling = _find_audio(folder)
    about, strangers, faults = gather(folder, list(files), Path(captions) if captions else None)
    with only_writer(out):
        _agree(out, info)
        records = _bring_up_to_date(out, folder, files, about)
        todo = [path for path in files if path not in records]
        shard = _Open(_next_shard(out))
        try:
            new = [Record(path, *files[path], about[path].digest()) for path in todo]
            groups = Groups(folder, _grouped(new, batch), about, info, codec, batch, devices)
            for finished in _shown(groups.loader(min(workers, len(groups.groups))), new, progress):
                shard.files.append(finished)
                if shard.full(PAYLOAD[info["kind"]]):
                    _close(shard, info["kind"], records)
                    shard = _Open(_next_shard(out))
        finally:  # also when interrupted: whole files are kept
            _close(shard, info["kind"], records)
            _write_report(out, records, faults, dangling)
    there = [r for r in records.values() if r.about != GONE]
    report = Report(
        processed=len(todo),
        clips=sum(r.clips for r in there),
        seconds=sum(r.seconds for r in there),
        outcomes=dict(Counter([_outcome(r) for r in records.values()] + ["broken"] * len(dangling.keys() - records))),
        strangers=strangers,
    )
    if not report.clips:
        what = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
        raise UserError(f"no clips came of {folder} ({what}): see {out / 'report.csv'}")
    return report


def _settings(
    codec: Codec | None,
    codec_name: str,
    codec_id: str,
    sample_rate: int | None,
    clip_seconds: float,
    min_seconds: float,
    silence_db: float,
) -> dict:
    if codec is None:
        of_codec = {"kind": "pcm", "sample_rate": int(sample_rate or 0)}
    else:
        if sample_rate not in (None, codec.sample_rate):
            raise UserError(f"sample rate {sample_rate}: the codec works at {codec.sample_rate}; leave it out")
        if codec.codebook_size > 1 << 15:
            raise UserError(f"codebooks of {codec.codebook_size} entries: a store holds 16-bit codes, up to 32768")
        of_codec = {
            "kind": "codes",
            "codec": codec_name or getattr(codec, "name", ""),
            "codec_id": codec_id,
            "sample_rate": int(codec.sample_rate),
            "frame_rate": float(codec.frame_rate),
            "num_codebooks": int(codec.num_codebooks),
            "codebook_size": int(codec.codebook_size),
        }
    return {
        "format": FORMAT,
        **of_codec,
        "clip_seconds": float(clip_seconds),
        "min_seconds": float(min_seconds),
        "silence_db": float(silence_db),
    }


def _find_audio(folder: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Size (bytes) and mtime (ns) by path relative to `folder`, sorted; and, by path, why a link leads to no file.
    Hidden files are left out: they are litter (macOS writes a ._song.wav beside a song.wav)."""
    found, dangling = {}, {}

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read folder {error.filename} ({error.strerror}): make it readable, or move it away")

    for root, _, names in os.walk(folder, onerror=refuse):
        for file in (Path(root, name) for name in names):
            if file.suffix.lower() not in AUDIO_SUFFIXES or file.name.startswith("."):
                continue
            path = file.relative_to(folder).as_posix()
            try:
                stat = file.stat()
            except OSError as error:  # a link to nothing, or to itself
                dangling[path] = f"a link that leads to no file ({error.strerror}): restore what it points to"
                continue
            if S_ISREG(stat.st_mode):
                found[path] = (stat.st_size, stat.st_mtime_ns)
    if not found:
        kinds = " ".join(sorted(AUDIO_SUFFIXES))
        raise UserError(f"no audio files under {folder}: it is searched for {kinds}; convert other formats first")
    return dict(sorted(found.items())), dangling


def _agree(out: Path, info: dict) -> None:
    """Write store.json, or check `info` against it. Settings of a store that has no shard yet may still change, and so
    may the name of a codec that its codec_id proves the same (a moved folder)."""
    for litter in out.glob("clips-*.parquet.tmp"):
        litter.unlink()
    old = read_info(out) or {}
    shards = shard_files(out)
    if shards and not old:
        raise UserError(f"{out} has clips but no store.json: prepare into a new folder")
    keys = [key for key in {**old, **info} if old.get(key) != info.get(key)]
    if shards and keys and not (keys == ["codec"] and info["codec_id"]):
        differ = ", ".join(f"{key} {old.get(key)} there, {info.get(key)} asked" for key in keys)
        raise UserError(f"{out} was made with other settings ({differ}): use those, or prepare into a new folder")
    if old != info:
        write_atomic(out / "store.json", lambda file: file.write_text(json.dumps(info, indent=2) + "\n"))


def _bring_up_to_date(
    out: Path, folder: Path, files: dict[str, tuple[int, int]], about: dict[str, About]
) -> dict[str, Record]:
    """Drop the clips and records of changed files, put edited descriptions in place, take those of missing files out of
    all splits, and return the records left."""
    shards = {file: [Record(**record) for record in read_done(file)] for file in shard_files(out)}
    known = [record.path for done in shards.values() for record in done if record.clips]
    if known and not any(path in files for path in known):
        raise UserError(
            f"{out} has clips of {len(known)} files, and none of them is in {folder}: is that the folder it was made "
            "of, and is all of it there? Use a separate store for another folder"
        )
    records: dict[str, Record] = {}
    for file, old in shards.items():
        keep: dict[str, Record] = {}
        said: dict[str, dict] = {}
        for record in old:
            path = record.path
            if path in files and files[path] != (record.size, record.mtime):
                continue
            digest = about[path].digest() if path in files else GONE
            if record.about != digest:
                there = path in files
                said[path] = described(path, with_tags(about[path], folder / path)) if there else {"split": GONE}
                record.about = digest
            keep[path] = record
        if said or len(keep) < len(old):
            _rewrite(file, keep, said)
        records |= keep
    return records


def _rewrite(file: Path, keep: dict[str, Record], said: dict[str, dict]) -> None:
    """A shard again with only the clips of `keep`, and with the columns that are `said` of some files."""
    if not keep:
        file.unlink()
        return
    table = read_shard(file)
    rows = [row | said.get(row["path"], {}) for row in table.to_pylist() if row["path"] in keep]
    kind = "codes" if "codes" in table.column_names else "pcm"
    write_shard(file, shard_table(rows, kind), [asdict(record) for record in keep.values()])


def _next_shard(out: Path) -> Path:
    numbers = [int(file.stem.removeprefix("clips-")) for file in shard_files(out)]
    return out / f"clips-{max(numbers, default=-1) + 1:05d}.parquet"


def _close(shard: _Open, kind: str, records: dict[str, Record]) -> None:
    if not shard.files:
        return
    rows = [row for _, rows in shard.files for row in rows]
    write_shard(shard.path, shard_table(rows, kind), [asdict(record) for record, _ in shard.files])
    records.update({record.path: record for record, _ in shard.files})


def _outcome(record: Record) -> str:
    return "gone" if record.about == GONE else record.outcome


def _write_report(out: Path, records: dict[str, Record], faults: dict[str, str], dangling: dict[str, str]) -> None:
    """report.csv; `dangling` are links to no file (see `_find_audio`), `faults` are those of sidecars (see `gather`),
    reported beside the record's own outcome."""

    def write(file: Path) -> None:
        with open(file, "w", newline="", encoding="utf-8", errors="backslashreplace") as lines:
            table = csv.writer(lines)
            table.writerow(["path", "outcome", "clips", "seconds", "message"])
            for path in sorted(records):
                r = records[path]
                message = "; ".join(part for part in (r.message, faults.get(path)) if part)
                table.writerow([path, _outcome(r), r.clips, f"{r.seconds:.3f}", message])
            for path in sorted(dangling.keys() - records):
                table.writerow([path, "broken", 0, "0.000", dangling[path]])

    write_atomic(out / "report.csv", write)


def _grouped(todo: list[Record], batch: int) -> list[list[Record]]:
    """`todo` in order, up to `batch` files together, unless they are large."""
    groups: list[list[Record]] = []
    for record in todo:
        if groups and len(groups[-1]) < batch and sum(r.size for r in groups[-1]) + record.size <= GROUP_BYTES:
            groups[-1].append(record)
        else:
            groups.append([record])
    return groups


def _shown(
    groups: Iterable[list[tuple[Record, list[dict]]]], todo: list[Record], progress: bool
) -> Iterator[tuple[Record, list[dict]]]:
    """The files of `groups`, finished, with a progress bar; all of them are `todo`. The bar measures bytes: without
    decoding every file nothing better is known of all of them."""
    columns = (
        TextColumn("{task.fields[files]}/{task.fields[all]} files"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]:.1f} x real time  left"),
        TimeRemainingColumn(),
    )
    began, seconds = time.monotonic(), 0.0
    with Bars(*columns, console=Console(stderr=True), disable=not (progress and todo)) as bar:
        task = bar.add_task("", total=sum(record.size for record in todo), files=0, all=len(todo), rate=0.0)
        for number, (record, rows) in enumerate(chain.from_iterable(groups), 1):
            yield record, rows
            seconds += record.duration
            bar.update(task, advance=record.size, files=number, rate=seconds / (time.monotonic() - began))
