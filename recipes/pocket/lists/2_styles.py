"""Add pieces by rule, tunes in other styles, more piano and folk: `python lists/2_styles.py data/scores.csv`.

Done once, by the maintainers, after 1_tunes.py: it keeps the lines without `form` and draws all others anew, the same
ones for the same seed.
"""

import csv
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from music.plan_rule import by_rule
from music.plan_styles import on_tunes


def main(listed: Path) -> None:
    """Rewrite the list: its old lines, then the new ones."""
    with listed.open(encoding="utf-8", newline="") as f:
        old = [r for r in csv.DictReader(f) if not r["form"]]
    rows = old + by_rule(random.Random(21)) + on_tunes({r["path"] for r in old}, random.Random(22))
    with listed.open("w", encoding="utf-8", newline="") as f:
        table = csv.DictWriter(f, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
