"""Clips of a curated set drawn for a check by hand, and what the check says of the stage `voices`.

    python benchmarks/funnel.py draw OUT MUSIC SHEETS [--count 30] [--of TEXT] [--seed 0]
    python benchmarks/funnel.py score OUT LABELS.csv

OUT: a data set of `ostinato curate` whose recipe has the line voices; MUSIC: what it was made of. draw: of all clips
that came to that line (--of: of tracks whose id has TEXT) so many are drawn, whatever became of them. SHEETS gets their
mel-spectrograms, six a picture, and clips.csv, a row each with track, start and an empty label. score: LABELS.csv is
such files with labels filled in (1: a voice, 0: none; empty: unclear, left out) and a column sample; by sample, the
share of voices caught and of others lost at several thresholds. benchmarks/funnel.csv is what docs/curate.md reports.
"""

import argparse
import csv
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

# Of any voice, of singing; 1: not heeded.
THRESHOLDS = ((0.05, 1), (0.07, 1), (0.1, 1), (0.15, 1), (0.3, 1), (0.1, 0.07), (0.1, 0.05), (0.1, 0.03), (0.15, 0.05))
RATE, SECONDS, A_SHEET = 22050, 30.0, 6


def heard(out: Path) -> dict[tuple[str, float], tuple[float, float]]:
    """The probability of a voice and of singing, by track and start, of every clip that the stage heard."""
    kept = pq.read_table(out / "metadata.parquet").to_pylist()
    drops = [row for row in pq.read_table(out / "drops.parquet").to_pylist() if row["stage"] in ("voices", "one_clip")]
    rows = [row for row in (*kept, *drops) if row["vocal_probability"] is not None]
    return {(r["track"], round(r["start"], 3)): (r["vocal_probability"], r["singing_probability"]) for r in rows}


def draw(out: Path, music: str, sheets: Path, count: int, of: str, seed: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ostinato.curate.sources import as_file, list_tracks
    from ostinato.evaluation.descriptors import log_mel
    from ostinato.utils.audio import read_audio

    clips = random.Random(seed).sample(sorted(clip for clip in heard(out) if of in clip[0]), count)
    tracks = {track.id: track for track in list_tracks(music)}
    sheets.mkdir(parents=True, exist_ok=True)
    with (sheets / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("number", "track", "start", "voice", "how"))
        table.writerows((number, track, f"{start:g}", "", "") for number, (track, start) in enumerate(clips, 1))
    for first in range(0, count, A_SHEET):
        figure = Figure(figsize=(16, 4 * A_SHEET), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(A_SHEET, 1)
        for number, ((track, start), panel) in enumerate(zip(clips[first : first + A_SHEET], panels, strict=False)):
            with as_file(tracks[track]) as path:
                audio = read_audio(path, RATE, start, SECONDS)[0].numpy()
            mel = log_mel(audio, RATE, 2048, 512, 96).T
            panel.imshow(mel, origin="lower", aspect="auto", extent=(0, SECONDS, 0, 1), cmap="magma")
            panel.set_title(f"{first + number + 1}", loc="left")
        figure.savefig(sheets / f"sheet-{first // A_SHEET + 1}.png", dpi=70)


def score(out: Path, labels: Path) -> None:
    found = heard(out)
    samples: dict[str, list[tuple[int, tuple[float, float]]]] = {}
    with labels.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["voice"]:
                both = found[row["track"], round(float(row["start"]), 3)]
                samples.setdefault(row["sample"], []).append((int(row["voice"]), both))
    for sample, rows in samples.items():
        voices, others = (np.array([value for voice, value in rows if voice == wanted]) for wanted in (1, 0))
        print(f"{sample}\n| a voice from | singing from | voices caught | others lost |\n| --- | --- | --- | --- |")
        for pair in THRESHOLDS:
            caught, lost = (int((values >= pair).any(1).sum()) for values in (voices, others))
            told = " | ".join("-" if value == 1 else f"{value:g}" for value in pair)
            print(f"| {told} | {caught} of {len(voices)} | {lost} of {len(others)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawing, scoring = verbs.add_parser("draw"), verbs.add_parser("score")
    drawing.add_argument("out", type=Path)
    drawing.add_argument("music")
    drawing.add_argument("sheets", type=Path)
    drawing.add_argument("--count", type=int, default=30)
    drawing.add_argument("--of", default="")
    drawing.add_argument("--seed", type=int, default=0)
    scoring.add_argument("out", type=Path)
    scoring.add_argument("labels", type=Path)
    asked = vars(parser.parse_args())
    {"draw": draw, "score": score}[asked.pop("verb")](**asked)


if __name__ == "__main__":
    main()
