import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ostinato.data.prepare as data
from ostinato.data.captions import split_of
from ostinato.data.clips import near_silent
from ostinato.data.prepare import open_store, prepare
from ostinato.data.store import spread
from ostinato.utils.audio import read_audio
from ostinato.utils.errors import UserError

RATE = 8000


class LevelCodec:
    """Stands in for a codec in this file only, for speed: it says how loud each hop is (coarse, fine), and music could
    not be had back from that."""

    name, sample_rate, hop, frame_rate, num_codebooks, codebook_size = "level", RATE, 400, 20.0, 2, 256

    def encode(self, audio):
        hops = torch.nn.functional.pad(audio[:, 0], (0, -audio.shape[-1] % self.hop)).unflatten(1, (-1, self.hop))
        level = (hops.abs().mean(dim=2) * 65535).long().clamp(max=65535)
        return torch.stack([level // 256, level % 256], dim=1)


def music(seconds, seed=0, rate=RATE):
    """Noise that swells and sinks, so that clips and frames differ."""
    n = round(seconds * rate)
    swell = 0.3 + 0.2 * np.sin(np.arange(n) / rate * (seed + 1))
    return (swell * np.random.default_rng(seed).standard_normal(n)).clip(-0.99, 0.99).astype("f4")


def collection(folder, names=("a.wav", "b.flac", "deep/c.wav", "d.ogg", "e.wav", "f.wav"), seconds=5.0):
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / name, music(seconds + 0.25 * seed, seed), RATE)
    return folder


def prepared(folder, out, codec=True, **changes):
    asked = {"clip_seconds": 2.0, "codec_id": "x1", "progress": False} | changes
    if not codec:
        return prepare(folder, out, sample_rate=RATE, **asked)
    return prepare(folder, out, LevelCodec(), **asked)


def contents(out):
    """Every clip: id -> metadata and codes; fails on an id met twice."""
    store = open_store(out)
    found = {store.row(i)["id"]: (store.row(i), store.codes(i).tolist()) for i in range(len(store))}
    assert len(found) == len(store)
    return found


def report_of(out):
    with open(out / "report.csv", newline="") as lines:
        return {row["path"]: row for row in csv.DictReader(lines)}


def touch_later(path):
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))


@pytest.fixture
def folder(tmp_path):
    return collection(tmp_path / "music")


def test_codes_are_the_codecs_for_each_clip_in_order(folder, tmp_path):
    report = prepared(folder, tmp_path / "out")
    store = open_store(tmp_path / "out")
    assert (report.processed, report.outcomes, report.clips) == (6, {"ok": 6}, len(store))
    assert store.info["codec"] == "level" and store.info["codec_id"] == "x1" and store.info["num_codebooks"] == 2
    rows = [store.row(i) for i in range(len(store))]
    assert [row["start"] for row in rows if row["path"] == "deep/c.wav"] == [0.0, 2.0, 4.0]
    for i, row in enumerate(rows):
        audio = read_audio(folder / row["path"], RATE, row["start"], 2.0)
        assert row["seconds"] == audio.shape[-1] / RATE
        assert row["id"] == f"{row['path']}#{row['start']:.3f}"
        codes = store.codes(i)
        assert codes.dtype == torch.int64 and codes.shape == (2, row["frames"])
        if not row["path"].endswith("ogg"):  # a Vorbis seek lands a rounding error away from a read through
            assert torch.equal(codes, LevelCodec().encode(audio[None])[0])
    assert sorted({row["path"] for row in rows}) == [row["path"] for row in rows][::3][:6]
    assert report.seconds == pytest.approx(sum(row["seconds"] for row in rows))


def test_batches_give_the_codes_of_single_clips(folder, tmp_path):
    prepared(folder, tmp_path / "one")
    prepared(folder, tmp_path / "many", batch=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_pcm_is_the_audio_to_the_bit(folder, tmp_path):
    prepared(folder, tmp_path / "out", codec=False)
    store = open_store(tmp_path / "out")
    assert "codec" not in store.info and store.info["sample_rate"] == RATE
    for i in range(len(store)):
        row = store.row(i)
        if row["path"].endswith("ogg"):
            continue
        audio = read_audio(folder / row["path"], RATE, row["start"], 2.0)  # 16-bit files at the store's rate
        assert torch.equal(store.pcm(i), audio)
        assert row["frames"] == audio.shape[-1]
    with pytest.raises(UserError, match="audio, not codes"):
        store.codes(0)


@given(start=st.integers(0, 15999), samples=st.integers(0, 20000))
@settings(max_examples=50, deadline=None)
def test_a_slice_of_pcm(tmp_path_factory, start, samples):
    base = tmp_path_factory.getbasetemp() / "slices"
    if not base.exists():
        prepared(collection(base / "music", ("a.wav",)), base / "out", codec=False)
    store = open_store(base / "out")
    assert torch.equal(store.pcm(0, start, samples), store.pcm(0)[:, start : start + samples])
    with pytest.raises(IndexError):
        store.pcm(0, 16000, samples)
    with pytest.raises(IndexError):
        store.pcm(len(store))


@pytest.mark.parametrize(
    ("name", "kind", "subtype", "rate"),
    [
        ("a.wav", "WAV", "FLOAT", 44100),
        ("a.flac", "FLAC", "PCM_24", 48000),
        ("a.ogg", "OGG", "VORBIS", 22050),
        ("a.opus", "OGG", "OPUS", 48000),
        ("a.MP3", "MP3", "MPEG_LAYER_III", 44100),
    ],
)
def test_every_format_is_decoded_resampled_and_mixed_down(tmp_path, name, kind, subtype, rate):
    t = np.arange(6 * rate) / rate
    stereo = np.stack([0.5 * np.sin(2 * np.pi * 440 * t), np.zeros_like(t)], axis=1)
    (tmp_path / "music").mkdir()
    with sf.SoundFile(tmp_path / "music" / name, "w", rate, 2, subtype, format=kind) as file:
        file.title, file.artist = "Name ü", "Somebody"
        for block in np.array_split(stereo, 100):
            file.write(block)
    prepared(tmp_path / "music", tmp_path / "out", codec=False)
    store = open_store(tmp_path / "out")
    assert (store.row(0)["title"], store.row(0)["artist"]) == ("Name ü", "Somebody")
    audio = store.pcm(1)[0]
    assert len(audio) == 2 * RATE
    assert int(torch.fft.rfft(audio).abs().argmax()) == 880
    assert audio.square().mean().sqrt() == pytest.approx(0.25 / 2**0.5, rel=0.02)
    assert sum(store.row(i)["seconds"] for i in range(len(store))) == pytest.approx(6, abs=0.15)


def test_bad_files_are_reported_and_do_not_stop_the_run(folder, tmp_path):
    (folder / "0broken.wav").write_bytes(b"RIFF but no more")
    (folder / "1empty.mp3").touch()
    sf.write(folder / "2header.wav", np.zeros(0), RATE)
    sf.write(folder / "3short.wav", music(0.5), RATE)
    sf.write(folder / "4silent.wav", np.full(5 * RATE, 1e-4), RATE)
    sf.write(folder / "5nan.wav", np.r_[music(5.0), np.nan], RATE, subtype="FLOAT")
    half = music(8.0)
    half[: 4 * RATE] = 0
    sf.write(folder / "6half.wav", half, RATE)
    (folder / "._a.wav").write_text("litter")
    report = prepared(folder, tmp_path / "out")
    rows = report_of(tmp_path / "out")
    assert [rows[name]["outcome"] for name in sorted(rows) if name[0] in "0123456"] == (
        ["broken", "empty", "empty", "too short", "silent", "broken", "ok"]
    )
    assert "not finite" in rows["5nan.wav"]["message"] and "2 near-silent" in rows["6half.wav"]["message"]
    assert (rows["6half.wav"]["clips"], float(rows["6half.wav"]["seconds"])) == ("2", 4.0)
    assert report.outcomes == {"ok": 7, "broken": 2, "empty": 2, "too short": 1, "silent": 1}
    assert not {path.split("#")[0] for path in contents(tmp_path / "out")} & {"5nan.wav", "3short.wav", "4silent.wav"}
    assert prepared(folder, tmp_path / "out").processed == 0


def test_a_name_that_is_not_utf8_is_reported(folder, tmp_path):
    bad = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")
    try:
        sf.write(folder / "z.wav", music(3.0), RATE)
        os.rename(folder / "z.wav", bad)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert prepared(folder, tmp_path / "out").outcomes == {"ok": 6, "broken": 1}


def test_near_silence():
    loud, quiet = torch.full((1, RATE), 0.1), torch.full((1, RATE), 1e-4)
    assert not near_silent(loud, RATE, -50) and near_silent(quiet, RATE, -50) and not near_silent(quiet, RATE, -90)
    assert not near_silent(torch.cat([loud, quiet], dim=1), RATE, -50)
    assert near_silent(torch.cat([loud, quiet, quiet[:, : RATE // 10]], dim=1), RATE, -50)


def test_nothing_usable(tmp_path):
    (tmp_path / "music").mkdir()
    with pytest.raises(UserError, match="no audio files"):
        prepared(tmp_path / "music", tmp_path / "out")
    with pytest.raises(UserError, match="no folder"):
        prepared(tmp_path / "nowhere", tmp_path / "out")
    sf.write(tmp_path / "music" / "a.wav", np.zeros(5 * RATE), RATE)
    with pytest.raises(UserError, match="no clips"):
        prepared(tmp_path / "music", tmp_path / "out")
    assert report_of(tmp_path / "out")["a.wav"]["outcome"] == "silent"
    with pytest.raises(UserError, match="store with no clips"):
        open_store(tmp_path / "out")
    with pytest.raises(UserError, match="no store"):
        open_store(tmp_path / "music")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        prepared(tmp_path / "music", tmp_path / "file" / "out")


def test_questionable_settings(folder, tmp_path):
    with pytest.raises(UserError, match="min_seconds"):
        prepared(folder, tmp_path / "out", min_seconds=3.0)
    with pytest.raises(UserError, match="needs one"):
        prepare(folder, tmp_path / "out")
    with pytest.raises(UserError, match="works at 8000"):
        prepared(folder, tmp_path / "out", sample_rate=44100)
    assert not (tmp_path / "out").exists()


def test_other_settings_are_refused_and_named(folder, tmp_path):
    prepared(folder, tmp_path / "out")
    with pytest.raises(UserError, match="codec_id x1 there, x2 asked") as refused:
        prepared(folder, tmp_path / "out", codec_id="x2", clip_seconds=3.0)
    assert "clip_seconds 2.0 there, 3.0 asked" in str(refused.value) and "sample_rate" not in str(refused.value)
    with pytest.raises(UserError, match="kind codes there, pcm asked"):
        prepared(folder, tmp_path / "out", codec=False)
    assert len(contents(tmp_path / "out")) == 18
    prepared(folder, tmp_path / "out", codec_name="moved/level")
    assert open_store(tmp_path / "out").info["codec"] == "moved/level"


def test_a_second_run_does_nothing_and_a_third_only_what_is_new(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD_CLIPS", 5)
    prepared(folder, tmp_path / "out")
    shards = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*.parquet")}
    assert len(shards) > 2
    before = contents(tmp_path / "out")
    report = prepared(folder, tmp_path / "out")
    assert (report.processed, report.clips) == (0, len(before))
    sf.write(folder / "bb.wav", music(3.0, 9), RATE)
    assert prepared(folder, tmp_path / "out").processed == 1
    assert {f: (tmp_path / "out" / f).stat().st_mtime_ns for f in shards} == shards
    after = contents(tmp_path / "out")
    assert {key: after[key] for key in before} == before
    assert sorted(after.keys() - before.keys()) == ["bb.wav#0.000", "bb.wav#2.000"]


def test_a_changed_file_replaces_its_clips(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD_CLIPS", 5)
    prepared(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    sf.write(folder / "b.flac", music(2.0, 77), RATE)
    touch_later(folder / "b.flac")
    report = prepared(folder, tmp_path / "out")
    after = contents(tmp_path / "out")
    assert report.processed == 1
    assert [key for key in after if key.startswith("b.flac")] == ["b.flac#0.000"]
    assert after["b.flac#0.000"][1] != before["b.flac#0.000"][1]
    assert all(after[key] == before[key] for key in before if not key.startswith("b.flac"))
    assert report.clips == len(after)


def test_clips_of_missing_files_leave_the_store_until_these_are_back(folder, tmp_path, monkeypatch):
    """Nothing is encoded again, and what is said of them is what is said now. A folder with none of them is refused."""
    monkeypatch.setattr(data, "SHARD_CLIPS", 5)
    out, away = tmp_path / "out", tmp_path / "away"
    prepared(folder, out)
    before = contents(out)
    away.mkdir()
    for name in ("a.wav", "e.wav"):
        (folder / name).rename(away / name)
    for _ in range(2):
        report = prepared(folder, out)
        after = contents(out)
        assert after == {key: clip for key, clip in before.items() if clip[0]["path"] not in ("a.wav", "e.wav")}
        assert (report.processed, report.clips, report.outcomes) == (0, len(after), {"ok": 4, "gone": 2})
        assert report.seconds == pytest.approx(sum(row["seconds"] for row, _ in after.values()))
        assert report_of(out)["e.wav"]["outcome"] == "gone"
    assert sum(len(open_store(out).split(name)) for name in ("train", "validation", "test")) == len(after)
    files = {f.name: f.stat().st_mtime_ns for f in out.glob("*.parquet")}
    with pytest.raises(UserError, match="clips of 6 files, and none of them"):
        prepared(collection(tmp_path / "others", ("x.wav", "y.wav")), out)
    assert {f.name: f.stat().st_mtime_ns for f in out.glob("*.parquet")} == files
    monkeypatch.setattr(LevelCodec, "encode", None)
    for name in ("a.wav", "e.wav"):
        (away / name).rename(folder / name)
    (folder / "e.txt").write_text("back again")
    assert prepared(folder, out).outcomes == {"ok": 6}
    found = contents(out)
    assert {row["captions"][0] for row, _ in found.values() if row["path"] == "e.wav"} == {"back again"}
    (folder / "e.txt").unlink()
    prepared(folder, out)
    assert contents(out) == before


def test_sidecars_tables_and_tags_in_their_order(folder, tmp_path):
    (folder / "captions.csv").write_text(
        "\ufeffPath,Caption,Title,Artist,License,Split\n"
        "a.wav,from the table | and again,Table title,Table artist,CC BY,test\n"
        "./b.flac,only here,,,,\n"
        "b.flac,a second row,,,,\n"
        "gone.wav,nobody,,,,\n",
        encoding="utf-8",
    )
    (folder / "captions.jsonl").write_text(json.dumps({"path": str(folder.resolve() / "d.ogg"), "captions": ["one"]}))
    (folder / "a.txt").write_text("from the sidecar\n\n  and its second line \n")
    (folder / "deep/c.json").write_text(json.dumps({"tags": ["piano", "slow"], "source": "here", "title": "\ud800x"}))
    (folder / "e.json").write_text(json.dumps({"caption": "a caption", "tags": "piano", "artist": "E"}))
    report = prepared(folder, tmp_path / "out")
    rows = {row["path"]: row for row, _ in contents(tmp_path / "out").values()}
    assert rows["a.wav"]["captions"] == ["from the sidecar", "and its second line"]
    assert [rows["a.wav"][key] for key in ("title", "artist", "licence", "split")] == (
        ["Table title", "Table artist", "CC BY", "test"]
    )
    assert rows["b.flac"]["captions"] == ["only here", "a second row"]
    assert rows["deep/c.wav"]["captions"] == ["piano, slow"] and rows["deep/c.wav"]["source"] == "here"
    assert rows["d.ogg"]["captions"] == ["one"]
    assert rows["e.wav"]["captions"] == ["a caption"] and rows["e.wav"]["artist"] == "E"
    assert rows["f.wav"]["captions"] == []
    assert report.strangers == ["gone.wav"]
    store = open_store(tmp_path / "out")
    assert [store.captions(i) for i in range(len(store))] == [store.row(i)["captions"] for i in range(len(store))]


def test_edited_captions_reach_the_store_without_encoding(folder, tmp_path, monkeypatch):
    prepared(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    table = tmp_path / "elsewhere.jsonl"
    table.write_text(json.dumps({"path": "deep/c.wav", "caption": "new words", "split": "test"}) + "\n")
    monkeypatch.setattr(LevelCodec, "encode", None)
    assert prepared(folder, tmp_path / "out", captions=table).processed == 0
    after = contents(tmp_path / "out")
    assert after.keys() == before.keys()
    for key, (row, codes) in after.items():
        changed = {"captions": ["new words"], "split": "test"} if row["path"] == "deep/c.wav" else {}
        assert (row, codes) == (before[key][0] | changed, before[key][1])


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("captions.csv", "file,caption\na.wav,x\n", "line 2, names no file"),
        ("captions.csv", "path,caption\nq/a.wav,x\n", "relative to"),
        ("captions.jsonl", '{"path": "a.wav"}\n{oops\n', "line 2 is not JSON"),
        ("captions.jsonl", '{"path": "a.wav", "captions": 3}', "has 3 where"),
    ],
)
def test_captions_that_cannot_be_understood(folder, tmp_path, name, text, complaint):
    (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=complaint):
        prepared(folder, tmp_path / "out")


def test_sidecars_that_cannot_be_understood_are_ignored_and_told(folder, tmp_path):
    """They may be another program's. The rest that is known of the file still holds."""
    faults = {
        "a": ("a.json", "[1]", "a.json holds a list"),
        "b": ("b.json", "{oops", "b.json is not JSON"),
        "d": ("d.json", '{"captions": 3, "title": "not taken"}', "d.json has 3 where"),
        "e": ("e.txt", "caf\udce9", "e.txt is not UTF-8"),
        "f": ("f.json", "[" * 100_000, "f.json is not JSON"),
    }
    for name, text, _ in faults.values():
        (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    (folder / "a.txt").write_text("from the other sidecar")
    (folder / "captions.csv").write_text("path,caption\nd.ogg,from the table\n")
    assert prepared(folder, tmp_path / "out").outcomes == {"ok": 6}
    rows = {path.split(".")[0]: row for path, row in report_of(tmp_path / "out").items()}
    for name, (_, _, fault) in faults.items():
        assert rows[name]["outcome"] == "ok" and fault in rows[name]["message"] and "ignored" in rows[name]["message"]
    assert rows["deep/c"]["message"] == ""
    said = {row["path"]: (row["captions"], row["title"]) for row, _ in contents(tmp_path / "out").values()}
    assert said["a.wav"] == (["from the other sidecar"], "") and said["d.ogg"] == (["from the table"], "")
    for name, _, _ in faults.values():
        (folder / name).unlink()
    assert prepared(folder, tmp_path / "out").processed == 0
    assert {row["message"] for row in report_of(tmp_path / "out").values()} == {""}


def test_a_captions_file_that_is_not_there(folder, tmp_path):
    (tmp_path / "table.xlsx").touch()
    for name, complaint in (("none.csv", "no captions table"), ("table.xlsx", r"\.csv or \.jsonl")):
        with pytest.raises(UserError, match=complaint):
            prepared(folder, tmp_path / "out", captions=tmp_path / name)


def test_splits_are_per_file_deterministic_and_one_in_twenty(tmp_path):
    assert split_of("a.wav", "") == split_of("a.wav", "") and split_of("a.wav", "mine") == "mine"
    names = [f"{n}.wav" for n in range(4000)]
    assert 150 < sum(split_of(name, "") == "validation" for name in names) < 250
    held = next(name for name in names if split_of(name, "") == "validation")
    kept = next(name for name in names if split_of(name, "") == "train")
    prepared(collection(tmp_path / "music", (held, kept)), tmp_path / "out")
    store = open_store(tmp_path / "out")
    train, validation = store.split("train"), store.split("validation")
    assert (len(store), len(train), len(validation), len(store.split("test"))) == (6, 3, 3, 0)
    assert {validation.row(i)["path"] for i in range(3)} == {held}
    whole = contents(tmp_path / "out")
    assert all(train.codes(i).tolist() == whole[train.row(i)["id"]][1] for i in range(3))
    again = pickle.loads(pickle.dumps(train))
    assert torch.equal(again.codes(-1), train.codes(2))
    with pytest.raises(UserError, match="no split 'trian'"):
        store.split("trian")


def test_a_store_rewritten_while_open_is_not_misread(folder, tmp_path):
    prepared(folder, tmp_path / "out")
    store = open_store(tmp_path / "out")
    touch_later(folder / "a.wav")
    prepared(folder, tmp_path / "out")
    with pytest.raises(UserError, match="rewritten while in use"):
        store.codes(0)


def test_damaged_stores_are_said_to_be(folder, tmp_path):
    prepared(folder, tmp_path / "out")
    shard = next((tmp_path / "out").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-100])
    for use in (open_store, lambda out: prepared(folder, out)):
        with pytest.raises(UserError, match=r"cannot read .*clips-00000.*delete it"):
            use(tmp_path / "out")
    shard.unlink()
    assert prepared(folder, tmp_path / "out").processed == 6
    (tmp_path / "out" / "store.json").write_text("{")
    with pytest.raises(UserError, match="new folder"):
        open_store(tmp_path / "out")


@pytest.mark.parametrize("codec", [True, False])
def test_stores_that_lack_what_reading_them_needs(folder, tmp_path, codec):
    prepared(folder, tmp_path / "out", codec)
    file = tmp_path / "out" / "store.json"
    whole = json.loads(file.read_text())
    needed = {"kind", "sample_rate"} | ({"codec", "codec_id", "frame_rate", "num_codebooks"} if codec else set())
    for key in needed:
        file.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(UserError, match=rf"store\.json .*{key}.*new folder"):
            open_store(tmp_path / "out")
    file.write_text(json.dumps(whole | {"kind": ["codes"]}))
    with pytest.raises(UserError, match="kind"):
        open_store(tmp_path / "out")


@given(st.integers(1, 300), st.integers(1, 100))
def test_evenly_spread(count, wanted):
    chosen = spread(count, wanted)
    assert len(chosen) == min(count, wanted) and chosen[0] == 0
    steps = {b - a for a, b in zip(chosen, [*chosen[1:], count], strict=True)}
    assert min(steps) >= 1 and max(steps) - min(steps) <= 1
    assert spread(0, wanted) == []


class InterruptedCodec(LevelCodec):
    def __init__(self, after):
        self.left = after

    def encode(self, audio):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().encode(audio)


def test_an_interrupted_run_keeps_whole_files_and_goes_on(folder, tmp_path):
    prepared(folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, tmp_path / "out", InterruptedCodec(7), codec_id="x1", clip_seconds=2.0, progress=False)
    assert sorted(report_of(tmp_path / "out")) == ["a.wav", "b.flac"]
    assert prepared(folder, tmp_path / "out").processed == 4
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def python(code, *args):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    return subprocess.Popen([sys.executable, "-c", head + textwrap.dedent(code), *map(str, args)], env=env)


@pytest.mark.slow
def test_killed_in_the_middle_it_resumes_to_the_same_store(tmp_path):
    names = [f"{n:02d}.wav" for n in range(12)]
    folder = collection(tmp_path / "music", names)
    prepared(folder, tmp_path / "whole")
    code = """
        import time
        from test_data import LevelCodec, Path, data, prepared
        data.SHARD_CLIPS = 5
        quick = LevelCodec.encode
        LevelCodec.encode = lambda self, audio: (time.sleep(0.05), quick(self, audio))[1]
        prepared(Path(sys.argv[1]), Path(sys.argv[2]))
    """
    run = python(code, folder, tmp_path / "out")
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("*.parquet"))) < 2 and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.01)
    with pytest.raises(UserError, match="another run"):
        prepared(folder, tmp_path / "out")
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    left = prepared(folder, tmp_path / "out").processed
    assert 0 < left < 12
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process for each moment")
@pytest.mark.slow
def test_killed_at_every_moment_that_touches_the_disk(tmp_path):
    """A child is killed before and after each fsync, rename and unlink and halfway through each shard, of a first run,
    then of a run that meets a changed, a new, a missing and a re-described file; a second child goes on. Every store so
    made must equal the uninterrupted one."""
    old = collection(tmp_path / "old", ("a.wav", "b.wav", "c.wav", "d.wav"))
    new = collection(tmp_path / "new", ("a.wav", "b.wav", "c.wav", "d.wav", "e.wav"))
    sf.write(new / "a.wav", music(4.0, 50), RATE)
    (new / "c.txt").write_text("described since")
    for name in ("b.wav", "c.wav", "d.wav"):
        os.utime(new / name, ns=(0, (old / name).stat().st_mtime_ns))
    touch_later(new / "a.wav")
    (new / "d.wav").unlink()
    code = """
        import os, shutil, signal
        from ostinato.data import store
        from test_data import Path, data, prepared
        data.SHARD_CLIPS = 6

        def child(folder, out, die_at):
            if (pid := os.fork()) == 0:
                left = [die_at]
                def dying(real):
                    def call(*args):
                        for do in (lambda: None, lambda: real(*args)):
                            do()
                            left[0] -= 1
                            if left[0] == 0:
                                os.kill(os.getpid(), signal.SIGKILL)
                    return call
                os.fsync, os.replace, os.unlink = dying(os.fsync), dying(os.replace), dying(os.unlink)
                whole = store.pq.write_table
                def torn(table, file, **how):
                    left[0] -= 1
                    whole(table, file, **how)
                    if left[0] == 0:
                        os.truncate(file, os.path.getsize(file) // 2)
                        os.kill(os.getpid(), signal.SIGKILL)
                store.pq.write_table = torn
                prepared(folder, out)
                os._exit(0)
            return os.waitpid(pid, 0)[1]

        base = Path(sys.argv[1])
        for first in (True, False):
            moment, killed = 0, True
            while killed:
                moment += 1
                out = base / f"{'first' if first else 'again'}-{moment}"
                if first:
                    killed = child(base / "old", out, moment)
                    assert child(base / "old", out, 0) == 0
                else:
                    shutil.copytree(base / "first-1", out)
                    killed = child(base / "new", out, moment)
                    assert child(base / "new", out, 0) == 0
    """
    assert python(code, tmp_path).wait() == 0
    for source, kind in ((old, "first"), (new, "again")):
        prepared(source, tmp_path / f"whole-{kind}")
        wanted = contents(tmp_path / f"whole-{kind}")
        outs = list(tmp_path.glob(f"{kind}-*"))
        assert len(outs) > 20
        for out in outs:
            assert contents(out) == wanted, out
            told = {path for path, row in report_of(out).items() if row["outcome"] == "ok"}
            assert told == {row["path"] for row, _ in wanted.values()}
            assert not list(out.glob("clips-*.tmp"))
