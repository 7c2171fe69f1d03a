"""Listening tests as tables: what `ostinato listen results` wrote, alone, and as the papers' Tables III and IV."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ostinato.evaluation.reporting.paper_numbers import TABLE_4, Printed
from ostinato.evaluation.reporting.results import Measured, blocks_of, key_of
from ostinato.evaluation.reporting.tables import markdown
from ostinato.utils.errors import UserError
from ostinato.utils.text_files import read_text

# As Table III calls them, for folders of clips.
NAMES_3 = {"ssm": "simba-diffusion", "transformer": "transformer-diffusion", "musicgen": "musicgen-small"}
PAPER_STEPS = 100_000  # of a system that does not say how long it was trained


def read_listening(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """listening.json of every path: the file, its folder, or the test's folder. Raises UserError for none."""
    found = []
    for path in paths:
        places = (path, path / "listening.json", path / "results" / "listening.json")
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise UserError(f"{path} has no results of listeners: run `ostinato listen results {path}` first")
        try:
            said = json.loads(read_text(file))
            said["scores" if said["mode"] == "scales" else "strengths"], said["raters"], said["systems"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is no listening test's result ({error}): count it again") from error
        found.append(said)
    return found


def results_page(said: dict[str, Any]) -> str:
    """One test in Markdown: means as in the papers' tables, differences, or strengths by pairs."""
    parts = [f"# {said['title']}", about(said)]
    parts += [preferences(said)] if said["mode"] == "pairs" else [score_table(said), difference_table(said)]
    return "\n\n".join(part for part in parts if part) + "\n"


def about(said: dict[str, Any]) -> str:
    """Who listened, how much they agree, and what brackets mean."""
    begun, failed = said["sessions"]["begun"], said["sessions"]["failed"]
    checks = f"; {failed} failed a check, {'left out' if said['only_passed'] else 'counted'}" if failed else ""
    alphas = [f"{scale} {'not known' if a is None else f'{a:.2f}'}" for scale, a in said["agreement"].items()]
    raters, prompts = counted(said["raters"], "rater"), counted(said["prompts"], "prompt")
    return (
        f"{raters} ({begun} began, {said['sessions']['finished']} finished{checks}), {prompts}. "
        f"Agreement (Krippendorff's alpha, ordinal): {', '.join(alphas)}. In brackets the middle 95 % of "
        f"{said['replicates']} bootstrap replicates over listeners and prompts."
    )


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def score_table(said: dict[str, Any]) -> str:
    table = [["", "ratings", *(scale.capitalize() for scale in said["scales"])]]
    for name, scores in said["scores"].items():
        marks = max((s["n"] for s in scores.values()), default=0)
        table.append([name, str(marks), *(opinion(scores.get(scale)) for scale in said["scales"])])
    return markdown(table)


def opinion(score: dict[str, Any] | None) -> str:
    """ "3.37 ± 1.05 [3.01, 3.70]": mean, standard deviation and interval."""
    if score is None:
        return ""
    text = f"{score['mean']:.2f}" + ("" if score["std"] is None else f" ± {score['std']:.2f}")
    return text + bracket(score)


def bracket(score: dict[str, Any]) -> str:
    return "" if score["low"] is None else f" [{score['low']:.2f}, {score['high']:.2f}]"


def difference_table(said: dict[str, Any]) -> str:
    """The first system's mean less the second's: apart where the interval does not hold 0."""
    table = [["difference", *(scale.capitalize() for scale in said["scales"])]]
    for entry in said["differences"]:
        cells = [entry["scales"].get(scale) for scale in said["scales"]]
        said_cells = ["" if c is None else f"{c['value']:+.2f}{bracket(c)}" for c in cells]
        table.append([" − ".join(entry["systems"]), *said_cells])
    return markdown(table) if len(table) > 1 else ""


def preferences(said: dict[str, Any]) -> str:
    """Strengths by pairs."""
    table = [["", "pairs", *(f"{scale.capitalize()} (preferred)" for scale in said["scales"])]]
    for name, scores in said["strengths"].items():
        cells = [scores.get(scale) for scale in said["scales"]]
        n = max((c["n"] for c in cells if c), default=0)
        shown = ["" if c is None else f"{c['value']:+.2f}{bracket(c)} ({c['preferred']:.0%})" for c in cells]
        table.append([name, str(n), *shown])
    legend = (
        "Bradley-Terry strengths: the difference of two is the log-odds that one is preferred; no difference counts "
        f"half for either, and every pair has {said['prior']:g} comparison more, half won by each."
    )
    return f"{legend}\n\n{markdown(table)}"


def is_of_blocks(said: dict[str, Any]) -> bool:
    """Whether a test is of Table IV: it compares models of several numbers of blocks."""
    return len({blocks_of(measured(system)) for system in said["systems"]} - {None}) > 1


def measured(system: dict[str, Any]) -> Measured:
    """A system of a listening test as a row of an evaluation."""
    return Measured(key_of(system), system, system["about"].get("seconds", 0.0), frozenset())


def place_of(system: dict[str, Any], printed: Sequence[Printed]) -> Printed | None:
    """The row of Table III or IV that a system belongs to: of a model at several steps, the nearest one."""
    if printed is TABLE_4:
        return next((p for p in printed if p.key == f"blocks-{blocks_of(measured(system))}"), None)
    name = system["name"].lower()
    key = key_of(system) or next((key for word, key in NAMES_3.items() if name.startswith(word)), "")
    alike = [p for p in printed if p.key == key]
    said = re.search(r"(\d+)k\b", name)
    step = system["about"].get("step") or (int(said[1]) * 1000 if said else PAPER_STEPS)
    return min(alike, key=lambda p: abs(math.log((p.step or step) / max(step, 1))), default=None)


def opinion_table(printed: Sequence[Printed], tests: Sequence[dict[str, Any]]) -> str:
    """A table of listeners' marks in Markdown: the paper's rows with ours beside, ours without one last. tests: with
    scales, of this table."""
    scales = list(next(p.opinions for p in printed if p.opinions))
    head = ["model", "ratings"]
    for scale in scales:
        head += [scale.capitalize()] if tests else []
        head.append(f"paper: {scale.capitalize()}")
    ours = [(place_of(s, printed), s, said["scores"].get(s["name"], {})) for said in tests for s in said["systems"]]
    lines = [head]
    for row in (*printed, None):
        here = [(s, scores) for place, s, scores in ours if place is row and scores]
        for system, scores in here or ([(None, {})] if row else []):
            name = f"ours: {system['name']}" if system else ""
            label = f"{row.label} ({name})" if row and name else row.label if row else name
            line = [label, str(max(s["n"] for s in scores.values())) if scores else ""]
            for scale in scales:
                line += [opinion(scores.get(scale))] if tests else []
                line.append("{:.2f} ± {:.2f}".format(*row.opinions[scale]) if row and row.opinions else "")
            lines.append(line)
    said_of = [f"{said['title']}: {about(said)}" for said in tests]
    return "\n\n".join(["Listeners, 1 to 5, mean ± standard deviation:", markdown(lines), *said_of])
