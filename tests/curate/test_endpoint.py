"""The LLM stage and the endpoint captioner against a real server that fails in every way: nothing lost or doubled."""

import base64
import io
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile as sf
from llm_server import serving
from tunes import RECIPE, recipe_file, write

pytest.importorskip("openai")

from ostinato.curate import endpoint
from ostinato.curate.clip import Halt
from ostinato.curate.curate import Machine, curate
from ostinato.curate.recipe import load_recipe

pytestmark = pytest.mark.slow

FAILURES = ["timeout", "hangs up", "rate", "500", "503", "not json", "broken", "prose", "refuses", "empty", "400"]


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 0.05)


@pytest.fixture
def music(tmp_path):
    for i in range(6):
        write(tmp_path / f"music/{i}.flac", 4.2, seed=i)
        (tmp_path / f"music/{i}.txt").write_text(f"calm piano {i}\nslow piano {i}\n")
    return tmp_path / "music"


def run(music: Path, out: Path, server, **merge):
    options = {"model": "m", "url": server.url, "timeout": 0.4, "tries": 4, "parallel": 2, **merge}
    settings = [f"merge.{key}={value!r}" for key, value in options.items()]
    recipe = load_recipe(recipe_file(out.parent, RECIPE), settings)
    return curate(str(music), out, recipe, Machine(workers=0), progress=False)


def rows(out, name="metadata"):
    return pq.read_table(out / f"{name}.parquet").to_pylist()


def test_every_way_of_failing_costs_time_only(music, tmp_path):
    with serving(FAILURES * 2, slow=0.8) as server:
        run(music, tmp_path / "bad", server, tries=12)
    with serving() as good:
        run(music, tmp_path / "good", good, tries=12)
    table = rows(tmp_path / "bad")
    assert set(server.gave) >= set(FAILURES)
    assert len(good.asked) == len(table) == 12
    assert Counter(row["id"] for row in table).most_common(1)[0][1] == 1
    assert [(r["id"], r["caption"]) for r in table] == [(r["id"], r["caption"]) for r in rows(tmp_path / "good")]
    assert all(row["caption_by"] == "m" and row["track"][0] in row["caption"] for row in table)


def test_answers_that_stay_wrong_fall_back_and_say_so(music, tmp_path):
    with serving(["prose"] * 1000) as server:
        run(music, tmp_path / "rules", server)
        run(music, tmp_path / "drop", server, fallback="rules", tries=2)
        with pytest.raises(Exception, match="no clip is left"):
            run(music, tmp_path / "none", server, fallback="drop")
    assert {row["caption_by"] for row in rows(tmp_path / "rules")} == {"rules (after 4 unusable answers of m)"}
    assert {drop["reason"] for drop in rows(tmp_path / "none", "drops")} >= {"no usable answer of the language model"}
    seeds = {body["seed"] for body in server.asked}
    assert len(seeds) == 4  # a further try is another question


def test_a_refused_key_stops_at_once_and_the_run_goes_on_from_there(music, tmp_path):
    with serving(["well"] * 4 + ["401"]) as server:
        with pytest.raises(Halt, match=r"check the model's name and the key"):
            run(music, tmp_path / "out", server, parallel=1)
        before = len(server.asked)
        assert before == 5
        run(music, tmp_path / "out", server, parallel=1)
        # Two tracks, four clips, were done, and are not asked again.
        assert len(server.asked) == before + 8
    assert len(rows(tmp_path / "out")) == 12


def test_patience_has_an_end(music, tmp_path):
    with serving(["503"] * 100_000) as server, pytest.raises(Halt, match=r"has not answered .*same command again"):
        run(music, tmp_path / "out", server, patience_hours=0.3 / 3600)


def test_an_endpoint_that_is_away_is_waited_for(music, tmp_path):
    with serving() as server:
        port = server.server_port
    done = {}

    def later():
        time.sleep(1.0)
        from llm_server import Handler, Server, merged

        class Fixed(Server):
            def __init__(self):
                super(Server, self).__init__(("127.0.0.1", port), Handler)
                self.script, self.answer, self.slow, self.asked, self.gave = [], merged, 0.0, [], []
                self.lock = threading.Lock()

        done["server"] = Fixed()
        done["server"].serve_forever(0.02)

    thread = threading.Thread(target=later, daemon=True)
    thread.start()
    run(music, tmp_path / "out", server)
    done["server"].shutdown()
    done["server"].server_close()
    assert len(rows(tmp_path / "out")) == len(done["server"].asked) == 12


def test_a_captioner_behind_an_endpoint_hears_every_part(music, tmp_path):
    def said(body):
        sound = next(part for part in body["messages"][0]["content"] if part["type"] == "input_audio")["input_audio"]
        audio, rate = sf.read(io.BytesIO(base64.b64decode(sound["data"])))
        return f"{len(audio) / rate:.2f} s of music"

    text = RECIPE.replace("  - merge", "  - caption: {model: 'endpoint:ears', every: 1, timeout: 0.4}\n  - merge")
    with serving(["timeout", "rate", "refuses", "empty"], said, slow=0.8) as server:
        recipe = load_recipe(recipe_file(tmp_path, text), [f"caption.url='{server.url}'"])
        curate(str(music), tmp_path / "out", recipe, Machine(workers=0), progress=False)
    for row in rows(tmp_path / "out"):
        heard = [said for said in row["captions"] if said["by"] == "ears"]
        assert [said["start"] for said in heard] == [0.0, 1.0]
        assert {said["text"] for said in heard} == {"1.00 s of music"}
