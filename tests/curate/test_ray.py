"""Ray Data and the local run: one result."""

from pathlib import Path

import pytest
from tunes import RECIPE, recipe_file, write

from ostinato.curate.clip import Halt
from ostinato.curate.curate import Machine, curate
from ostinato.curate.pool import Died
from ostinato.curate.ray_run import TRIES, Actor, State, segments
from ostinato.curate.recipe import load_recipe
from ostinato.curate.scan import scan
from ostinato.curate.sources import list_tracks
from ostinato.curate.stages import Context
from ostinato.utils.errors import UserError

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")


@pytest.mark.parametrize("end", ["", "  - one_clip: {}\n", "  - one_clip: {stop_early: true}\n"])
def test_two_ray_workers_give_the_bytes_of_a_local_run(tmp_path, end):
    for i in range(6):
        write(tmp_path / f"music/{i}.flac", 4.5 + i, seed=i)
        (tmp_path / f"music/{i}.txt").write_text("calm piano\nslow piano\n")
    (tmp_path / "music/broken.mp3").write_text("no music")
    write(tmp_path / "music/short.flac", 1.0, seed=9)  # no clip of it is left
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


def test_what_stops_an_actor_goes_on_in_place_of_its_track(tmp_path):
    """Ray would bury an error's words, and try a track that crashes a decoder for ever."""
    (track,) = list_tracks(str(write(tmp_path / "music/a.flac", 4.5).parent))

    def result(run="now", **settings):
        recipe = load_recipe(recipe_file(tmp_path), [f"{key}={value}" for key, value in settings.items()])
        (part,) = segments(recipe, 1)
        return Actor(recipe, str(tmp_path / "out"), Context(), part, run).go_on(State(track, scan(track, recipe)))

    assert result() == ("a.flac", 4.0)
    assert not list((tmp_path / "out").rglob("*.tries"))
    name, fault = result(**{"merge.model": "transformers:nowhere"})
    assert name == "a.flac" and isinstance(fault, UserError)
    refused = {"merge.model": "m", "merge.url": "http://127.0.0.1:9/v1", "merge.patience_hours": 0}
    (tmp_path / "music/a.txt").write_text("calm piano\nslow piano\n")
    (track,) = list_tracks(str(tmp_path / "music"))
    assert isinstance(result(**refused)[1], Halt)
    mark = tmp_path / f"out/.work/{track.key[:2]}/{track.key}.tries"
    mark.write_text(" ".join(["now"] * TRIES))
    assert isinstance(result()[1], Died)
    assert result("later") == ("a.flac", 4.0)  # a run that was killed is no fault of its tracks
