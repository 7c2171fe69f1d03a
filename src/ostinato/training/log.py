"""log.jsonl of a run: a JSON object a line, for each step that is logged."""

import json
from contextlib import suppress
from pathlib import Path

from ostinato.utils.files import write_atomic


def append(output: Path, line: dict) -> None:
    """Add a line. Raises OSError."""
    with open(output / "log.jsonl", "a") as log:
        log.write(json.dumps(line) + "\n")


def forget_after(output: Path, step: int) -> None:
    """Delete the lines of steps that will be done again, and those that a kill tore."""
    path = output / "log.jsonl"
    if path.is_file():
        kept = []
        for line in path.read_text(errors="replace").splitlines(keepends=True):
            with suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["step"] <= step and line.endswith("\n"):
                    kept.append(line)
        write_atomic(path, lambda temporary: temporary.write_text("".join(kept)))
