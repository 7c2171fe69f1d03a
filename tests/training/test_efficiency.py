import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from ostinato.models.lm import LMConfig
from ostinato.training.config import LMRun, Optimisation
from ostinato.training.flops import step_flops
from ostinato.training.plan import TEXT
from ostinato.utils.errors import UserError

SIZES = {"text_width": 12, "width": 32, "blocks": 1, "heads": 4, "feed_forward": 48, "state": 5, "head_width": 16}


@pytest.fixture(scope="module")
def compare():
    pytest.importorskip("matplotlib")
    path = Path(__file__).parents[2] / "recipes/efficiency/compare.py"
    spec = importlib.util.spec_from_file_location("compare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_run(folder, variant, seed, losses, pace, **changes):
    """A run as `ostinato train` leaves it behind: {step: loss}, steps a second."""
    model = LMConfig(variant, **SIZES | changes)
    train = Optimisation(steps=max(losses), batch=3, accumulation=2, seed=seed)
    run = LMRun("no/store", str(folder), model, codec="pocket", clip_seconds=2.0, train=train)
    (folder / "step-0000009").mkdir(parents=True)
    (folder / "step-0000009" / "training.json").write_text(json.dumps({"run": dataclasses.asdict(run)}))
    lines = [{"step": 1, "kind": "train", "loss": 9.0, "steps_per_second": pace}]
    lines += [{"step": step, "kind": "validation", "loss": loss} for step, loss in losses.items()]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_comparison_of_runs(compare, tmp_path):
    runs = [
        write_run(tmp_path / "a", "cross-transformer", 0, {10: 6.0, 20: 5.0, 30: 4.5}, 2.0),
        write_run(tmp_path / "b", "cross-transformer", 1, {10: 6.0, 20: 5.0, 30: 3.5}, 2.0),
        write_run(tmp_path / "c", "prefix-simba", 0, {10: 5.0, 20: 3.0, 25: 2.9, 30: 2.0}, 1.0),
        write_run(tmp_path / "d", "prefix-simba", 0, {10: 6.0, 20: 5.5, 30: 5.0}, 1.0, blocks=2),
    ]
    base, simba, deeper = compare.read_curves(runs)
    assert [c.label for c in (base, simba, deeper)] == [
        "cross-transformer",
        "prefix-simba blocks 1",
        "prefix-simba blocks 2",
    ]
    assert base.seeds == 2 and base.losses.shape == (2, 3)
    assert base.reaches(4.0) == 30  # the mean of 4.5 and 3.5
    assert simba.reaches(4.0) == 15  # halfway between 5 at 10 and 3 at 20
    assert deeper.reaches(4.0) is None
    assert np.allclose(base.axis("tokens"), np.array([10, 20, 30]) * 6 * 100)
    assert np.allclose(base.axis("hours"), np.array([10, 20, 30]) / 2 / 3600)
    assert np.allclose(simba.axis("flops"), simba.steps * 2 * step_flops(simba.config, 3, 100, TEXT))
    lines = compare.table([base, simba, deeper], base).splitlines()
    assert "steps to 4.000" in lines[0] and "| 15 |" in lines[3] and "not reached" in lines[4]
    compare.draw([base, simba, deeper], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_folders_that_are_no_runs(compare, tmp_path):
    with pytest.raises(UserError, match="not the folder of a training run"):
        compare.read_curves([tmp_path])
    short = write_run(tmp_path / "short", "prefix-simba", 0, {10: 6.0}, 1.0)
    with pytest.raises(UserError, match="too few"):
        compare.read_curves([short])
