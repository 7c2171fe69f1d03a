"""Audio files become rows of the clip store: cut, sifted, encoded, in one process or several (see `data.prepare`)."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ostinato.data.captions import About, split_of, with_tags
from ostinato.data.store import PAYLOAD, PCM_SCALE
from ostinato.utils.audio import EmptyAudio, loudness_db, stream_audio
from ostinato.utils.errors import UserError

if TYPE_CHECKING:  # what it imports takes seconds, and PCM needs none of it
    from ostinato.codecs.base import Codec

SILENCE_WINDOW = 0.05  # s


@dataclass
class Record:
    """One source file, finished. size (bytes) and mtime (ns) tell whether it has changed since; about is the digest of
    its description, `store.GONE` while it is missing; outcome is ok, silent, too short, broken or empty; duration is
    all of it, seconds what was kept."""

    path: str
    size: int
    mtime: int
    about: str
    outcome: str = ""
    clips: int = 0
    silent: int = 0
    duration: float = 0.0
    seconds: float = 0.0
    message: str = ""


def described(path: str, about: About) -> dict:
    """The store's columns that say what a clip of `path` is."""
    return {**asdict(about), "captions": list(about.captions), "split": split_of(path, about.split)}


@dataclass
class Groups(Dataset):
    """Groups of source files, each encoded as one: item i is what `clips_of` makes of group i. In a loader's process
    the codec goes to one of `devices`, which the processes take in turn; else it stays where it is."""

    folder: Path
    groups: list[list[Record]]
    about: dict[str, About]
    info: dict  # store.json's
    codec: Codec | None
    batch: int
    devices: tuple[str, ...] = ()

    def __getitem__(self, i: int) -> list[tuple[Record, list[dict]]]:
        worker = get_worker_info()
        if worker and self.devices and isinstance(self.codec, nn.Module):
            self.codec.to(self.devices[worker.id % len(self.devices)])
        return clips_of(self.folder, self.groups[i], self.about, self.info, self.codec, self.batch)

    def loader(self, workers: int) -> DataLoader:
        """The items in order, made by so many processes, or with 0 by this one."""
        more: dict = {}
        if workers:  # spawned: a fork may not use CUDA
            more = {"multiprocessing_context": "spawn", "worker_init_fn": end_with_parent}
        own = torch.Generator()  # else a number is drawn from everybody's
        indices = range(len(self.groups))
        return DataLoader(self, None, sampler=indices, num_workers=workers, collate_fn=list, generator=own, **more)


def end_with_parent(worker: int) -> None:
    """End when the parent does: had it been killed, this process could wait for ever to hand over a result."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def clips_of(
    folder: Path, records: list[Record], about: dict[str, About], info: dict, codec: Codec | None, batch: int
) -> list[tuple[Record, list[dict]]]:
    """The store's rows of some source files, with payload; fills their records. info is store.json's dict; codec None
    keeps PCM; `batch` clips are encoded together, whichever of the files they are of. A broken file raises nothing:
    `record.outcome` says why, and no row comes."""
    found: list[tuple[Record, list[dict]]] = []
    waiting: dict[int, list[tuple[dict, Tensor]]] = {}  # by length: only alike go together, padding would change codes

    def encode(alike: list[tuple[dict, Tensor]]) -> None:
        payloads = _payloads(torch.stack([clip for _, clip in alike]), codec)
        for (row, _), (frames, payload) in zip(alike, payloads, strict=True):
            row |= {"frames": frames, PAYLOAD[info["kind"]]: payload}

    for record in records:
        found.append((record, rows := []))
        try:
            record.path.encode()
        except UnicodeEncodeError:
            record.outcome, record.message = "broken", "its name is not UTF-8: rename it"
            continue
        said = described(record.path, with_tags(about[record.path], folder / record.path))
        for start, clip in _sounding(folder / record.path, record, info):
            seconds = clip.shape[-1] / info["sample_rate"]
            rows.append({"id": f"{record.path}#{start:.3f}", "path": record.path, "start": start, "seconds": seconds})
            rows[-1] |= said
            alike = waiting.setdefault(clip.shape[-1], [])
            alike.append((rows[-1], clip))
            if len(alike) == batch:
                encode(waiting.pop(clip.shape[-1]))
        if record.outcome:  # broken or empty
            rows.clear()
        else:
            _judge(record, rows, info)
    for alike in waiting.values():
        encode(alike)
    return found


def _judge(record: Record, rows: list[dict], info: dict) -> None:
    """Fill in what became of a file that could be read."""
    record.clips, record.seconds = len(rows), sum(row["seconds"] for row in rows)
    if record.silent:
        record.message = f"{record.silent} near-silent clips dropped (under {info['silence_db']:g} dB)"
    if rows:
        record.outcome = "ok"
    elif record.silent:
        record.outcome = "silent"
    else:
        record.outcome = "too short"
        record.message = f"{record.duration:.2f} s, wanted {info['min_seconds']:g}"


def _sounding(file: Path, record: Record, info: dict) -> Iterator[tuple[float, Tensor]]:
    """Start (s) and audio [1, samples] of the clips worth keeping. A file that fails ends the stream with its outcome
    in `record`; errors of the consumer (the codec) are not caught here."""
    rate, samples = info["sample_rate"], 0
    try:
        for clip in stream_audio(file, rate, info["clip_seconds"]):
            start, samples = samples / rate, samples + clip.shape[-1]
            record.duration = samples / rate
            if clip.shape[-1] < round(info["min_seconds"] * rate):
                continue
            if near_silent(clip, rate, info["silence_db"]):
                record.silent += 1
                continue
            yield start, clip
    except EmptyAudio as error:
        record.outcome, record.message = "empty", str(error)
    except UserError as error:
        record.outcome, record.message = "broken", str(error)
        if not os.access(file, os.R_OK):
            record.mtime = -1  # so that it is tried again: giving permission leaves the file's own time


@torch.inference_mode()
def _payloads(audio: Tensor, codec: Codec | None) -> list[tuple[int, bytes]]:
    """Frames (samples without a codec) and stored bytes of each clip of [b, 1, samples]."""
    if codec is None:
        values = (audio[:, 0] * PCM_SCALE).round().clamp(-PCM_SCALE, PCM_SCALE - 1)
    else:
        device = next(codec.parameters()).device if isinstance(codec, nn.Module) else "cpu"
        values = codec.encode(audio.to(device)).cpu()
    whole = values.numpy().astype("<i2")
    return [(clip.shape[-1], clip.tobytes()) for clip in whole]


def near_silent(audio: Tensor, sample_rate: int, silence_db: float) -> bool:
    """Whether a clip [1, samples] has an rms under `silence_db` dBFS, or more than half its 50 ms windows under it (the
    paper drops clips with more than 15 s of silence in 30 s)."""
    if loudness_db(audio) < silence_db:
        return True
    quiet = silent_windows(audio, sample_rate, silence_db)
    return 2 * int(quiet.sum()) > len(quiet)


def silent_windows(audio: Tensor, sample_rate: int, silence_db: float) -> Tensor:
    """Which of the 50 ms windows of a clip [1, samples] have an rms under `silence_db` dBFS: bool [windows]."""
    window = max(1, round(SILENCE_WINDOW * sample_rate))
    windows = audio[0, : audio.shape[-1] // window * window].reshape(-1, window)
    return windows.square().mean(dim=1) < 10 ** (silence_db / 10)
