"""What a data set came to: the funnel beside the paper's, captions in numbers, licences, and samples to listen to."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from ostinato.curate.clip import share
from ostinato.curate.sources import list_tracks
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

PAPER_TRACKS, PAPER_HOURS = 54_894, 457.45  # arXiv 2601.14786, III-C
SAMPLES = 3  # a reason
UNCOUNTED = re.compile(r"a|an|and|are|as|at|be|by|for|from|has|have|in|is|its?|of|on|or|s|th\w+|to|which|while|with")


@dataclass(frozen=True)
class Level:
    """A line of the funnel: hours and clips (before `cut`: files) that are left after a stage."""

    stage: str
    hours: float
    out_hours: float
    out: int


def read_table(out: Path, name: str) -> list[dict]:
    path = out / f"{name}.parquet"
    if not path.is_file():
        raise UserError(f"{out} is no data set of `ostinato curate`: it has no {name}.parquet")
    return pq.read_table(path).to_pylist()


def funnel(out: Path) -> list[Level]:
    """Hours after each stage, from all there was to what is kept. The hours of files that could not be read count as
    nothing: nobody knows them."""
    tracks, drops = read_table(out, "tracks"), read_table(out, "drops")
    recipe = json.loads((out / "recipe.json").read_text())
    lost: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    for drop in drops:
        lost[drop["stage"]] += drop["seconds"] / 3600
        count[drop["stage"]] += 1
    left = sum(track["seconds"] for track in tracks) / 3600
    levels = [Level("all files", left, 0.0, 0)]
    names = list(dict.fromkeys(name for stage in recipe["stages"] for name in stage))
    for name in names if "read" in names else ["read", *names]:
        left -= lost[name]
        levels.append(Level(name, left, lost[name], count[name]))
    return levels


def report(out: Path, to: Path, music: str = "", progress: Callable[[str], None] = lambda told: None) -> list[Path]:
    """Write funnel.png, report.md, and with `music` (what the set was made from) samples of each reason. Returns the
    files. Raises: UserError for a folder that is no data set, or where matplotlib is missing."""
    to.mkdir(parents=True, exist_ok=True)
    levels, clips = funnel(out), read_table(out, "metadata")
    files = [draw(levels, to / "funnel.png")]
    text = markdown(out, levels, clips)
    if music:
        samples = write_samples(out, to, music, progress)
        text += "\n## To listen to\n\n" + "\n".join(f"- {reason}: {', '.join(p.name for p in paths)}"
                                                     for reason, paths in samples.items()) + "\n"  # fmt: skip
        files += [path for paths in samples.values() for path in paths]
    write_atomic(to / "report.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return [to / "report.md", *files]


def markdown(out: Path, levels: list[Level], clips: list[dict]) -> str:
    tracks = read_table(out, "tracks")
    kept = sum(track["outcome"] == "kept" for track in tracks)
    lines = [
        f"# {out.name}",
        "",
        f"![The funnel](funnel.png)\n\n{kept} of {len(tracks)} files have clips in it.",
        "",
        "| after | hours left | hours out | clips or files out |",
        "| --- | --- | --- | --- |",
        *(f"| {level.stage} | {level.hours:.3f} | {level.out_hours:.3f} | {level.out} |" for level in levels),
        f"| *the paper: {PAPER_TRACKS} tracks, one clip of 30 s each* | {PAPER_HOURS} | | |",
        "",
        f"{PAPER_TRACKS} x 30 s are {PAPER_TRACKS * 30 / 3600:.2f} h: the paper's tracks are those that are left, not "
        "those it began with.",
        "",
        "## Why clips and files are out",
        "",
        "| stage | reason | clips or files | hours |",
        "| --- | --- | --- | --- |",
    ]
    reasons: dict[tuple[str, str], list[float]] = defaultdict(list)
    for drop in read_table(out, "drops"):
        reasons[drop["stage"], drop["reason"]].append(drop["seconds"])
    ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    lines += [f"| {stage} | {why} | {len(s)} | {sum(s) / 3600:.3f} |" for (stage, why), s in ordered]
    lines += ["", "## Captions", "", *caption_lines(clips), "", "## Licences", "", "| licence | clips | hours |"]
    lines += ["| --- | --- | --- |"]
    by: dict[str, list[float]] = defaultdict(list)
    for clip in clips:
        by[clip["licence"] or "not named"].append(clip["seconds"])
    lines += [f"| {name} | {len(s)} | {sum(s) / 3600:.3f} |" for name, s in sorted(by.items())]
    return "\n".join(lines) + "\n"


def caption_lines(clips: list[dict]) -> list[str]:
    """Lengths in words, who wrote them, and the commonest words."""
    texts = [clip["caption"] for clip in clips if clip["caption"]]
    lengths = sorted(len(text.split()) for text in texts)
    found = [word for text in texts for word in set(re.findall(r"[a-z']+", text.lower()))]
    words = Counter(word for word in found if not UNCOUNTED.fullmatch(word))
    writers = Counter(clip["caption_by"] or "nobody" for clip in clips)
    if not lengths:
        return ["No clip has one description."]
    spread = ", ".join(
        f"{int(100 * q)} %: {lengths[min(len(lengths) - 1, int(q * len(lengths)))]}" for q in (0, 0.5, 0.9)
    )
    return [
        f"{len(texts)} of {len(clips)} clips have a description; {len(set(texts))} differ. Words: {spread}, at most "
        f"{lengths[-1]}.",
        "",
        f"Written by: {', '.join(f'{name} ({count})' for name, count in writers.most_common())}.",
        "",
        f"Commonest words: {', '.join(f'{word} ({count})' for word, count in words.most_common(30))}.",
    ]


def draw(levels: list[Level], path: Path) -> Path:
    """Bars of hours after each stage."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("the funnel figure needs matplotlib: pip install 'ostinato[evaluate]'") from error
    figure = Figure(figsize=(8, 0.6 + 0.42 * len(levels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = [level.stage.replace("_", " ") for level in levels]
    hours = [level.hours for level in levels]
    bars = axes.barh(range(len(levels)), hours, color="#4477aa")
    axes.bar_label(bars, [f"{h:.2f} h" for h in hours], padding=3)
    axes.set_yticks(range(len(levels)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(hours + [1e-6]))
    axes.set_xlabel(f"hours left after the stage (the paper: {PAPER_HOURS} h of {PAPER_TRACKS} tracks)")
    axes.spines[["top", "right"]].set_visible(False)
    write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))
    return path


def write_samples(out: Path, to: Path, music: str, progress: Callable[[str], None]) -> dict[str, list[Path]]:
    """Up to three clips of every reason, read again from the collection: as they were before any stage."""
    from ostinato.curate.sources import as_file
    from ostinato.utils.audio import read_audio, write_audio

    tracks = {track.id: track for track in list_tracks(music)}
    rate = json.loads((out / "recipe.json").read_text())["sample_rate"]
    by: dict[str, list[dict]] = defaultdict(list)
    for drop in read_table(out, "drops"):
        if drop["seconds"] > 0 and drop["track"] in tracks:
            by[f"{drop['stage']}: {drop['reason']}"].append(drop)
    written: dict[str, list[Path]] = {}
    for reason, drops in sorted(by.items()):
        progress(reason)
        for number, drop in enumerate(sorted(drops, key=lambda d: share(0, f"{d['track']}{d['start']}"))[:SAMPLES]):
            name = re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")
            path = to / f"{name}-{number + 1}.ogg"
            try:
                with as_file(tracks[drop["track"]]) as file:
                    audio = read_audio(file, rate, drop["start"], min(30.0, drop["seconds"]))
                said = f"{drop['track']} at {drop['start']:.1f} s: {drop['detail']}"
                write_audio(path, audio, rate, {"comment": said})
            except UserError:
                continue  # what was out because it cannot be read cannot be heard
            written.setdefault(reason, []).append(path)
    return written
