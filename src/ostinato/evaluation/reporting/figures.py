"""The papers' figures, each as a function that draws it with pyplot, or None where there is nothing to draw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.evaluation.descriptors import log_mel
from ostinato.evaluation.reporting.results import Measured, column_of
from ostinato.evaluation.reporting.tables import heading
from ostinato.utils.audio import AUDIO_SUFFIXES, read_audio
from ostinato.utils.errors import UserError


def losses_figure(losses: dict[str, list[dict]]) -> Any:
    """Validation loss of every run, on one panel."""
    curves = {
        name: [(line["step"], line["loss"]) for line in log if line.get("kind") == "validation" and "loss" in line]
        for name, log in losses.items()
    }
    if not any(curves.values()):
        return None

    def figure(plt: Any) -> Any:
        made, axis = plt.subplots(figsize=(5, 3))
        for name, points in curves.items():
            axis.plot(*zip(*points, strict=True), ".-", label=name) if points else None
        axis.set_xlabel("step")
        axis.set_ylabel("validation loss (nats a code)")
        axis.legend(fontsize=7)
        return made

    return figure


def steps_figure(rows: Sequence[Measured]) -> Any:
    """A panel a metric, a line a run, over the steps that were evaluated; stand-ins where there is nothing else."""
    curves: dict[str, list[Measured]] = {}
    for m in rows:
        if m.step is not None:
            size = f"{m.row['about']['parameters'] / 1e6:.4g} M"
            curves.setdefault(f"{m.run}: {m.key}, {size}, {m.seconds:g} s", []).append(m)
    curves = {name: sorted(points, key=lambda m: m.step or 0) for name, points in curves.items() if len(points) > 1}
    columns = figure_columns([m for points in curves.values() for m in points], ("fd", "kl", "clap", "fad", "tags"))
    if not columns:
        return None
    return panels(columns, curves, lambda m: m.step, "training step")


def codebooks_figure(rows: Sequence[Measured]) -> Any:
    """FAD and CLAP (or what stands in for them) of real music through the first n codebooks."""
    through: dict[str, list[Measured]] = {}
    for m in rows:
        if m.row["kind"] == "codec":
            through.setdefault(Path(m.row["about"]["codec"]).name, []).append(m)
    curves = {name: sorted(points, key=lambda m: m.row["about"]["codebooks"]) for name, points in through.items()}
    columns = figure_columns([m for points in curves.values() for m in points], ("fad", "fd", "clap", "kl"))
    if not columns or all(len(points) < 2 for points in curves.values()):
        return None
    return panels(columns, curves, lambda m: m.row["about"]["codebooks"], "codebooks")


def figure_columns(rows: Sequence[Measured], metrics: Sequence[str]) -> list[str]:
    """Columns to draw: the published ones; stand-ins only where there are none."""
    for proxy in (False, True):
        if found := [c for metric in metrics if (c := column_of(metric, rows, proxy))]:
            return found
    return []


def panels(columns: Sequence[str], curves: dict[str, list[Measured]], x: Any, label: str) -> Any:
    def figure(plt: Any) -> Any:
        made, axes = plt.subplots(1, len(columns), figsize=(3.2 * len(columns), 2.8), squeeze=False)
        for axis, column in zip(axes[0], columns, strict=True):
            for name, points in curves.items():
                kept = [(x(m), m.row["scores"][column]) for m in points if column in m.row["scores"]]
                if not kept:
                    continue
                at = [p for p, _ in kept]
                axis.plot(at, [s["value"] for _, s in kept], "o-", markersize=3, label=name)
                if all(s["low"] is not None for _, s in kept):
                    axis.fill_between(at, [s["low"] for _, s in kept], [s["high"] for _, s in kept], alpha=0.2)
            axis.set_title(heading(column), fontsize=8)
            axis.set_xlabel(label, fontsize=7)
            axis.tick_params(labelsize=7)
        axes[0][0].legend(fontsize=6)
        return made

    return figure


def mel_figure(rows: Sequence[Measured], prompt: str | None) -> Any:
    """Mel-spectrograms of one prompt's clips, a panel a row."""
    folders = {
        f"{m.row['name']}, {m.step} steps" if m.step else m.row["name"]: Path(m.row["folder"])
        for m in rows
        if m.row.get("folder") and m.row["kind"] != "codec"
    }
    clips = {
        name: {p.stem: p for p in sorted(folder.glob("*.*")) if p.suffix.lower() in AUDIO_SUFFIXES}
        for name, folder in folders.items()
    }
    if prompt is None:
        every = sorted(set().union(*clips.values()))
        prompt = max(every, key=lambda stem: sum(stem in have for have in clips.values()), default=None)
        if prompt is None:  # the evaluation was moved, and its clips were not
            return None
    found = {name: have[prompt] for name, have in clips.items() if prompt in have}
    if not found:
        raise UserError(f"no clip is named {prompt!r}: give the name of a prompt that was evaluated")

    def figure(plt: Any) -> Any:
        across = min(4, len(found))
        down = -(-len(found) // across)
        made, axes = plt.subplots(down, across, figsize=(3 * across, 2.4 * down), squeeze=False, layout="constrained")
        for axis, name in zip(axes.flat, found, strict=False):
            audio = read_audio(found[name], 22_050, seconds=30)[0].numpy()
            mel = log_mel(audio, 22_050, 2048, 512, 96)
            span, top = (0, len(audio) / 22_050, 0, 96), float(np.max(mel))
            axis.imshow(mel.T, origin="lower", aspect="auto", vmin=top - 70, vmax=top, extent=span)
            axis.set_title(name, fontsize=8)
            axis.tick_params(labelsize=7)
        for axis in axes.flat[len(found) :]:
            axis.axis("off")
        made.supxlabel("seconds", fontsize=7)
        made.supylabel("mel band, 40 Hz to 10 kHz", fontsize=7)
        made.suptitle(str(prompt), fontsize=9)
        return made

    return figure
