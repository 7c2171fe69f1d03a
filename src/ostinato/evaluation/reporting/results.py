"""Rows of evaluations, as results.json has them, and where each belongs in the papers' tables."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostinato.evaluation.reporting.paper_numbers import LABELS
from ostinato.models.lm import VARIANTS
from ostinato.utils.errors import UserError
from ostinato.utils.text_files import read_text

# The papers' metrics, with the listener each is on; a stand-in takes the place of one that was not used.
PAPERS = {"fd": "openl3", "kl": "passt", "clap": "clap"}
MUSICGEN_MEDIUM = 1e9  # parameters: small has 0.4 billion, the others 1.5 and more


@dataclass(frozen=True)
class Measured:
    """A row of an evaluation: its key, and all that results.json says of it."""

    key: str
    row: dict[str, Any]
    seconds: float
    proxies: frozenset[str]

    @property
    def step(self) -> int | None:
        return self.row["about"].get("step")

    @property
    def run(self) -> str:
        """What was evaluated, at whatever step: the run that a checkpoint is of, a model, or the name of a folder."""
        source = Path(self.row["about"].get("source") or self.row["name"])
        return str(source.parent if source.name.startswith("step-") else source)


def read_results(paths: Sequence[Path]) -> list[Measured]:
    """Rows of every results.json (or folder with one). Raises UserError for a missing or another file."""
    found = []
    for path in paths:
        file = path / "results.json" if path.is_dir() else path
        try:
            results = json.loads(read_text(file))
            proxies = frozenset(name for name, listener in results["listeners"].items() if listener["proxy"])
            for row in results["rows"]:
                found.append(Measured(key_of(row), row, results["settings"]["seconds"], proxies))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is no evaluation ({error}): give what `ostinato evaluate` wrote") from error
    return found


def key_of(row: dict[str, Any]) -> str:
    """Where a row belongs in the papers' tables; "" for nowhere."""
    about, name = row["about"], row["name"].lower()
    if row["kind"] == "codec":
        return f"real-{about['codebooks']}"
    if row["kind"] in ("real", "oracle"):
        return "real" if row["kind"] == "real" else "real-diffusion"
    if about.get("variant") == "musicgen":
        return "musicgen-small" if about["parameters"] < MUSICGEN_MEDIUM else ""
    variant = about.get("variant")
    if about.get("fine"):  # before its name, which may hold another's: cross-simba-diffusion
        return {"prefix-simba": "simba", "cross-transformer": "transformer"}.get(variant, variant) + "-diffusion"
    for words in (*LABELS, "simba-diffusion", "transformer-diffusion", "musicgen-small", "prefix-simba-9"):
        if words in name:
            return words
    if variant:
        return variant if about["codebooks"] == 1 else f"{variant}-9" if variant == "prefix-simba" else f"{variant}-all"
    return next((v for v in (*VARIANTS, "blocks-24", "blocks-12", "blocks-6") if name.startswith(v)), "")


def blocks_of(measured: Measured) -> int | None:
    """LM blocks of a row of Table IV: Prefix SiMBA, or clips named blocks-N; None for any other."""
    named = re.match(r"blocks-(\d+)", measured.row["name"])
    if named:
        return int(named[1])
    return measured.row["about"]["blocks"] if measured.row["about"].get("variant") == "prefix-simba" else None


def column_of(metric: str, rows: Sequence[Measured], proxy: bool) -> str | None:
    """The column "metric/listener" for a paper's metric: the published one, or the stand-in the rows have."""
    columns = [name for m in rows for name in m.row["scores"] if (name.partition("/")[2] in m.proxies) == proxy]
    wanted = [c for c in columns if c.partition("/")[0] == metric]
    if proxy or f"{metric}/{PAPERS.get(metric)}" not in wanted:
        return max(set(wanted), key=wanted.count) if wanted else None
    return f"{metric}/{PAPERS[metric]}"


def read_log(run: Path) -> list[dict]:
    """Lines of a run's log.jsonl. Raises UserError where there is none."""
    try:
        return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if line.endswith("}")]
    except (OSError, ValueError) as error:
        raise UserError(f"{run} has no log to read ({error}): give a folder that `ostinato train` wrote") from error
