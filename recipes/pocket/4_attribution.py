"""The list of works a pack was trained on: python recipes/pocket/4_attribution.py CORPUS/captions.jsonl OUT.csv"""

import csv
import json
import sys

COLUMNS = ["path", "title", "artist", "licence", "source", "split"]
with open(sys.argv[1]) as lines, open(sys.argv[2], "w", newline="") as out:
    table = csv.writer(out)
    table.writerow(COLUMNS)
    for work in sorted(map(json.loads, lines), key=lambda work: work["path"]):
        table.writerow([work[name] for name in COLUMNS])
