"""Ray Data and the local run: one result."""

from pathlib import Path

import pytest
from tunes import RECIPE, recipe_file, write

from ostinato.curate.curate import Machine, curate
from ostinato.curate.recipe import load_recipe

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")


@pytest.mark.parametrize("end", ["", "  - one_clip: {}\n", "  - one_clip: {stop_early: true}\n"])
def test_two_ray_workers_give_the_bytes_of_a_local_run(tmp_path, end):
    for i in range(6):
        write(tmp_path / f"music/{i}.flac", 4.5 + i, seed=i)
        (tmp_path / f"music/{i}.txt").write_text("calm piano\nslow piano\n")
    (tmp_path / "music/broken.mp3").write_text("no music")
    recipe = load_recipe(recipe_file(tmp_path, RECIPE + end))
    if not ray.is_initialized():
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    curate(str(tmp_path / "music"), tmp_path / "ray", recipe, Machine(ray="local", workers=0), progress=False)
    curate(str(tmp_path / "music"), tmp_path / "here", recipe, Machine(workers=0), progress=False)
    for name in ("metadata", "drops", "tracks"):
        assert (tmp_path / f"ray/{name}.parquet").read_bytes() == (tmp_path / f"here/{name}.parquet").read_bytes()
    files = [
        sorted(Path(p.relative_to(tmp_path / o)).as_posix() for p in (tmp_path / o).rglob("*.flac"))
        for o in ("ray", "here")
    ]
    assert files[0] == files[1]
