"""recipes/paper/run.sh --tiny: curate, prepare, train, join, evaluate and report, by the paper's own configs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("OSTINATO_PAPER"), reason="takes long on a CPU: set OSTINATO_PAPER=1 to run it")
def test_the_whole_paper_at_a_tiny_size(tmp_path):
    command = tmp_path / "bin/ostinato"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ostinato.cli "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["OUT"] = str(tmp_path / "paper")
    script = [str(ROOT / "recipes/paper/run.sh"), "--tiny"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for table in ("1", "2-2", "2-3", "4"):
        assert (tmp_path / f"paper/tables/{table}/results.json").is_file()
    assert list((tmp_path / "paper/report").iterdir())
    again = subprocess.run(script, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0 and "==" not in again.stderr  # every step is known to be done
