"""The clip store: a folder of Parquet shards with codec codes or 16-bit PCM, and how it is read.

    store.json           settings: kind ("codes" or "pcm"), codec, codec_id, sample_rate (Hz), frame_rate (frames/s),
                         num_codebooks, codebook_size, clip_seconds, min_seconds, silence_db, format
    clips-00000.parquet  one row a clip, columns below; the shard's own metadata lists the files it finished
    report.csv           what became of every file

A clip whose file has left the folder prepared stays in its shard, with `GONE` for its split, and no view has it: should
the file come back, nothing is encoded again.

Codes are int16 little endian, K x T row-major, compressed; PCM is int16 little endian, plain, so that a slice of a clip
is a slice of the file. Payload stays on disk, memory-mapped, and is read a row group at a time: a store may be larger
than memory.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

FORMAT = 1
PCM_SCALE = 32768.0  # libsndfile's: a 16-bit file at the store's rate keeps its samples exactly
PAYLOAD = {"codes": "codes", "pcm": "audio"}  # column by kind
NEEDED = {  # keys of store.json by kind, without which its clips cannot be read
    "codes": ("sample_rate", "codec", "codec_id", "frame_rate", "num_codebooks", "codebook_size"),
    "pcm": ("sample_rate",),
}
SPLITS = ("train", "validation", "test")
GONE = ""  # a name that no split has

_COLUMNS = [
    ("id", pa.string()),
    ("path", pa.string()),
    ("start", pa.float64()),
    ("seconds", pa.float64()),
    ("captions", pa.list_(pa.string())),
    ("title", pa.string()),
    ("artist", pa.string()),
    ("licence", pa.string()),
    ("source", pa.string()),
    ("split", pa.string()),
    ("frames", pa.int32()),
]
META = [name for name, _ in _COLUMNS]
_DONE = b"ostinato.files"
T = TypeVar("T")


class Store:
    """Clips of a store, or of one split of it. `info` is store.json's dict, `table` the metadata columns (Arrow) of
    this view's clips in order. Pickles small, so that loader processes can be handed one."""

    def __init__(self, info: dict, shards: list[tuple[str, int]], table: pa.Table, where: np.ndarray):
        """shards: (file, mtime in ns) each; where: int64 [clips, 2], shard and row in it. Use `open_store`."""
        self.info, self.table = info, table
        self._shards, self._where = shards, where

    def __len__(self) -> int:
        return len(self._where)

    def split(self, *names: str) -> "Store":
        """The clips of one split or several; may be empty (a small folder can have no validation file).
        Raises: UserError for a name that is neither a usual split nor one of this store's."""
        splits = self.table["split"].to_pylist()
        present = sorted(set(splits))
        for name in names:
            if name not in SPLITS and name not in present:
                raise UserError(f"no split {name!r} in this store: it has {', '.join(present)}")
        rows = np.flatnonzero([split in names for split in splits])
        return Store(self.info, self._shards, self.table.take(pa.array(rows)), self._where[rows])

    def sides(self, all_data: bool) -> tuple["Store", "Store"]:
        """The clips to train on and those to validate with; with `all_data` both are trained on, and none is left. The
        test split is neither."""
        return (
            (self.split("train", "validation"), self.split())
            if all_data
            else (self.split("train"), self.split("validation"))
        )

    def codes(self, i: int) -> Tensor:
        """Codes of clip i: int64 [K, T]."""
        if self.info["kind"] != "codes":
            raise UserError("this store holds audio, not codes: prepare one with a codec")
        flat = np.frombuffer(self._payload(i), dtype="<i2")
        return torch.from_numpy(flat.reshape(self.info["num_codebooks"], -1).astype(np.int64))

    def pcm(self, i: int, start_sample: int = 0, samples: int | None = None) -> Tensor:
        """Audio of clip i from `start_sample`: float32 [1, samples] in [-1, 1), fewer where the clip ends (samples=None
        reads to there; its length is row(i)["frames"]). Only the slice is converted. Raises IndexError for a start
        outside the clip."""
        if self.info["kind"] != "pcm":
            raise UserError("this store holds codes, not audio: prepare one without a codec")
        buffer = self._payload(i)
        length = buffer.size // 2
        if not 0 <= start_sample < length:
            raise IndexError(f"sample {start_sample} of a clip of {length}")
        end = length if samples is None else min(length, start_sample + samples)
        part = np.frombuffer(buffer, dtype="<i2")[start_sample:end]
        return torch.from_numpy(part.astype(np.float32))[None] / PCM_SCALE

    def captions(self, i: int) -> list[str]:
        """Captions of clip i, those of its file; may be empty."""
        return self.table["captions"][range(len(self))[i]].as_py()

    def row(self, i: int) -> dict:
        """Everything about clip i but its codes or audio: id, path, start and seconds (s), captions, title, artist,
        licence, source, split, frames (codec frames T, or samples in a PCM store)."""
        return self.table.slice(range(len(self))[i], 1).to_pylist()[0]

    def fitting(self, frames: int) -> int:
        """`frames`, or those of the longest clip where that has fewer, which a warning says."""
        longest = max(self.table["frames"].to_pylist(), default=frames)
        if frames > 1.01 * longest:
            rate = self.info["frame_rate" if self.info["kind"] == "codes" else "sample_rate"]
            warnings.warn(
                f"clip_seconds {frames / rate:g} is longer than every clip of the store: it is {longest / rate:g} here",
                stacklevel=2,
            )
        return min(frames, longest)

    def digest(self, clips: list[int] | None = None) -> str:
        """16 hex digits that two views share when they have the same clips in the same order; or of some `clips`."""
        ids = self.table["id"].to_pylist()
        chosen = ids if clips is None else [ids[i] for i in clips]
        return hashlib.sha256("\n".join(chosen).encode()).hexdigest()[:16]

    def _payload(self, i: int) -> pa.Buffer:
        shard, row = (int(n) for n in self._where[range(len(self))[i]])
        file = _parquet(*self._shards[shard])
        group, row = divmod(row, file.metadata.row_group(0).num_rows)
        column = PAYLOAD[self.info["kind"]]
        # No Arrow threads: they do not survive a loader's fork.
        return file.read_row_group(group, columns=[column], use_threads=False).column(0).chunk(0)[row].as_buffer()


@lru_cache(maxsize=128)  # bounds the open files: a large PCM store has more shards than a process may open
def _parquet(path: str, mtime: int) -> pq.ParquetFile:
    try:
        if os.stat(path).st_mtime_ns != mtime:
            raise UserError(f"{path} was rewritten while in use: start again, after `prepare` has ended")
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read any more ({error.strerror}): put the store back") from error


def open_store(path: str | os.PathLike) -> Store:
    """Open the store at `path`. Raises: UserError for no store, another format, an unreadable shard, or no clips."""
    path = Path(path)
    info = read_info(path)
    if info is None:
        raise UserError(f"no store at {path}: make one with `ostinato prepare`")
    tables, shards, where = [], [], []
    for n, file in enumerate(shard_files(path)):
        shards.append((str(file.resolve()), file.stat().st_mtime_ns))
        table = _readable(file, lambda f: pq.read_table(f, columns=META, memory_map=True))
        rows = np.flatnonzero(np.asarray(table["split"].to_pylist(), dtype=object) != GONE)
        tables.append(table.take(pa.array(rows)))
        where.append(np.stack([np.full_like(rows, n), rows], axis=1))
    if not sum(map(len, where)):
        raise UserError(f"{path} is a store with no clips: see {path / 'report.csv'} for why")
    return Store(info, shards, pa.concat_tables(t.replace_schema_metadata() for t in tables), np.concatenate(where))


def read_info(path: Path) -> dict | None:
    """store.json's dict; None without one. Raises: UserError if it cannot be understood."""
    try:
        info = json.loads((path / "store.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path / 'store.json'} ({error}): prepare into a new folder") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UserError(f"{path} is not a store of format {FORMAT}: prepare into a new folder")
    if info.get("kind") not in list(NEEDED):
        raise UserError(
            f"{path / 'store.json'} has kind {info.get('kind')!r}, not codes or pcm: prepare into a new folder"
        )
    lacking = [key for key in NEEDED[info["kind"]] if key not in info]
    if lacking:
        raise UserError(f"{path / 'store.json'} lacks {', '.join(lacking)}: prepare into a new folder")
    return info


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` numbers of 0 to count - 1, evenly apart; all of them where there are fewer."""
    n = min(count, wanted)
    return [i * count // n for i in range(n)]


def shard_files(path: Path) -> list[Path]:
    """The shards, in order of their numbers."""
    return sorted(path.glob("clips-" + 5 * "[0-9]" + ".parquet"))


def read_done(shard: Path) -> list[dict]:
    """The records of source files finished in this shard (see `data.prepare`)."""
    metadata = _readable(shard, pq.read_schema).metadata or {}
    return json.loads(metadata.get(_DONE, b"[]"))


def read_shard(shard: Path) -> pa.Table:
    """A whole shard, payload included."""
    return _readable(shard, pq.read_table)


def shard_table(rows: list[dict], kind: str) -> pa.Table:
    """Rows (dicts of `META` and the payload as bytes) as a table of the store's schema; kind is "codes" or "pcm"."""
    return pa.Table.from_pylist(rows, schema=pa.schema([*_COLUMNS, (PAYLOAD[kind], pa.large_binary())]))


def write_shard(shard: Path, table: pa.Table, done: list[dict]) -> None:
    """Write a shard with its records, whole or not at all."""
    payload = table.column_names[-1]
    table = table.replace_schema_metadata({_DONE: json.dumps(done).encode()})
    write_atomic(
        shard,
        lambda temporary: pq.write_table(
            table,
            temporary,
            # Small groups, since one is read for a clip; a PCM clip (2.6 MB) is its own.
            row_group_size=8 if payload == "codes" else 1,
            compression={payload: "zstd" if payload == "codes" else "none"},
            use_dictionary=False,
            write_statistics=False,
        ),
    )


def _readable(file: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(file)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"cannot read {file} ({error}): delete it and run `ostinato prepare` again, which does its files again"
        ) from error
