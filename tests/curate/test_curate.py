"""Whole runs: odd files, interruptions, changes, what comes out, and what `prepare` makes of it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import deadly
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hub_server import hub
from tunes import RECIPE, recipe_file, tune, write

from ostinato.curate import curate as curate_module
from ostinato.curate.curate import Machine, curate
from ostinato.curate.pool import Died, each_in_pool
from ostinato.curate.recipe import load_recipe
from ostinato.curate.sources import list_tracks
from ostinato.curate.work import as_pcm
from ostinato.utils.errors import UserError

pytestmark = pytest.mark.slow

HERE = Machine(workers=0)
TABLES = ("metadata", "drops", "tracks")


def run(music, out, text=RECIPE, settings=(), machine=HERE):
    recipe = load_recipe(recipe_file(Path(out).parent, text), settings)
    return curate(str(music), Path(out), recipe, machine, progress=False)


def rows(out, name="metadata"):
    return pq.read_table(Path(out) / f"{name}.parquet").to_pylist()


def bytes_of(out):
    return {name: (Path(out) / f"{name}.parquet").read_bytes() for name in TABLES}


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    for i in range(4):
        write(folder / f"song {i}.flac", 5.0, seed=i)
        (folder / f"song {i}.txt").write_text(f"calm piano number {i}\nslow music with piano {i}\n")
    return folder


def test_every_odd_file_has_a_row_and_none_stops_the_run(tmp_path):
    folder = tmp_path / "music"
    write(folder / "good.flac", 5.0)
    (folder / "zero.mp3").write_bytes(b"")
    (folder / "text.mp3").write_text("this is no music\n" * 50)
    (folder / "cover.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "phone.m4a").write_bytes(b"xxxxftypM4A ")
    whole = write(tmp_path / "whole.flac", 5.0, seed=1).read_bytes()
    (folder / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "copy.flac").write_bytes((folder / "good.flac").read_bytes())
    write(folder / "8k.wav", 3.0, rate=8000, seed=2)
    write(folder / "192k.wav", 3.0, rate=192000, seed=3)
    sf.write(folder / "six.wav", np.stack([tune(3.0, seed=4)] * 6, 1), 16000)
    nan = tune(3.0, seed=5)
    nan[100] = np.nan
    sf.write(folder / "nan.wav", nan, 16000, subtype="FLOAT")
    names = [f"{name}.flac" for name in ("τραγούδι", "песня", "歌", "أغنية", "שיר", "e\u0301", "\u00e9", "🎵 'q\"")]
    for i, name in enumerate(names):
        write(folder / name, 2.5, seed=10 + i)
    raw = os.fsencode(folder) + b"/latin-\xe9.flac"
    Path(os.fsdecode(raw)).write_bytes(write(tmp_path / "l.flac", 2.5, seed=30).read_bytes())
    (folder / "short.wav").write_bytes(write(tmp_path / "s.wav", 0.2).read_bytes())
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "itself.mp3").symlink_to(folder / "itself.mp3")
    (folder / "nowhere.mp3").symlink_to(folder / "gone.mp3")
    (folder / "again.flac").symlink_to(folder / "good.flac")
    os.mkfifo(folder / "pipe.wav")
    (folder / ".hidden.flac").write_bytes(b"x")
    summary = run(folder, tmp_path / "out")
    told = {row["track"]: row for row in rows(tmp_path / "out", "tracks")}
    assert len(told) == summary.tracks == 26 and summary.wordless == summary.clips
    reasons = {name: row["outcome"] for name, row in told.items()}
    assert reasons["zero.mp3"] == "empty (0 bytes)"
    assert reasons["text.mp3"] == "cannot be read"
    assert (reasons["cover.jpg"], told["cover.jpg"]["detail"]) == ("not audio", ".jpg")
    assert "convert" in told["phone.m4a"]["detail"]
    assert {reasons["good.flac"], reasons["copy.flac"]} == {"kept", "a duplicate"}
    assert reasons["nan.wav"] == "damaged" and "not finite" in rows_of_drop(tmp_path / "out", "nan.wav")["detail"]
    assert any(
        d["track"] == "truncated.flac" and d["reason"] == "damaged" for d in rows(tmp_path / "out", "drops")
    ) or (reasons["truncated.flac"] in ("cannot be read", "damaged"))
    assert reasons["short.wav"] == "under 0.5 s"
    assert reasons["loop"] == "a link to a folder that is read already"
    assert "nowhere" in reasons["itself.mp3"] and "nowhere" in reasons["nowhere.mp3"]
    assert (reasons["again.flac"], told["again.flac"]["detail"]) == ("the same file under another name", "good.flac")
    assert reasons["pipe.wav"] == "not a file"
    assert all(reasons[name] == "kept" for name in ("8k.wav", "192k.wav", "six.wav", *names, r"latin-\xe9.flac"))
    assert ".hidden.flac" not in told
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out/clips").rglob("*.flac")}
    assert files == {row["file_name"] for row in rows(tmp_path / "out")}


def rows_of_drop(out, track):
    return next(drop for drop in rows(out, "drops") if drop["track"] == track)


def test_a_thousand_odd_files(tmp_path):
    """Ten kinds of a hundred, each under names of eight alphabets; an hour-long one has the next test."""
    folder, rng = tmp_path / "music", random.Random(0)
    whole = write(tmp_path / "w.wav", 2.2).read_bytes()
    alphabets = ("abc", "αβγ", "абв", "歌", "أغنية", "שיר", "e\u0301", "🎵 'q\"")
    rates = {5: 8000, 6: 192_000, 7: 16_000, 8: 16_000}
    expected = {0: "empty (0 bytes)", 5: "kept", 6: "kept", 7: "kept", 8: "a duplicate", 9: "a link to a folder"}
    folder.mkdir()
    for i in range(1000):
        kind, suffix = i % 10, (".mp3", ".wav", ".flac", ".ogg")[i % 4]
        path = folder / f"{i:04d} {alphabets[i % 8]}{suffix}"
        if kind < 5:
            noise, part = rng.randbytes(200), whole[: rng.randrange(len(whole))]
            path.write_bytes([b"", noise, part, b"text" * 9, b"ID3" + noise][kind])
        elif kind < 9:
            sound = tune(2.2, rates[kind], seed=8 if kind == 8 else i)
            sf.write(path.with_suffix(".flac"), np.stack([sound] * (6 if kind == 7 else 1), 1), rates[kind])
        else:
            path.with_suffix("").symlink_to(folder, target_is_directory=True)
    write(folder / "good.flac", 4.2, seed=5000)
    summary = run(folder, tmp_path / "out")
    told = {row["track"]: row["outcome"] for row in rows(tmp_path / "out", "tracks")}
    assert summary.tracks == len(told) == 1001 and told.pop("good.flac") == "kept"
    kinds = {
        kind: Counter(outcome for name, outcome in told.items() if int(name[:4]) % 10 == kind) for kind in range(10)
    }
    assert all(kinds[kind].total() == 100 and kinds[kind][""] == 0 for kind in kinds)
    assert all(outcome.startswith(expected[k]) for k in expected for outcome in kinds[k] if k != 8)
    assert kinds[8] == {"kept": 1, "a duplicate": 99}
    assert not (kinds[1] + kinds[3] + kinds[4])["kept"]


def test_an_hour_goes_through_piece_by_piece(tmp_path):
    """It is never in memory whole: 3,600 s of float32 at 8 kHz would be 115 MB."""
    hour = np.tile(as_pcm(tune(10.0, rate=8000)), 360)
    (tmp_path / "music").mkdir()
    sf.write(tmp_path / "music/hour.flac", hour, 8000)
    settings = ["cut.seconds=30", "cut.min_seconds=30", "sample_rate=8000"]
    code = (
        "import resource, sys; from pathlib import Path; from ostinato.curate.curate import Machine, curate;"
        "from ostinato.curate.recipe import load_recipe; import ostinato.utils.audio, torch;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"r = load_recipe({str(recipe_file(tmp_path))!r}, {settings});"
        f"done = curate({str(tmp_path / 'music')!r}, Path({str(tmp_path / 'out')!r}), r, Machine(workers=0), False);"
        "print(done.clips, done.hours, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told[:2] == ["120", "1.0"] and int(told[2]) < 100
    with pytest.raises(UserError, match=r"over 0\.5 h"):
        run(tmp_path / "music", tmp_path / "short", settings=["read.max_hours=0.5"])


def test_what_comes_out_is_what_went_in(music, tmp_path):
    summary = run(music, tmp_path / "out")
    table = rows(tmp_path / "out")
    assert summary.clips == len(table) == 8 and not summary.wordless
    for row in table:
        source = sf.read(music / row["track"], dtype="float32")[0]
        begin = round(row["start"] * 16000)
        clip, rate = sf.read(tmp_path / "out" / row["file_name"], dtype="int16")
        assert rate == 16000 and len(clip) == 32000
        assert np.abs(clip - as_pcm(source[begin : begin + 32000])).max() <= 1
        assert [said["by"] for said in row["captions"]] == ["given", "given"]
        assert row["caption"].startswith("calm piano") and row["caption_by"].startswith("rules")
    kept, out = sum(r["seconds"] for r in table), sum(r["seconds"] for r in rows(tmp_path / "out", "drops"))
    assert kept + out == pytest.approx(20.0)


def test_prepare_takes_it_as_it_is(music, tmp_path):
    from ostinato.data.prepare import prepare
    from ostinato.data.store import open_store

    run(music, tmp_path / "out")
    done = prepare(tmp_path / "out", tmp_path / "store", sample_rate=16000, clip_seconds=2.0, progress=False)
    store, table = open_store(tmp_path / "store"), {row["file_name"]: row for row in rows(tmp_path / "out")}
    assert done.clips == len(store) == len(table) and not done.strangers
    for i in range(len(store)):
        row = store.row(i)
        assert row["captions"] == [table[row["path"]]["caption"]]
        assert row["split"] == table[row["path"]]["split"]


def test_codes_without_audio_are_a_store(music, tmp_path):
    from ostinato.data.store import open_store

    run(music, tmp_path / "out", settings=["format=codes", "codec=pocket", f"sample_rate={pocket_rate()}"])
    store = open_store(tmp_path / "out")
    assert len(store) == 8 and not list((tmp_path / "out").glob("clips/**/*.flac"))
    assert store.codes(0).shape[0] == store.info["num_codebooks"]
    assert store.captions(0)


def pocket_rate():
    from ostinato.codecs.load import load_codec

    return load_codec("pocket").sample_rate


def test_run_again_does_only_what_is_new_and_equals_a_fresh_run(music, tmp_path):
    run(music, tmp_path / "out")
    records = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/.work").rglob("*.json")}
    write(music / "new.flac", 3.0, seed=50)
    write(music / "song 1.flac", 6.0, seed=51)
    (music / "song 2.flac").unlink()
    run(music, tmp_path / "out")
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/.work").rglob("*.json")}
    assert sum(after.get(p) == when for p, when in records.items()) == len(records) - 2
    run(music, tmp_path / "fresh")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "fresh")
    files = [sorted(p.name for p in (tmp_path / o / "clips").rglob("*.flac")) for o in ("out", "fresh")]
    assert files[0] == files[1]
    with pytest.raises(UserError, match="another recipe"):
        run(music, tmp_path / "out", settings=["silence.max_seconds=0.5"])


def test_stopping_early_chooses_the_same_clip(music, tmp_path):
    late = run(music, tmp_path / "late", RECIPE + "  - one_clip: {}\n")
    early = run(music, tmp_path / "early", RECIPE + "  - one_clip: {stop_early: true}\n")
    assert late.clips == early.clips == 4
    assert [r["id"] for r in rows(tmp_path / "late")] == [r["id"] for r in rows(tmp_path / "early")]


def test_a_pool_gives_the_same(music, tmp_path):
    run(music, tmp_path / "one")
    run(music, tmp_path / "two", machine=Machine(workers=2))
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_a_task_that_ends_its_process_is_tried_alone_and_told():
    """As a decoder that crashes does: the others are done once each, whatever flew with it."""
    done = dict(each_in_pool(deadly.work, range(9), deadly.start, ("given",), 2))
    assert {task: result for task, result in done.items() if not isinstance(result, Died)} == {
        task: ("given", task) for task in range(9) if task not in deadly.KILLERS
    }
    assert {task for task, result in done.items() if isinstance(result, Died)} == deadly.KILLERS


def test_what_is_killed_leaves_no_process_behind():
    code = "import deadly; from ostinato.curate.pool import each_in_pool;"
    code += "list(each_in_pool(deadly.sleep, range(2), deadly.start, ('given',), 2))"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", f"if __name__ == '__main__': {code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}) as parent:
        assert parent.stdout
        assert parent.stdout.readline() != parent.stdout.readline()  # two are at work
        parent.kill()
        parent.communicate(timeout=60)  # what they all write to ends when the last of them is gone


def test_a_track_on_which_a_worker_dies_is_out_with_the_reason(music, tmp_path, monkeypatch):
    def pool(do, pairs, start, given, workers):
        sound = [pair for pair in pairs if getattr(pair, "id", None) or pair[0].id != "song 2.flac"]
        yield from each_in_pool(do, sound, start, given, 0)
        yield from ((pair, Died()) for pair in pairs if pair not in sound)

    monkeypatch.setattr(curate_module, "each_in_pool", pool)
    run(music, tmp_path / "out")
    told = {row["track"]: (row["outcome"], row["clips"]) for row in rows(tmp_path / "out", "tracks")}
    assert told.pop("song 2.flac") == ("working on it ended the process", 0)
    assert set(told.values()) == {("kept", 2)}
    assert rows_of_drop(tmp_path / "out", "song 2.flac")["seconds"] == 5.0


def test_nothing_left_is_told_with_the_reasons(tmp_path):
    write(tmp_path / "music/a.wav", 1.0)
    with pytest.raises(UserError, match=r"no clip is left .*the end of a track"):
        run(tmp_path / "music", tmp_path / "out")
    with pytest.raises(UserError, match="no folder"):
        run(tmp_path / "nowhere", tmp_path / "out2")
    assert list_tracks(str(tmp_path / "music"))


def test_killed_at_ten_moments_equals_uninterrupted(tmp_path):
    folder = tmp_path / "music"
    for i in range(24):
        write(folder / f"{i:02d}.flac", 6.0, seed=i)
        (folder / f"{i:02d}.txt").write_text("calm piano\nslow piano")
    run(folder, tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    source = f"""
import time
from pathlib import Path
from ostinato.curate import work
from ostinato.curate.curate import Machine, curate
from ostinato.curate.recipe import load_recipe
plain = work.write_atomic
def slowly(path, write):  # so that a kill falls between any two of its files
    time.sleep(0.02)
    plain(path, write)
work.write_atomic = slowly
recipe = load_recipe({str(tmp_path / "recipe.yaml")!r})
curate({str(folder)!r}, Path({str(tmp_path / "killed")!r}), recipe, Machine(workers=0), progress=False)
"""
    began = time.monotonic()
    rng, killed = random.Random(0), 0
    while killed < 10:
        process = subprocess.Popen([sys.executable, "-c", source], env=os.environ)
        records = len(list((tmp_path / "killed").rglob("*.json")))
        while process.poll() is None and len(list((tmp_path / "killed").rglob("*.json"))) < records + 2:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        assert time.monotonic() - began < 1000 and process.returncode != 0
    run(folder, tmp_path / "killed")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    audio = [{p.relative_to(o): p.read_bytes() for p in (o / "clips").rglob("*") if p.is_file()}
             for o in (tmp_path / "killed", tmp_path / "whole")]  # fmt: skip
    assert audio[0] == audio[1]


def test_the_report_adds_up(music, tmp_path):
    pytest.importorskip("matplotlib")
    from ostinato.curate.report import funnel, report

    write(music / "quiet.wav", 5.0, seed=60)
    sf.write(music / "quiet.wav", 1e-4 * tune(5.0, seed=60), 16000)
    summary = run(music, tmp_path / "out")
    levels = funnel(tmp_path / "out")
    assert levels[0].hours == pytest.approx(25 / 3600) and levels[-1].hours == pytest.approx(summary.hours)
    files = report(tmp_path / "out", tmp_path / "report", str(music))
    text = (tmp_path / "report/report.md").read_text()
    assert "457.45" in text and "54894" in text and "| silence | silence | 2 |" in text
    assert (tmp_path / "report/funnel.png").read_bytes()[:4] == b"\x89PNG"
    assert {f.name for f in files} >= {"silence-silence-1.ogg"}
    assert json.loads((tmp_path / "out/captions.jsonl").read_text().splitlines()[0])["captions"]
    assert (tmp_path / "out/README.md").read_text().startswith("---\nlicense: other")


def test_a_data_set_is_pushed_by_the_hubs_own_client(music, tmp_path):
    """What lies at the other end afterwards is the data set: no records of work, no lock."""
    run(music, tmp_path / "out")
    command = [sys.executable, "-m", "ostinato.cli", "curate", str(tmp_path / "out"), "--push-to-hub", "someone/songs"]
    with hub() as server:
        there = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(command, env=os.environ | there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "datasets/someone/songs" in done.stdout
    assert server.repo["type"] == "dataset" and server.tokens == {"Bearer hf_secret"}
    own = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != ".lock"]
    own = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in own if ".work" not in path.parts}
    assert server.files == own and "metadata.parquet" in own and sum(name.endswith(".flac") for name in own) == 8
    away = subprocess.run(command, env=os.environ | there, capture_output=True, text=True)
    assert away.returncode == 2 and "could not upload" in away.stderr and "Traceback" not in away.stderr
