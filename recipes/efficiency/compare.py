"""Which model learns most for its cost: python recipes/efficiency/compare.py RUN... [--output comparison.png]

RUN is the folder of an `ostinato train` run. Runs of one model, which differ in nothing but their seed, are one line:
the mean of their validation losses, and the range from the lowest to the highest as a band. Drawn over steps, tokens
(steps of the pattern, as the paper counts them), FLOPs (`flops.step_flops`) and hours (steps over the median
of the steps a second in the log, of the fastest seed: validation, interruptions and a busy machine do not count).
The table says when each model reaches the baseline's last loss, by straight lines between validations. It needs
matplotlib.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from ostinato.models.lm import LMConfig
from ostinato.training.checkpoint import checkpoints
from ostinato.training.config import LMRun
from ostinato.training.flops import step_flops
from ostinato.training.plan import parameters, workload
from ostinato.utils.errors import UserError
from ostinato.utils.schema import build

AXES = {"steps": "optimizer steps", "tokens": "tokens", "flops": "FLOPs", "hours": "hours"}


@dataclass
class Curve:
    """Validation loss of the runs of one model, at the steps they have in common."""

    label: str
    config: LMConfig
    seeds: int
    steps: np.ndarray  # [points]
    losses: np.ndarray  # [seeds, points], nats a code
    per_step: dict[str, float]  # of each axis

    def axis(self, name: str) -> np.ndarray:
        return self.steps * self.per_step[name]

    def reaches(self, loss: float) -> float | None:
        """The step at which the mean falls to `loss`, or None."""
        curve = self.losses.mean(0)
        if curve[0] <= loss:
            return float(self.steps[0])
        for i in range(1, len(curve)):
            if curve[i] <= loss:
                share = (curve[i - 1] - loss) / (curve[i - 1] - curve[i])
                return float(self.steps[i - 1] + share * (self.steps[i] - self.steps[i - 1]))
        return None


def read_run(folder: Path) -> tuple[LMRun, dict[int, float], float]:
    """A run's config, validation loss by step, and seconds a step."""
    found = checkpoints(folder)
    if not found or not (folder / "log.jsonl").is_file():
        raise UserError(f"{folder} is not the folder of a training run: it has no checkpoint or no log.jsonl")
    run = build(LMRun, json.loads((found[-1] / "training.json").read_text())["run"], str(folder))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if line["kind"] == "validation"}
    paces = [1 / line["steps_per_second"] for line in lines if line["kind"] == "train"]
    if len(losses) < 2 or not paces:
        raise UserError(f"{folder} has {len(losses)} validations and {len(paces)} logged steps: too few for a curve")
    return run, losses, median(paces)


def read_curves(folders: list[Path]) -> list[Curve]:
    """The runs, grouped by what they have in common but for seed and folder."""
    groups: dict[LMRun, list] = defaultdict(list)
    for folder in folders:
        run, losses, pace = read_run(folder)
        groups[replace(run, output="", train=replace(run.train, seed=0))].append((losses, pace))
    variants = [run.model.variant for run in groups]
    curves = []
    for run, members in groups.items():
        steps = sorted(set.intersection(*(set(losses) for losses, _ in members)))
        if len(steps) < 2:
            raise UserError(f"the runs of {run.model.variant} have no two validations at the same steps")
        work = workload(run)
        passes, clips = run.train.accumulation, run.train.accumulation * run.train.batch
        per_step = {
            "steps": 1.0,
            "tokens": float(clips * work.steps),
            "flops": float(passes * step_flops(run.model, run.train.batch, work.frames, work.text)),
            "hours": min(pace for _, pace in members) / 3600,
        }
        label = run.model.variant
        if variants.count(label) > 1:
            label += difference(run, [other for other in groups if other.model.variant == label])
        losses = np.array([[losses[step] for step in steps] for losses, _ in members])
        curves.append(Curve(label, run.model, len(members), np.array(steps), losses, per_step))
    return curves


def difference(run: LMRun, others: list[LMRun]) -> str:
    """What tells a run from those of the same variant: " blocks 12"."""
    own, rest = flat(asdict(run)), [flat(asdict(other)) for other in others]
    return "".join(f" {key.split('.')[-1]} {own[key]}" for key in own if any(other[key] != own[key] for other in rest))


def flat(values: dict, above: str = "") -> dict:
    out = {}
    for key, value in values.items():
        out |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return out


def draw(curves: list[Curve], output: Path) -> None:
    figure, panels = plt.subplots(2, 2, figsize=(10, 7), sharey=True, layout="constrained")
    for name, panel in zip(AXES, panels.flat, strict=True):
        for curve in curves:
            x = curve.axis(name)
            (line,) = panel.plot(x, curve.losses.mean(0), label=curve.label, linewidth=1.5)
            panel.fill_between(
                x, curve.losses.min(0), curve.losses.max(0), color=line.get_color(), alpha=0.2, linewidth=0
            )
        panel.set_xlabel(AXES[name])
        panel.xaxis.set_major_locator(MaxNLocator(6))
        panel.grid(alpha=0.3)
    for panel in panels[:, 0]:
        panel.set_ylabel("validation loss (nats a code)")
    # The first few validations tower over what matters.
    low, high = min(c.losses.min() for c in curves), max(np.quantile(c.losses.max(0), 0.9) for c in curves)
    panels[0, 0].set_ylim(low - 0.05 * (high - low), high)
    panels[0, 0].legend()
    figure.savefig(output, dpi=150)


def table(curves: list[Curve], baseline: Curve) -> str:
    """Markdown: each model, its cost, and what it takes to reach the last loss of `baseline`."""
    goal = baseline.losses.mean(0)[-1]
    head = ["model", "parameters", "seeds", "FLOPs a step", "s a step", "last loss (range)"]
    head += [f"steps to {goal:.3f}", "tokens", "FLOPs", "hours", "FLOPs over baseline's"]
    rows = [head, ["---"] * len(head)]
    for c in curves:
        last, step = c.losses[:, -1], c.reaches(goal)
        row = [c.label, f"{sum(parameters(c.config).values()) / 1e6:.2f} M", str(c.seeds)]
        row += [f"{c.per_step['flops']:.3g}", f"{3600 * c.per_step['hours']:.2f}"]
        row += [f"{last.mean():.3f} ({last.min():.3f} to {last.max():.3f})"]
        if step is None:
            row += ["not reached"] + ["-"] * 4
        else:
            spent = baseline.steps[-1] * baseline.per_step["flops"]
            row += [f"{step:.0f}", f"{step * c.per_step['tokens']:.3g}", f"{step * c.per_step['flops']:.3g}"]
            row += [f"{step * c.per_step['hours']:.3g}", f"{step * c.per_step['flops'] / spent:.2f}"]
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--baseline", default="cross-transformer", help="a line of the table (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("comparison.png"), help="the figure (default: %(default)s)")
    args = parser.parse_args()
    try:
        curves = read_curves(args.runs)
        found = [curve for curve in curves if curve.label == args.baseline]
        if not found:
            raise UserError(f"no run is of {args.baseline!r}; --baseline may be {', '.join(c.label for c in curves)}")
    except UserError as error:
        parser.exit(2, f"compare.py: {error}\n")
    print(table(curves, found[0]))
    draw(curves, args.output)


if __name__ == "__main__":
    main()
