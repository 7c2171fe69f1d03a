"""Choose scores of the music21 corpus and how each is played: `python lists/1_tunes.py > data/scores.csv`.

Done once, by the maintainers; 1_corpus.py reads the result. The same seed gives the same file.
"""

import csv
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from music.plan_tunes import CHOIRS, LEADS, chorales, settle, tunes

CHORALES, TUNES = 92, 205


def main() -> None:
    """Deal the instruments out in turn, so that none is rare; one version of each melody."""
    from music21 import corpus

    rng, root, seen = random.Random(20), Path(corpus.__file__).parent, set()
    writer = None
    for candidates, choices, wanted in ((chorales(root, rng), CHOIRS, CHORALES), (tunes(root, rng), LEADS, TUNES)):
        done = 0
        for score in candidates:
            if done == wanted:
                break
            if score.contour in seen or not (row := settle(score, choices[done % len(choices)], rng)):
                continue
            seen.add(score.contour)
            if not writer:
                writer = csv.DictWriter(sys.stdout, row, lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            done += 1


if __name__ == "__main__":
    main()
