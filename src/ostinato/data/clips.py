"""One audio file becomes rows of the clip store: cut, sifted, encoded (see `data.prepare`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

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


def clips_of(file: Path, about: About, record: Record, info: dict, codec: Codec | None, batch: int) -> list[dict]:
    """The store's rows of one source file, with payload; fills `record`. info is store.json's dict; codec None keeps
    PCM; batch clips are encoded together. A broken file raises nothing: `record.outcome` says why, and no row comes."""
    try:
        record.path.encode()
    except UnicodeEncodeError:
        record.outcome, record.message = "broken", "its name is not UTF-8: rename it"
        return []
    said = described(record.path, with_tags(about, file))
    rows = []
    # Only clips of one length go through the codec together: padding would change their codes.
    for _, alike in groupby(_sounding(file, record, info), key=lambda clip: clip[1].shape[-1]):
        while group := list(islice(alike, batch)):
            audio = torch.stack([clip for _, clip in group])
            for (start, clip), (frames, payload) in zip(group, _payloads(audio, codec), strict=True):
                seconds = clip.shape[-1] / info["sample_rate"]
                clip_id = f"{record.path}#{start:.3f}"
                row = {"id": clip_id, "path": record.path, "start": start, "seconds": seconds, "frames": frames}
                rows.append({**row, **said, PAYLOAD[info["kind"]]: payload})
    if record.outcome:  # broken or empty
        return []
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
    return rows


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
    window = max(1, round(SILENCE_WINDOW * sample_rate))
    windows = audio[0, : audio.shape[-1] // window * window].reshape(-1, window)
    quiet = windows.square().mean(dim=1) < 10 ** (silence_db / 10)
    return 2 * int(quiet.sum()) > len(quiet)
