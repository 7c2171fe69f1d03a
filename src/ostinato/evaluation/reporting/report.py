"""`ostinato report`: the papers' tables and figures, from evaluations and training logs.

Rows find their place by what their model is, or, for clips made elsewhere, by the name they were evaluated under:
`prefix-mamba`, `prefix-simba`, `cross-simba`, `cross-transformer`, `prefix-simba-9`, `transformer-diffusion`,
`simba-diffusion`, `musicgen-small`, `blocks-24` and so on.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ostinato.evaluation.reporting.figures import codebooks_figure, losses_figure, mel_figure, steps_figure
from ostinato.evaluation.reporting.listening import (
    is_of_blocks,
    opinion_table,
    preferences,
    read_listening,
)
from ostinato.evaluation.reporting.paper_numbers import (
    STUDY,
    SYSTEM,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    Printed,
    label_of,
)
from ostinato.evaluation.reporting.results import PAPERS, Measured, blocks_of, column_of, read_log, read_results
from ostinato.evaluation.reporting.tables import STAND_INS, cell, heading, markdown, save_figure
from ostinato.models.lm import VARIANTS
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

ONE = "evaluate models with one codebook"
TWO = "evaluate two-stage models, Prefix SiMBA with all codebooks, facebook/musicgen-small, or clips named as its rows"
THREE = "give results of `ostinato listen` with --listening"
FOUR = "evaluate Prefix SiMBA of several sizes"
STEPS = "evaluate several checkpoints of a run"
CODEBOOKS = "evaluate with --reference and --codebooks 1,2,..."


def report(
    evaluations: Sequence[Path],
    runs: Sequence[Path],
    output: Path,
    prompt: str | None = None,
    listening: Sequence[Path] = (),
) -> list[Path]:
    """Write OUTPUT/report.md with the papers' tables, and their figures as PNG, from what the evaluations hold.

    evaluations: folders of `ostinato evaluate`; runs: folders of `ostinato train`, for losses over steps; prompt: the
    clip whose spectrograms are drawn (default: the first that all rows have); listening: folders of listening tests
    whose results are counted. What no row belongs to is left out, and report.md says so. Returns the files. Raises
    UserError for no rows, and a prompt that no clip is of.
    """
    rows = read_results(evaluations)
    losses = {path.name: read_log(path) for path in runs}
    heard = read_listening(listening)
    if not rows and not losses and not heard:
        raise UserError(
            "nothing to report: name folders of `ostinato evaluate`, --run folders of `ostinato train`, or --listening "
            "folders of `ostinato listen`"
        )
    output.mkdir(parents=True, exist_ok=True)
    parts = ["# The papers' tables and figures", f"Paper: {SYSTEM}. Preliminary study: {STUDY}."]
    files: list[Path] = []
    drawn, absent = all_tables(rows, heard)
    parts += drawn
    for name, title, figure, needs in (
        ("figure-2", "Figure 2 (the study's 3): metrics against training steps", steps_figure(rows), STEPS),
        ("losses", "Validation loss against training steps", losses_figure(losses), "give runs with --run"),
        ("figure-3", "Figure 3: mel-spectrograms of one prompt", mel_figure(rows, prompt), "evaluate a model"),
        ("study-figure-1", "The study's Figure 1: real music by codebooks", codebooks_figure(rows), CODEBOOKS),
    ):
        if figure is None:
            absent.append(f"{title}: {needs}")
            continue
        files.append(output / f"{name}.png")
        save_figure(files[-1], figure)
        parts.append(f"## {title}\n\n![{title}]({name}.png)")
    parts.append("The papers print their Figures 2 and 3, and the study's 1 and 3, as plots without numbers.")
    if absent:
        parts.append("## Not drawn\n\n" + "\n".join(f"- {line}" for line in absent))
    files.insert(0, output / "report.md")
    write_atomic(files[0], lambda temporary: temporary.write_text("\n\n".join(parts) + "\n"))
    return files


def all_tables(rows: Sequence[Measured], heard: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The papers' tables in Markdown, and what those without a row of ours need. heard: results of listening tests."""
    parts: list[str] = []
    absent: list[str] = []
    rated = [said for said in heard if said["mode"] == "scales"]
    ones = [m for m in rows if m.key in VARIANTS or m.key == "real-1"]
    twos = [m for m in rows if m.key in {p.key for p in TABLE_2} or label_of(m.key)]
    fours = sorted((m for m in rows if blocks_of(m)), key=blocks_of, reverse=True)  # type: ignore[arg-type]
    # The paper's are of two stages, and those of one stand in where there are no others.
    fours = [m for m in fours if m.row["about"].get("fine") or m.row["kind"] == "clips"] or fours
    of_blocks = [said for said in rated if is_of_blocks(said)]
    others = [said for said in rated if not is_of_blocks(said)]
    for title, placed, printed, tests, needs in (
        ("Table I: four language models, one codebook", near_step(ones, 20_000, key), TABLE_1, [], ONE),
        ("Table II: one stage, two stages, MusicGen-small", near_step(twos, 100_000, key), TABLE_2, [], TWO),
        ("Table III: what listeners say", [], TABLE_3, others, THREE),
        ("Table IV: fewer blocks", near_step(fours, 100_000, blocks), TABLE_4, of_blocks, FOUR),
    ):
        played = any(m.row["kind"] in ("model", "clips") for _, m in placed)
        if not played and not tests:
            absent.append(f"{title}: {needs}")
            continue
        parts.append(table(title, placed, printed) if played else f"## {title}")
        if printed[0].opinions:
            parts.append(opinion_table(printed, tests))
    for said in heard:
        if said["mode"] == "pairs":
            parts.append(f"## {said['title']}: pairs\n\n{preferences(said)}")
    return parts, absent


def key(measured: Measured) -> str:
    return measured.key


def blocks(measured: Measured) -> str:
    return f"blocks-{blocks_of(measured)}"


def near_step(rows: Sequence[Measured], step: int, place: Callable[[Measured], str]) -> list[tuple[str, Measured]]:
    """Of each run, in its place in a table and for each length of clips, the checkpoint nearest to `step`, by place."""
    best: dict[tuple[str, float, str], Measured] = {}
    for m in rows:
        here = (place(m), m.seconds, m.run)
        if here not in best or abs((m.step or 0) - step) < abs((best[here].step or 0) - step):
            best[here] = m
    return [(where, m) for (where, _, _), m in best.items()]


def table(title: str, rows: Sequence[tuple[str, Measured]], printed: Sequence[Printed]) -> str:
    """A paper's table in Markdown. rows: the paper's key, and the row that belongs there; ours without one come last.
    Published metrics have the paper's numbers beside them; what stand-ins heard has a table to itself, and the paper's
    numbers then stand apart."""
    parts = [f"## {title}"]
    published, proxies = (
        [(key, m) for key, m in rows if any(column_of(metric, [m], proxy) for metric in PAPERS)]
        for proxy in (False, True)
    )
    own = [f"{metric}/{listener}" for metric, listener in PAPERS.items()]
    titles = {p.key: p.label for p in printed}
    if published:
        parts.append(beside(published, printed, own, titles))
    if proxies:
        columns = [c for metric in PAPERS if (c := column_of(metric, [m for _, m in proxies], True))]
        parts += [f"{STAND_INS}:", beside(proxies, [], columns, titles)]
    if not published:
        parts += ["The paper's own:", beside([], printed, own, titles)]
    return "\n\n".join(parts)


def beside(
    ours: Sequence[tuple[str, Measured]], printed: Sequence[Printed], columns: Sequence[str], titles: dict[str, str]
) -> str:
    """Ours and the paper's in one table: a line for every key of either, real music first, a column for every metric
    and length. titles: what the paper calls a key."""
    paper = {p.key: p for p in printed}
    lengths = sorted({round(m.seconds) for _, m in ours} | {s for p in printed for _, s in p.values})
    head, lines = ["model", "parameters", "step"], []
    for seconds in lengths:
        for column in columns:
            head += [f"{heading(column)}, {seconds} s"] if ours else []
            head += [f"paper: {heading(column)}, {seconds} s"] if printed else []
    real = [key for key, _ in ours if key.startswith("real-")]
    for key in dict.fromkeys([*real, *paper, *(key for key, _ in ours)]):
        mine, theirs = [m for k, m in ours if k == key], paper.get(key)
        for run, step in dict.fromkeys([(m.run, m.step) for m in mine] or [("", None)]):
            same = {round(m.seconds): m.row for m in mine if (m.run, m.step) == (run, step)}
            about: dict = next((row["about"] for row in same.values()), {})
            fine = about.get("fine_parameters", 0)
            stages = [count for count in (about.get("parameters", 0) - fine, fine) if count]
            size = [" + ".join(f"{count / 1e6:.1f} M" for count in stages)] if stages else []
            size += [f"paper: {theirs.size}"] if theirs and theirs.size else []
            names = ", ".join(sorted({row["name"] for row in same.values()}))
            title = titles.get(key) or label_of(key)
            label = f"{title} (ours: {names})" if title and names else title or names
            line = [label, "; ".join(size), "" if step is None else str(step)]
            for seconds in lengths:
                for column in columns:
                    line += [cell(same.get(seconds, {"scores": {}})["scores"].get(column))] if ours else []
                    value = theirs.values.get((column.partition("/")[0], seconds)) if theirs else None
                    line += ["" if value is None else f"{value:.4f}"] if printed else []
            lines.append(line)
    return markdown([head, *lines])
