"""The script for a first GPU, rehearsed on a CPU: every line of it, and again where nothing is left to do."""

import json
import os
import subprocess
from pathlib import Path

import pytest

HOUR = Path(__file__).parents[2] / "recipes" / "gpu" / "first_hour.sh"
pytestmark = pytest.mark.slow


def test_the_first_hour_is_rehearsed(stores, tmp_path):
    out = tmp_path / "out"
    command = ["bash", str(HOUR), str(out), str(stores / "codes"), "--tiny"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    found = {step["step"]: step for step in json.loads((out / "results.json").read_text())}
    assert list(found) == ["machine", "tests", "ssd", "plan", "train-prefix-simba", "batches", "pocket"]
    assert {name: step["log"] for name, step in found.items() if step["code"]} == {}
    assert [(row["way"], row["rows"]) for row in found["batches"]["rows"]] == [
        (way, rows) for way in ("ours", "again") for rows in (1, 2)
    ]
    assert found["ssd"]["rows"][0]["error"] < 1e-3 and found["train-prefix-simba"]["rows"][0]["ms"] > 0
    assert len((out / "results.md").read_text()) < 20_000
    # Stopped before its end, it goes on: a step that was not whole is made again, and no other.
    (out / "plan.end").write_text("124 1\n")
    again = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert [line.split(",")[0] for line in again.stderr.splitlines()] == ["plan"]
