"""The records of all tracks become one data set, in the order of the tracks' names, whatever order they were done in.

metadata.parquet   a row a clip, file_name first (Hugging Face's AudioFolder reads it)
drops.parquet      a row for each clip that is out: the stage, the reason, what was measured
tracks.parquet     a row for each file of the collection: what it is, and what became of it
captions.jsonl     what `ostinato prepare OUT` reads
clips/             FLAC or Opus; with format codes, clips-00000.parquet and store.json instead: a store to train on
README.md          the data card
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ostinato.curate.clip import Drop, Track
from ostinato.curate.recipe import Recipe
from ostinato.curate.scan import Facts
from ostinato.curate.stages import licence_name, measured_names
from ostinato.curate.work import read_json, record_path, state_of
from ostinato.data.captions import split_of
from ostinato.data.store import FORMAT, shard_table, write_shard
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

SHARD_CLIPS = 500

_SAID = pa.struct([("text", pa.string()), ("by", pa.string()), ("start", pa.float64()), ("seconds", pa.float64())])
_MEASURED = [(name, pa.float64()) for name in measured_names()]
_OF_TRACK = [(key, pa.string()) for key in ("title", "artist", "licence", "source", "split")]
CLIPS = pa.schema(
    [
        ("file_name", pa.string()),
        ("id", pa.string()),
        ("track", pa.string()),
        ("start", pa.float64()),
        ("seconds", pa.float64()),
        ("sample_rate", pa.int32()),
        ("caption", pa.string()),
        ("caption_by", pa.string()),
        ("captions", pa.list_(_SAID)),
        *_OF_TRACK,
        ("licence_text", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("separated_by", pa.string()),
        *_MEASURED,
        ("audio_sha256", pa.string()),
    ]
)
DROPS = pa.schema(
    [
        ("track", pa.string()),
        ("start", pa.float64()),
        ("seconds", pa.float64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        *_MEASURED,
    ]
)
TRACKS = pa.schema(
    [
        ("track", pa.string()),
        ("outcome", pa.string()),
        ("stage", pa.string()),
        ("detail", pa.string()),
        ("clips", pa.int32()),
        ("clip_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("sample_rate", pa.int32()),
        ("channels", pa.int32()),
        ("form", pa.string()),
        ("licence_text", pa.string()),
        *_OF_TRACK,
    ]
)


@dataclass
class Summary:
    """What a run came to. wordless: clips that have no caption at all; reasons: seconds and clips (or files, for those
    that never were clips) by stage and reason; spent: s of work by stage, of all tracks whose records are here."""

    tracks: int = 0
    hours_in: float = 0.0
    clips: int = 0
    hours: float = 0.0
    wordless: int = 0
    reasons: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)


def assemble(
    out: Path, recipe: Recipe, tracks: list[Track], facts: dict[str, Facts], decided: dict[str, tuple[str, Drop]]
) -> Summary:
    """Write the tables of all tracks (sorted by id). Raises: UserError where no clip is left, after writing them."""
    summary = Summary(tracks=len(tracks), hours_in=sum(facts[t.id].seconds for t in tracks) / 3600)
    clips, drops, rows = [], [], []
    for track, record in _records(out, recipe, tracks, decided):
        about = _about(track)
        fact = facts[track.id]
        known = {"seconds": fact.seconds, "sample_rate": fact.rate, "channels": fact.channels, "form": fact.form}
        if track.id in decided:
            stage, drop = decided[track.id]
            told = {"outcome": drop.reason, "stage": stage, "detail": drop.detail}
            drops.append({"track": track.id, "start": 0.0, "seconds": fact.seconds, **told, "reason": drop.reason})
            rows.append({"track": track.id, **told, "clips": 0, "clip_seconds": 0.0, **known, **about})
            continue
        for row in record["clips"]:
            clips.append({**row, **row["measured"], **about, "tags": list(track.tags)})
        drops += [{"track": track.id, **drop, **drop["measured"]} for drop in record["drops"]]
        rows.append({"track": track.id, **_outcome(record), **known, **about})
        for stage, seconds in record["spent"].items():
            summary.spent[stage] = summary.spent.get(stage, 0.0) + seconds
    summary.clips, summary.hours = len(clips), sum(row["seconds"] for row in clips) / 3600
    summary.wordless = sum(not row["caption"] and not row["captions"] for row in clips)
    summary.reasons = _reasons(drops)
    for name, values, schema in (("metadata", clips, CLIPS), ("drops", drops, DROPS), ("tracks", rows, TRACKS)):
        table = pa.Table.from_pylist(values, schema=schema)
        write_atomic(out / f"{name}.parquet", partial(pq.write_table, table))
    write_atomic(out / "captions.jsonl", lambda temporary: temporary.write_text(_captions(clips), encoding="utf-8"))
    if recipe.format == "codes":
        _write_store(out, recipe, clips)
    else:
        _remove_strays(out, {row["file_name"] for row in clips})
    from ostinato.curate.card import card

    write_atomic(out / "README.md", lambda temporary: temporary.write_text(card(out, recipe, summary, clips), "utf-8"))
    if not clips:
        worst = ", ".join(f"{count} {reason}" for (_, reason), (_, count) in list(summary.reasons.items())[:5])
        raise UserError(f"no clip is left ({worst}): {out / 'drops.parquet'} has all reasons")
    return summary


def _records(
    out: Path, recipe: Recipe, tracks: list[Track], decided: dict[str, tuple[str, Drop]]
) -> Iterator[tuple[Track, dict]]:
    for track in tracks:
        record = read_json(record_path(out, track)) if track.id not in decided else {}
        if record is None or (record and record.get("state") != state_of(track, recipe)):
            raise UserError(f"the record of {track.id} is not there: run the same command again")
        yield track, record


def _about(track: Track) -> dict:
    named = licence_name(track.licence)
    split = split_of(track.id, track.split)  # by track: clips of one never lie on both sides
    return {
        "title": track.title,
        "artist": track.artist,
        "licence": named,
        "licence_text": track.licence,
        "source": track.source,
        "split": split,
    }


def _outcome(record: dict) -> dict:
    kept = record["clips"]
    seconds = sum(row["seconds"] for row in kept)
    if kept:
        return {"outcome": "kept", "stage": "", "detail": "", "clips": len(kept), "clip_seconds": seconds}
    counts = Counter((drop["stage"], drop["reason"]) for drop in record["drops"])
    (stage, reason), _ = (
        max(counts.items(), key=lambda item: (item[1], item[0])) if counts else (("cut", "no clips"), 0)
    )
    detail = "; ".join(f"{count} x {r}" for (_, r), count in sorted(counts.items()))
    return {"outcome": reason, "stage": stage, "detail": detail, "clips": 0, "clip_seconds": 0.0}


def _reasons(drops: list[dict]) -> dict[tuple[str, str], tuple[float, int]]:
    found: dict[tuple[str, str], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for drop in drops:
        seconds, count = found[drop["stage"], drop["reason"]]
        found[drop["stage"], drop["reason"]] = (seconds + drop["seconds"], count + 1)
    return dict(sorted(found.items(), key=lambda item: (-item[1][1], item[0])))


def _captions(clips: list[dict]) -> str:
    """captions.jsonl: a clip's one description, or where none was made all that its track came with."""
    lines = []
    for row in clips:
        said = [row["caption"]] if row["caption"] else [caption["text"] for caption in row["captions"]]
        about = {key: row[key] for key in ("title", "artist", "licence", "source", "split")}
        lines.append(json.dumps({"path": row["file_name"] or row["id"], "captions": said, **about}, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def _remove_strays(out: Path, wanted: set[str]) -> None:
    """Files of clips that no record names: of tracks that changed, or left, or that a kill cut short."""
    for path in (out / "clips").rglob("*"):
        if path.is_file() and path.relative_to(out).as_posix() not in wanted:
            path.unlink()


def _write_store(out: Path, recipe: Recipe, clips: list[dict]) -> None:
    """The codes as a store of `data.store`."""
    from ostinato.codecs.base import fingerprint
    from ostinato.codecs.load import load_codec

    codec = load_codec(recipe.codec, "cpu")
    info = {
        "format": FORMAT,
        "kind": "codes",
        "codec": recipe.codec,
        "codec_id": fingerprint(codec),
        "sample_rate": int(codec.sample_rate),
        "frame_rate": float(codec.frame_rate),
        "num_codebooks": int(codec.num_codebooks),
        "codebook_size": int(codec.codebook_size),
        "clip_seconds": float(recipe.cut.seconds),
        "min_seconds": float(recipe.cut.min_seconds),
        "silence_db": float(options.below_db if (options := recipe.find("silence")) else float("-inf")),
    }
    if info["silence_db"] == float("-inf"):
        info["silence_db"] = -200.0
    groups = [clips[i : i + SHARD_CLIPS] for i in range(0, len(clips), SHARD_CLIPS)]
    for number, group in enumerate(groups):
        rows = [_store_row(out, row) for row in group]
        write_shard(out / f"clips-{number:05d}.parquet", shard_table(rows, "codes"), [])
    for stray in out.glob("clips-*.parquet"):
        if int(stray.stem.removeprefix("clips-")) >= len(groups):
            stray.unlink()
    write_atomic(out / "store.json", lambda temporary: temporary.write_text(json.dumps(info, indent=2) + "\n"))


def _store_row(out: Path, row: dict) -> dict:
    key = row["codes"].split(".")[0]
    codes = np.load(out / ".work" / key[:2] / row["codes"])
    said = [row["caption"]] if row["caption"] else [caption["text"] for caption in row["captions"]]
    kept = ("id", "start", "seconds", "title", "artist", "licence", "source", "split")
    return {
        **{key: row[key] for key in kept},
        "path": row["track"],
        "captions": said,
        "frames": int(codes.shape[1]),
        "codes": codes.astype("<i2").tobytes(),
    }
