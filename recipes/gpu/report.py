"""What `first_hour.sh` has found so far, as results.json and results.md: python recipes/gpu/report.py OUT"""

import json
import sys
from pathlib import Path

LINES = 12  # of a log, its last


def steps(folder: Path) -> list[dict]:
    """Of each step in the order they ended: name, exit code (124: its time was up), seconds, figures, last lines."""
    found = []
    for end in sorted(folder.glob("*.end"), key=lambda path: path.stat().st_mtime):
        code, seconds = map(int, end.read_text().split())
        figures, log = end.with_suffix(".json"), end.with_suffix(".log")
        step = {"step": end.stem, "code": code, "seconds": seconds}
        step["log"] = log.read_text(errors="replace").strip().splitlines()[-LINES:] if log.is_file() else []
        found.append(step | (json.loads(figures.read_text()) if figures.is_file() else {}))
    return found


def number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(found: list[dict]) -> str:
    lines = ["| step | ended | s |", "| --- | --- | --- |"]
    told = {0: "whole", 124: "its time was up"}
    lines += [f"| {s['step']} | {told.get(s['code'], 'failed')} | {s['seconds']} |" for s in found]
    for s in found:
        lines += ["", f"## {s['step']}", ""]
        rows = s.get("rows", [])
        if rows:
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines += ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
            lines += ["| " + " | ".join(number(row.get(name, "-")) for name in names) + " |" for row in rows]
        else:
            lines += ["```", *s["log"], "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = steps(folder)
    (folder / "results.json").write_text(json.dumps(found, indent=1))
    (folder / "results.md").write_text(markdown(found))
