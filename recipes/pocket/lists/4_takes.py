"""Choose more scores, each played several times: `python lists/4_takes.py data/takes.csv [--works N] [--takes N]`.

Done once, by the maintainers; it adds to the list and goes on where it stopped. Every take of a work has other
instruments, another key, tempo, accompaniment, room and sound font, drawn with the work and the take as the seed, and
captions of its own that are true of it. Works whose melody belongs to the validation or test split, by the rule or in
scores.csv, are left out: those splits stay as they are.
"""

import argparse
import csv
import itertools
import random
import sys
from pathlib import Path

from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from music.plan_tunes import CHOIRS, LEADS, Score, chorales, contour_of, settle, split_of, tunes
from music.scores import SOUNDFONTS, read_tune

SCORES = Path(__file__).resolve().parents[1] / "data" / "scores.csv"

TRIES = 4  # settings drawn for a take before it is given up: a dense tune cannot be played slowly


def takes(score: Score, count: int) -> list[dict[str, str]]:
    """The lines of a work's takes, no two with the same instruments."""
    choices = random.Random(score.work).sample(CHOIRS if score.genre == "Bach chorale" else LEADS, count)
    rows: list[dict[str, str]] = []
    for n, choice in enumerate(choices):
        if any(row["programs"] == str(choice[1]) for row in rows):  # the lists name some instruments twice
            continue
        rng = random.Random(f"{score.work} take {n}")
        row = next(filter(None, (settle(score, choice, rng) for _ in range(TRIES))), None)
        if row:
            rows.append(row | {"form": f"take {n}", "font": rng.choice(list(SOUNDFONTS))})
    return rows


def held_out() -> set[str]:
    """The melodies of scores.csv that are not for training."""
    with SCORES.open(encoding="utf-8", newline="") as f:
        rows = [row for row in csv.DictReader(f) if row["package"] == "music21" and row["split"] != "train"]
    return {contour_of(read_tune(work)) for work in {row["path"] for row in rows}}


def main() -> None:
    """Write the lines of one work after the other: an interruption loses one."""
    from music21 import corpus

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--works", type=int, default=1600)
    parser.add_argument("--takes", type=int, default=8, help="of each work, at most")
    args = parser.parse_args()
    done: set[str] = set()
    if args.table.exists():
        with args.table.open(encoding="utf-8", newline="") as f:
            done = {row["path"] for row in csv.DictReader(f)}
    rng, root, seen = random.Random(23), Path(corpus.__file__).parent, held_out()
    # Two chorales in eight, as long as there are any.
    streams = [chorales(root, rng), tunes(root, rng)]
    eight = iter(lambda: [*itertools.islice(streams[0], 2), *itertools.islice(streams[1], 6)], [])
    mixed = itertools.chain.from_iterable(eight)
    with args.table.open("a", encoding="utf-8", newline="") as f:
        for score in track(itertools.islice(mixed, args.works), "works", args.works):
            if score.work in done or score.contour in seen or split_of(score.contour) != "train":
                continue
            seen.add(score.contour)
            for row in takes(score, args.takes):
                table = csv.DictWriter(f, row, lineterminator="\n")
                if not f.tell():
                    table.writeheader()
                table.writerow(row)
            f.flush()


if __name__ == "__main__":
    main()
