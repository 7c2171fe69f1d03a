"""The --tiny of recipes/paper/run.sh and recipes/attm/run.sh: music to tables and a submission."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(recipe: str, folder: Path, **settings: str) -> subprocess.CompletedProcess:
    """A recipe's --tiny into `folder`, by the package and the Python of this test. settings: of the environment."""
    command = folder / "bin/ostinato"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ostinato.cli "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"OUT": str(folder / "out"), **settings}
    script = [str(ROOT / f"recipes/{recipe}/run.sh"), "--tiny"]
    return subprocess.run(script, env=environment, capture_output=True, text=True, cwd=folder)


def test_the_whole_paper_at_a_tiny_size(tmp_path):
    done = run("paper", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "out"
    rows = {"1": 4, "2-1": 3, "2-2": 3, "4": 3}
    for table, models in rows.items():
        found = json.loads((out / f"tables/{table}/results.json").read_text())["rows"]
        assert sum(row["kind"] == "model" for row in found) == models
        scores = [score["value"] for row in found for score in row["scores"].values()]
        assert scores and all(math.isfinite(value) for value in scores) and len(set(scores)) > models
    text = (out / "report/report.md").read_text()
    for title in ("Table I:", "Table II:", "Table IV:"):
        assert title in text
    # What a table is of is there when it is done.
    runs = [f"table1/{v}" for v in ("prefix-mamba", "prefix-simba", "cross-simba", "cross-transformer")]
    for name in (*runs, "simba", "transformer", "simba-9", "simba-n12", "simba-n6", "fine"):
        assert list((out / name).glob("step-*/model.safetensors")), name
    again = run("paper", tmp_path)
    assert again.returncode == 0 and "==" not in again.stderr  # every step is known to be done


def test_the_challenge_at_a_tiny_size(tmp_path):
    out = tmp_path / "out"
    limits = {"efficiency": 500_000_000, "performance": None}
    parts = {"efficiency": {"language model"}, "performance": {"language model", "fine stage"}}
    for track, limit in limits.items():
        done = run("attm", tmp_path, TRACK=track)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("== curate" in done.stderr) == (track == "efficiency")  # the data are the same
        declared = json.loads((out / track / "submission/submission.json").read_text())
        assert (declared["track"], declared["limit"]) == (track, limit)
        assert declared["core"]["parameters"].keys() == parts[track] and declared["core"]["in all"] < 500_000_000
        assert ("fine stage" in declared["sampling"]) == (track == "performance")
        assert declared["broken rules"] == ["2 prompts, and the challenge has 100"]
        assert sorted(path.name for path in (out / track / "submission/audio").iterdir()) == ["p000.wav", "p001.wav"]
        assert (out / track / "submission/code/ostinato/models/lm.py").is_file()
    captions = [json.loads(line) for line in (out / "data/captions.jsonl").read_text().splitlines()]
    assert {caption for row in captions for caption in row["captions"]} >= {"slow calm piano music"}
    wrong = run("attm", tmp_path, TRACK="perfomance")
    assert wrong.returncode == 2 and "efficiency or performance" in wrong.stderr
