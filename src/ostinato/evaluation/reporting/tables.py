"""results.json as Markdown tables and figures. What stand-ins heard never shares a table with published metrics."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ostinato.evaluation.registry import METRICS
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

STAND_INS = "Stand-ins (networks to develop with offline; not comparable with any published number)"
PUBLISHED = "Published metrics"


def tables(results: dict) -> str:
    """The whole evaluation in Markdown."""
    rows, settings = results["rows"], results["settings"]
    parts = ["# Evaluation", about(results)]
    for title, columns in metric_columns(results):
        parts += [f"## {title}", legend(settings), metric_table(rows, columns)]
    parts += ["## Sound faults", fault_table(rows)]
    for title, table in (
        ("What is repeated of the training music", memory_table(rows)),
        ("Cost of generation", cost_table(rows)),
        ("By 10 s window", drift_table(rows)),
        ("Clips that are not in the numbers", lost_table(rows, results["reference"])),
    ):
        if table:
            parts += [f"## {title}", table]
    return "\n\n".join(parts) + "\n"


def about(results: dict) -> str:
    """What was evaluated, on what and how."""
    settings, prompts, reference = results["settings"], results["prompts"], results["reference"]
    said = [
        f"The first {settings['seconds']:g} s of each clip; seed {settings['seed']}; ostinato {results['version']}."
    ]
    if prompts:
        said.append(
            f"Prompts: {prompts['drawn']} of {prompts['set']} ({prompts['captions']} captions, "
            f"{prompts['left_out_for_vocals']} left out for naming a voice)."
        )
    if reference:
        said.append(f"Reference: {reference['clips']} clips of {reference['folder']}.")
    return " ".join(said)


def metric_columns(results: dict) -> list[tuple[str, list[str]]]:
    """Tables by title, each the columns "metric/listener" that any row has: published first, stand-ins apart."""
    found = {name for row in results["rows"] for name in row["scores"]}
    ordered = [f"{m}/{listener}" for m in METRICS for listener in METRICS[m].listeners if f"{m}/{listener}" in found]
    proxy = {name for name, listener in results["listeners"].items() if listener["proxy"]}
    both = (
        (PUBLISHED, [c for c in ordered if c.partition("/")[2] not in proxy]),
        (STAND_INS, [c for c in ordered if c.partition("/")[2] in proxy]),
    )
    return [(title, columns) for title, columns in both if columns]


def heading(column: str) -> str:
    metric, _, listener = column.partition("/")
    arrow = {True: " ↓", False: " ↑", None: ""}[METRICS[metric].less]
    return f"{METRICS[metric].title} ({listener}){arrow}"


def legend(settings: dict) -> str:
    return (
        f"↓ less is better, ↑ more is better; in brackets the middle 95 % of {settings['replicates']} bootstrap "
        "replicates over clips, the reference held fixed; n clips. Distances and Vendi depend on n: compare "
        "rows of one n."
    )


def metric_table(rows: Sequence[dict], columns: Sequence[str]) -> str:
    """One row a set of clips, one column a metric and listener."""
    table = [["", "n", "lost", *map(heading, columns)]]
    for row in rows:
        cells = [cell(row["scores"].get(column)) for column in columns]
        table.append([row["name"], str(row["clips"]), str(len(row["lost"])), *cells])
    return markdown(table) + footnotes(rows, columns)


def footnotes(rows: Sequence[dict], columns: Sequence[str]) -> str:
    """Notes of rows and of their scores, each once."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for note in [*row["notes"], *(n for c in columns for n in (row["scores"].get(c) or {}).get("notes", []))]:
            if row["name"] not in said.setdefault(note, []):
                said[note].append(row["name"])
    whose = {note: "All rows" if len(names) == len(rows) > 1 else "; ".join(names) for note, names in said.items()}
    return "".join(f"\n\n{names}: {note}." for note, names in whose.items())


def cell(score: dict | None) -> str:
    if score is None:
        return ""
    text = number(score["value"])
    return text if score["low"] is None else f"{text} [{number(score['low'])}, {number(score['high'])}]"


def number(value: float) -> str:
    """Four figures, as the papers print their values, without an exponent."""
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.4f}" if abs(value) < 1 else f"{value:.0f}"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table; the first is its head."""
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in table]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])


def fault_table(rows: Sequence[dict]) -> str:
    table = [["", "clips", "silence", "hum", "clipping", "loop"]]
    for row in rows:
        table.append([row["name"], *(str(row["faults"][key]) for key in table[0][1:])])
    return markdown(table)


def memory_table(rows: Sequence[dict]) -> str:
    kept = [row for row in rows if row.get("memorisation")]
    if not kept:
        return ""
    table = [["", "median run", "longest run", "clips beyond 95 % of held-out", "copied", "4-grams in nearest clip"]]
    for row in kept:
        runs = row["memorisation"]["runs"]
        table.append(
            [
                row["name"],
                f"{runs['median']:.2f} s",
                f"{runs['longest']:.2f} s",
                f"{runs['beyond']:.1%}",
                f"{runs['copied']:.1%}",
                f"{row['memorisation']['nearest_codes']:.1%}",
            ]
        )
    memory = kept[0]["memorisation"]
    runs = memory["runs"]
    table.append(
        [
            "held-out music",
            f"{runs['held_out_median']:.2f} s",
            f"{runs['held_out_longest']:.2f} s",
            "5.0%",
            f"{runs['held_out_copied']:.1%}",
            f"{memory['held_out_nearest_codes']:.1%}",
        ]
    )
    said = (
        "Runs of codes of the first codebook that stand in one training clip, too; copied: frames in runs of a second "
        "or more. 4-grams: share of a clip's that the training clip with most of them has."
    )
    for listener in sorted({k for row in kept for k in row["memorisation"] if k.startswith("nearest/")}):
        table[0].append(f"nearest by {listener.partition('/')[2]}")
        for line, row in zip(table[1:], kept, strict=False):
            near = row["memorisation"].get(listener)
            line.append(f"{near['mean']:.3f} (at most {near['largest']:.3f})" if near else "")
        near = next(row["memorisation"][listener] for row in kept if listener in row["memorisation"])
        table[-1].append(f"{near['held_out_mean']:.3f} (at most {near['held_out_largest']:.3f})")
    return said + "\n\n" + markdown(table)


def cost_table(rows: Sequence[dict]) -> str:
    made = [(row, row["about"]["cost"]) for row in rows if row["about"].get("cost")]
    if not made:
        return ""
    table = [["", "parameters", "seconds a second of audio", "peak memory", "FLOPs a second of audio"]]
    for row, cost in made:
        table.append(
            [
                row["name"],
                f"{row['about']['parameters'] / 1e6:.1f} M",
                f"{cost['seconds'] / cost['audio']:.2f}" if cost["audio"] else "",
                f"{cost['peak_bytes'] / 1e9:.2f} GB" if cost["peak_bytes"] else "",
                f"{cost['flops']:.3g}" if cost["flops"] else "",
            ]
        )
    return markdown(table)


def drift_table(rows: Sequence[dict]) -> str:
    """One table a row of clips: the metrics of each 10 s."""
    parts = []
    for row in rows:
        windows = row.get("drift") or []
        columns = list(windows[0]["scores"]) if windows else []
        if not columns:
            continue
        table = [[row["name"], "clips", *map(heading, columns)]]
        for window in windows:
            span = f"{window['start']:g} to {window['start'] + 10:g} s"
            table.append([span, str(window["clips"]), *(cell(window["scores"].get(c)) for c in columns)])
        parts.append(markdown(table))
    return "\n\n".join(parts)


def lost_table(rows: Sequence[dict], reference: dict | None, most: int = 10) -> str:
    """The first `most` lost clips of each row, with the reason."""
    table = [["", "clip", "why"]]
    for name, lost in [(row["name"], row["lost"]) for row in rows] + [("reference", (reference or {}).get("lost", {}))]:
        table += [[name, clip, why] for clip, why in list(lost.items())[:most]]
        if len(lost) > most:
            table.append([name, f"and {len(lost) - most} more", "see results.json"])
    return markdown(table) if len(table) > 1 else ""


def write_tables(results: dict, output: Path) -> list[Path]:
    """OUTPUT/results.md, and a figure of each table of metrics (and of drift) as PNG. Returns the files."""
    files = [output / "results.md"]
    write_atomic(files[0], lambda temporary: temporary.write_text(tables(results)))
    for title, columns in metric_columns(results):
        kind = "published" if title == PUBLISHED else "stand-ins"
        files.append(output / f"metrics-{kind}.png")
        save_figure(files[-1], lambda plt, c=columns, t=title: metric_figure(plt, results, c, t))
        if any(row.get("drift") for row in results["rows"]):
            files.append(output / f"drift-{kind}.png")
            save_figure(files[-1], lambda plt, c=columns: drift_figure(plt, results, c))
    return files


def metric_figure(plt, results: dict, columns: Sequence[str], title: str):  # type: ignore[no-untyped-def]
    """A panel a metric: every row's value and interval."""
    rows = results["rows"]
    figure, axes = plt.subplots(
        1, len(columns), figsize=(1.5 + 2.2 * len(columns), 1 + 0.35 * len(rows)), sharey=True, squeeze=False
    )
    for axis, column in zip(axes[0], columns, strict=True):
        for y, row in enumerate(rows):
            if score := row["scores"].get(column):
                low, high = (score["value"] if score[k] is None else score[k] for k in ("low", "high"))
                axis.plot([low, high], [y, y], color="0.6")
                axis.plot(score["value"], y, "o", color="C0" if row["kind"] in ("model", "clips") else "C2")
        axis.set_title(heading(column), fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0][0].set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes[0][0].invert_yaxis()
    figure.suptitle(title, fontsize=8)
    return figure


def drift_figure(plt, results: dict, columns: Sequence[str]):  # type: ignore[no-untyped-def]
    """A panel a metric: its value against the time within the clip."""
    figure, axes = plt.subplots(1, len(columns), figsize=(3.2 * len(columns), 2.6), squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        for row in results["rows"]:
            points = [(w["start"] + 5, w["scores"][column]) for w in row.get("drift", []) if column in w["scores"]]
            if points:
                x = [t for t, _ in points]
                axis.plot(x, [s["value"] for _, s in points], "o-", markersize=3, label=row["name"])
                if all(s["low"] is not None for _, s in points):
                    axis.fill_between(x, [s["low"] for _, s in points], [s["high"] for _, s in points], alpha=0.2)
        axis.set_title(heading(column), fontsize=8)
        axis.set_xlabel("seconds into the clip", fontsize=7)
        axis.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=6)
    return figure


def pyplot() -> Any:
    """matplotlib.pyplot, for files and not for a screen. Raises UserError where it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("figures need matplotlib: pip install 'ostinato[evaluate]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(path: Path, draw: Callable) -> None:
    """`draw` with pyplot and write what it returns, whole or not at all. Raises UserError without matplotlib."""
    plt = pyplot()
    figure = draw(plt)
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight"))
    plt.close(figure)
