"""One track through the stages of a recipe, and the record of it: the unit in which a run is done, killed and resumed.

OUT/.work/ab/<key>.scan.json   what the scan found of a track
OUT/.work/ab/<key>.json        its clips and drops; written last, so that it is there only when all of it is
OUT/.work/ab/<key>.<n>.npy     with format codes: the codes of its clips
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.curate.clip import Clip, Drop, Halt, Said, Track, share, stem_of
from ostinato.curate.recipe import Recipe, Step
from ostinato.curate.scan import Facts
from ostinato.curate.sources import as_file
from ostinato.curate.stages import Context, loudness
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

TOGETHER = 16  # clips of a track that go through a stage at once: an hour of music is never in memory whole

Apply = Callable[[Any], Any]


@dataclass(frozen=True)
class Out:
    """A clip that is out, as a row: of which stage, why."""

    start: float
    seconds: float
    stage: str
    drop: Drop
    measured: dict[str, float] = field(default_factory=dict)


@dataclass
class Worker:
    """The stages after `cut`, made once a process, and what else the work on a track needs."""

    recipe: Recipe
    out: Path
    stages: list[tuple[str, Apply, int]]  # name, function, clips it may work on at a time
    codec: Any = None

    def do(self, track: Track, facts: Facts) -> float:
        """Take a track through, write its clips and its record. Returns: seconds of music kept."""
        spent: dict[str, float] = defaultdict(float)
        kept, dropped = through(track, facts, self.recipe, self.stages, spent)
        return self.finish(track, kept, dropped, spent)

    def finish(self, track: Track, kept: list[Clip], dropped: list[Out], spent: dict[str, float]) -> float:
        """Write what is left of a track: its clips, then its record."""
        rows = []
        for number, clip in enumerate(kept):
            began = time.perf_counter()
            rows.append(self._write(clip, number))
            spent["write"] += time.perf_counter() - began
        write_record(self.out, track, self.recipe, rows, dropped, dict(spent))
        return float(sum(row["seconds"] for row in rows))

    def _write(self, clip: Clip, number: int) -> dict:
        """The clip's file; its row of the result."""
        pcm = as_pcm(clip.audio)
        row = row_of(clip, hashlib.sha256(pcm.tobytes()).hexdigest())
        if self.recipe.format == "codes":
            place = record_path(self.out, clip.track).with_suffix(f".{number}.npy")
            place.parent.mkdir(parents=True, exist_ok=True)
            codes = encode(self.codec, pcm)
            write_atomic(place, lambda temporary: _save(temporary, codes))
            return {**row, "file_name": "", "frames": int(codes.shape[1]), "codes": place.name}
        name = f"{stem_of(clip)}.{self.recipe.format}"
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.out / name, lambda temporary: _encode(temporary, pcm, clip.rate, self.recipe.format))
        return {**row, "file_name": name}


def make_worker(recipe: Recipe, out: Path, context: Context) -> Worker:
    """Make every stage after `cut`. Raises: UserError, naming what is missing, where one cannot be made."""
    return Worker(recipe, out, make_stages(recipe.after_cut(), context), make_codec(recipe, context))


def make_stages(steps: Sequence[Step], context: Context) -> list[tuple[str, Apply, int]]:
    return [
        (step.name, step.stage.make(step.options, context), getattr(step.options, "parallel", 1))
        for step in steps
        if step.name != "one_clip"
    ]


def make_codec(recipe: Recipe, context: Context) -> Any:
    """The codec of format codes, else None. Raises: UserError for one of another sample rate."""
    if recipe.format != "codes":
        return None
    from ostinato.codecs.load import load_codec

    codec = load_codec(recipe.codec, context.device)
    if codec.sample_rate != recipe.sample_rate:
        raise UserError(f"{recipe.codec} works at {codec.sample_rate} Hz: --set sample_rate={codec.sample_rate}")
    return codec


def through(
    track: Track, facts: Facts, recipe: Recipe, stages: list[tuple[str, Apply, int]], spent: dict[str, float]
) -> tuple[list[Clip], list[Out]]:
    """All clips of a track through `stages`: those left, in order of time, and those out. spent: s by stage, added to.

    With `one_clip` the clip left whose share (by seed and id) is least is chosen: with stop_early by going through them
    in that order until one is left, which is the same clip."""
    one = recipe.find("one_clip")
    dropped: list[Out] = []
    if one and one.stop_early:
        kept = _first(track, facts, recipe, stages, spent, dropped)
    else:
        kept = read_clips(track, recipe, stages, spent, dropped)
    return kept, sorted(dropped, key=lambda out: out.start)


def read_clips(
    track: Track, recipe: Recipe, stages: list[tuple[str, Apply, int]], spent: dict[str, float], dropped: list[Out]
) -> list[Clip]:
    """The clips of a track that pass `stages`, a few read at a time; with `one_clip`, the one chosen. A file that ends
    early or is damaged gives those before the damage."""
    kept: list[Clip] = []
    try:
        pieces = _timed(cut(track, recipe, dropped), spent, "cut")
        while clips := list(islice(pieces, TOGETHER)):
            kept += apply_stages(clips, stages, spent, dropped)
            if recipe.find("one_clip") and len(stages) == _stages_after_cut(recipe):
                kept = choose(kept, recipe.seed, dropped)
    except Halt:
        raise
    except UserError as error:
        dropped.append(Out(_end(kept, dropped), 0.0, "read", Drop("damaged", str(error))))
    return kept


def _stages_after_cut(recipe: Recipe) -> int:
    return sum(step.name != "one_clip" for step in recipe.after_cut())


def _first(
    track: Track, facts: Facts, recipe: Recipe, stages: list, spent: dict[str, float], dropped: list[Out]
) -> list[Clip]:
    """Read only as much of a track as it takes to find the clip that the draw chooses."""
    from ostinato.utils.audio import read_audio

    size, seconds = recipe.cut.seconds, facts.seconds
    starts = [k * size for k in range(int(np.ceil(seconds / size)))]
    lengths = {start: min(size, seconds - start) for start in starts}
    order = sorted(starts, key=lambda start: share(recipe.seed, f"{track.id}#{start:.3f}"))
    with as_file(track) as path:
        for place, start in enumerate(order):
            if lengths[start] < recipe.cut.min_seconds - 0.01:
                dropped.append(Out(start, lengths[start], "cut", Drop("the end of a track")))
                continue
            try:
                began = time.perf_counter()
                audio = read_audio(path, recipe.sample_rate, start, size)[0].numpy()
                spent["cut"] += time.perf_counter() - began
            except UserError as error:
                dropped.append(Out(start, lengths[start], "read", Drop("damaged", str(error))))
                continue
            if len(audio) < round(recipe.cut.min_seconds * recipe.sample_rate):
                dropped.append(Out(start, len(audio) / recipe.sample_rate, "cut", Drop("the end of a track")))
                continue
            clip = new_clip(track, start, recipe.sample_rate, audio)
            if left := apply_stages([clip], stages, spent, dropped):
                other = Drop("another clip was chosen", "not measured")
                dropped += [Out(s, lengths[s], "one_clip", other) for s in order[place + 1 :]]
                return left
    return []


def cut(track: Track, recipe: Recipe, dropped: list[Out]) -> Iterator[Clip]:
    """Non-overlapping clips of a track, mono at the recipe's rate; a last piece that is too short is dropped. Raises:
    UserError where the file is broken, perhaps after some clips."""
    from ostinato.utils.audio import stream_audio

    samples, rate = 0, recipe.sample_rate
    with as_file(track) as path:
        for piece in stream_audio(path, rate, recipe.cut.seconds):
            start, audio = samples / rate, piece[0].numpy()
            samples += len(audio)
            if len(audio) < round(recipe.cut.min_seconds * rate):
                dropped.append(Out(start, len(audio) / rate, "cut", Drop("the end of a track")))
            else:
                yield new_clip(track, start, rate, audio)


def new_clip(track: Track, start: float, rate: int, audio: np.ndarray) -> Clip:
    # One caption is the description; which of several is, or what they come to, a stage says.
    one = track.captions[0] if len(track.captions) == 1 else Said("", "")
    return Clip(track, start, rate, audio.astype(np.float32), track.captions, one.text, one.by)


def _timed(clips: Iterator[Clip], spent: dict[str, float], name: str) -> Iterator[Clip]:
    while True:
        began = time.perf_counter()
        clip = next(clips, None)
        spent[name] += time.perf_counter() - began
        if clip is None:
            return
        yield clip


def apply_stages(clips: list[Clip], stages: list, spent: dict[str, float], dropped: list[Out]) -> list[Clip]:
    for name, apply, parallel in stages:
        if not clips:
            break
        began = time.perf_counter()
        try:
            results = _each(apply, clips, parallel)
        except UserError as error:  # what a stage cannot do for one clip it can for none
            raise Halt(f"{name}: {error}") from error
        spent[name] += time.perf_counter() - began
        for clip, result in zip(clips, results, strict=True):
            if isinstance(result, Drop):
                measured = {**clip.measured, **result.measured, "loudness_db": loudness(clip.audio)}
                dropped.append(Out(clip.start, clip.seconds, name, result, measured))
        clips = [result for result in results if not isinstance(result, Drop)]
    return clips


def _each(apply: Apply, clips: list[Clip], parallel: int) -> list[Any]:
    if parallel < 2 or len(clips) < 2:
        return [apply(clip) for clip in clips]
    with ThreadPoolExecutor(min(parallel, len(clips))) as pool:
        return list(pool.map(apply, clips))


def choose(clips: list[Clip], seed: int, dropped: list[Out]) -> list[Clip]:
    """The one whose share, by the seed and its id, is least: the same however the clips come."""
    if not clips:
        return []
    chosen = min(clips, key=lambda clip: share(seed, clip.id))
    others = [clip for clip in clips if clip is not chosen]
    dropped += [Out(c.start, c.seconds, "one_clip", Drop("another clip was chosen"), c.measured) for c in others]
    return [chosen]


def _end(kept: list[Clip], dropped: list[Out]) -> float:
    ends = [clip.start + clip.seconds for clip in kept] + [out.start + out.seconds for out in dropped]
    return max(ends, default=0.0)


def as_pcm(audio: np.ndarray) -> np.ndarray:
    """float32 [samples] -> int16 little endian, clipped: what is written, and what its checksum is of."""
    return np.clip(np.round(audio.astype(np.float64) * 32768), -32768, 32767).astype("<i2")


def encode(codec: Any, pcm: np.ndarray) -> np.ndarray:
    """Codes int16 [K, T] of a clip."""
    import torch

    audio = torch.from_numpy(pcm.astype(np.float32) / 32768)[None, None]
    device = next(codec.parameters()).device if isinstance(codec, torch.nn.Module) else "cpu"
    with torch.inference_mode():
        return codec.encode(audio.to(device)).cpu().numpy()[0].astype("<i2")


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _encode(path: Path, pcm: np.ndarray, rate: int, form: str) -> None:
    import soundfile as sf

    kind = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}[form]
    with sf.SoundFile(path, "w", rate, 1, kind[1], format=kind[0]) as file:
        for block in np.array_split(pcm, max(1, len(pcm) >> 14)):
            file.write(block)


def row_of(clip: Clip, digest: str) -> dict:
    """A clip's row of the result, but for its file."""
    track = clip.track
    measured = {"loudness_db": loudness(clip.audio), **clip.measured}
    return {
        "id": clip.id,
        "track": track.id,
        "start": clip.start,
        "seconds": clip.seconds,
        "sample_rate": clip.rate,
        "frames": len(clip.audio),
        "caption": clip.caption,
        "caption_by": clip.caption_by,
        "captions": [asdict(said) for said in clip.captions],
        "separated_by": clip.separated_by,
        "audio_sha256": digest,
        "measured": {key: round(value, 6) for key, value in measured.items()},
    }


def record_path(out: Path, track: Track) -> Path:
    return out / ".work" / track.key[:2] / f"{track.key}.json"


def state_of(track: Track, recipe: Recipe) -> str:
    """16 hex digits of all that a record hangs on: the recipe, the file, and what is said of it."""
    about = asdict(replace(track, path="", mtime=0, size=0))
    told = json.dumps([recipe.digest(), track.size, track.mtime, about], sort_keys=True)
    return hashlib.sha256(told.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def write_record(
    out: Path, track: Track, recipe: Recipe, rows: list[dict], dropped: list[Out], spent: dict[str, float]
) -> None:
    path = record_path(out, track)
    drops = [
        {
            "start": o.start,
            "seconds": o.seconds,
            "stage": o.stage,
            "reason": o.drop.reason,
            "detail": o.drop.detail,
            "measured": {key: round(value, 6) for key, value in o.measured.items()},
        }
        for o in dropped
    ]
    record = {"track": track.id, "state": state_of(track, recipe), "clips": rows, "drops": drops, "spent": spent}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(record)))


def read_json(path: Path) -> dict | None:
    """None for a file that is not there, or that a power cut left half written."""
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else None
    except (OSError, ValueError):
        return None
