"""All that can be measured on this machine at a small size, in one table: `python -m benchmarks`.

    python -m benchmarks                              # prints the table, each figure beside the committed one's
    python -m benchmarks --only frame,startup         # some of it
    python -m benchmarks --write                      # and puts it into benchmarks/table.md, to be committed

Each benchmark runs in a process of its own and may fail without the others: its row says so. Of every figure less is
better; the last column is this run's over the committed table's, with "slower" from 10 % on. Figures of another machine
are not set beside this one's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # as where each benchmark runs by itself

from machine import machine

HERE = Path(__file__).parent
TABLE = HERE / "table.md"
SLOWER = 1.1


class Run(NamedTuple):
    script: str
    options: str
    row: tuple[str, ...]  # the fields that name a row
    figures: dict[str, tuple[str, float]]  # field -> unit, and how many of the field's own make one


RUNS = {
    "startup": Run(
        "startup.py", "--rounds 1", ("model",), {"first sound": ("s", 1), "end": ("s", 1), "ratio": ("x", 1)}
    ),
    "frame": Run("frame.py", "--frames 100", ("model",), {"frame": ("ms", 1), "step": ("ms", 1), "ratio": ("x", 1)}),
    "music": Run(
        "pocket.py", "--rounds 1 --seconds 5 --rows pocket", ("model",),
        {"rtf": ("s a second", 1), "first": ("s", 1), "peak": ("MB", 1e6)},
    ),
    "variants": Run(
        "generate.py", "--sizes small --seconds 5 --rounds 1 --models "
        "prefix-mamba,prefix-simba,cross-simba,cross-transformer", ("model",), {"ms": ("ms", 1), "state": ("MB", 1e6)},
    ),
    "ssd": Run(
        "ssd.py", "--frames 500 --batch 1 --heads 8 --state 64 --dtype float32 --rounds 3 --ways eager",
        ("way", "chunk"), {"forward ms": ("ms", 1), "with backward ms": ("ms", 1), "peak": ("MB", 1e6)},
    ),
    "loading": Run(
        "loading.py", "--configs prefix-simba-9,lm-pocket,codec-pocket --workers 0 --seconds 2", ("config",),
        {"ms": ("ms a clip", 1)},
    ),
    "training": Run(
        "train.py", "--size small --batch 2 --seconds 5 --rounds 3 --models prefix-simba,cross-transformer", ("model",),
        {"ms": ("ms", 1), "peak": ("MB", 1e6)},
    ),
}  # fmt: skip


def rows_of(found: dict) -> list[dict]:
    """What a benchmark wrote -> its rows; of several rounds the median."""
    rows = found["rows"]
    if isinstance(rows, list):
        return rows
    return [{"model": name} | {k: median(r[k] for r in rounds) for k in rounds[0]} for name, rounds in rows.items()]


def measure(name: str) -> dict[str, tuple[float, str]]:
    """What is measured -> value and unit. Raises RuntimeError where the benchmark fails."""
    run, found = RUNS[name], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, str(HERE / run.script), *run.options.split(), "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not path.is_file():
            raise RuntimeError((done.stderr.strip().splitlines() or ["no result"])[-1][:160])
        for row in rows_of(json.loads(path.read_text())):
            for field, (unit, size) in run.figures.items():
                if row.get(field) is not None:
                    label = ", ".join([name, *(str(row[key]) for key in run.row), field.removesuffix(" ms")])
                    found[label] = (row[field] / size, unit)
    return found


def committed(here: str) -> dict[str, float]:
    """The figures of the table beside this file, if they are of this machine."""
    if not TABLE.is_file() or processor(here) not in TABLE.read_text():
        return {}
    lines = [line.strip("| ").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return {cells[0].strip(): float(cells[1].split()[0]) for cells in lines[2:] if cells[1].strip()[:1].isdigit()}


def processor(here: str) -> str:
    return ", ".join(here.split(", ")[:3])  # name, cores and threads


def table(found: dict[str, tuple[float, str]], before: dict[str, float], failed: dict[str, str], here: str) -> str:
    lines = ["| what | value | over the last table's |", "| --- | --- | --- |"]
    for label, (value, unit) in found.items():
        ratio = value / before[label] if before.get(label) else None
        told = "-" if ratio is None else f"{ratio:.2f}{', slower' if ratio > SLOWER else ''}"
        shown = f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
        lines.append(f"| {label} | {shown} {unit} | {told} |")
    lines += [f"| {name} | failed: {reason} | - |" for name, reason in failed.items()]
    return f"`python -m benchmarks`, {here}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"some, with commas between: {', '.join(RUNS)}")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/table.md")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(RUNS)
    if unknown := [name for name in names if name not in RUNS]:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(RUNS)}")
    here, found, failed = machine(), {}, {}
    for i, name in enumerate(names, 1):
        print(f"{i} of {len(names)}: {name}", file=sys.stderr, flush=True)
        try:
            found |= measure(name)
        except RuntimeError as error:
            failed[name] = str(error)
    text = table(found, committed(here), failed, here)
    print(text)
    if args.write:
        TABLE.write_text(text)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
