"""Collections of the other kinds: MTG-Jamendo, WebDataset shards, Hugging Face data sets."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from tunes import RECIPE, recipe_file, tune, write

from ostinato.curate.curate import Machine, curate
from ostinato.curate.jamendo import what_to_download
from ostinato.curate.recipe import load_recipe
from ostinato.curate.sources import as_file, list_tracks
from ostinato.utils.errors import UserError

LICENCES = """\
14/214.mp3
Silence by The Band from Jamendo: http://www.jamendo.com/track/214
Available under a Creative Commons Attribution-NonCommercial-ShareAlike license: http://creativecommons.org/licenses/by-nc-sa/2.5/

15/215.mp3
Noise by Other from Jamendo: http://www.jamendo.com/track/215
Available under a Creative Commons Attribution license: http://creativecommons.org/licenses/by/3.0/
"""


def mp3(seed: int, seconds: float = 4.5) -> bytes:
    held = io.BytesIO()
    sf.write(held, tune(seconds, 16000, seed), 16000, format="MP3")
    return held.getvalue()


@pytest.fixture
def jamendo(tmp_path):
    folder = tmp_path / "mtg"
    data = folder / "data"
    (data / "splits/split-0").mkdir(parents=True)
    (data / "download").mkdir()
    head = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
    line = "track_{0:07d}\tartist_000001\talbum_000001\t{1}/{0}.mp3\t4.5\tgenre---rock\tmood/theme---calm\n"
    (data / "raw_30s_cleantags_50artists.tsv").write_text(
        head + line.format(214, "14") + line.format(215, "15") + line.format(216, "16") + line.format(217, "17")
    )
    meta = "TRACK_ID\tARTIST_ID\tALBUM_ID\tTRACK_NAME\tARTIST_NAME\tALBUM_NAME\tRELEASEDATE\tURL\n"
    (data / "raw.meta.tsv").write_text(meta + 'track_0000214\ta\tb\tThe "Silence\tThe Band\tc\t2005\tu\n')
    (data / "splits/split-0/autotagging-test.tsv").write_text(head + line.format(215, "15"))
    (folder / "audio_licenses.txt").write_text(LICENCES)
    sounds = {"14/214.low.mp3": mp3(1), "15/215.low.mp3": mp3(2), "16/216.low.mp3": mp3(3)}
    sums = {name: hashlib.sha256(held).hexdigest() for name, held in sounds.items()}
    sums["16/216.low.mp3"] = "0" * 64
    (data / "download/raw_30s_audio-low_sha256_tracks.txt").write_text("".join(f"{s} {n}\n" for n, s in sums.items()))
    return folder, sounds


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, held in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(held)
            archive.addfile(info, io.BytesIO(held))
    return path


def run(music, out, settings=(), text=RECIPE):
    recipe = load_recipe(recipe_file(out.parent, text), settings)
    return curate(music, out, recipe, Machine(workers=0), progress=False)


def rows(out, name="metadata"):
    return pq.read_table(out / f"{name}.parquet").to_pylist()


def test_jamendo_has_names_licences_splits_and_checksums(jamendo, tmp_path):
    folder, sounds = jamendo
    for name, held in sounds.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(held)
    text = RECIPE.replace("  - duplicates", "  - licence: {nc: false}\n  - exclude: {lists: [sd.csv]}\n  - duplicates")
    (tmp_path / "sd.csv").write_text("caption_id,track_id\n1,99999\n")
    run(f"mtg-jamendo:{folder}", tmp_path / "out", text=text)
    told = {row["track"]: row for row in rows(tmp_path / "out", "tracks")}
    assert told["14/214"]["outcome"] == "non-commercial licence" and told["14/214"]["title"] == 'The "Silence'
    assert told["15/215"]["outcome"] == "kept" and told["15/215"]["licence"] == "CC-BY"
    assert told["16/216"]["outcome"].startswith("not the file that was published")
    assert told["17/217"]["outcome"] == "in the table, but its audio is not here"
    kept = rows(tmp_path / "out")
    assert {row["track"] for row in kept} == {"15/215"} and kept[0]["split"] == "test"
    assert kept[0]["source"] == "https://www.jamendo.com/track/215"
    assert kept[0]["tags"] == ["genre---rock", "mood/theme---calm"]


def test_jamendo_packed_gives_what_unpacked_gives(jamendo, tmp_path):
    folder, sounds = jamendo
    tar = pack(folder / "raw_30s_audio-low-14.tar", sounds)
    run(f"mtg-jamendo:{folder}", tmp_path / "packed")
    tar.unlink()
    for name, held in sounds.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(held)
    run(f"mtg-jamendo:{folder}", tmp_path / "unpacked")
    for name in ("metadata", "drops", "tracks"):
        assert rows(tmp_path / "packed", name) == rows(tmp_path / "unpacked", name)


def test_what_the_challenge_left_of_jamendo_is_read_with_its_captions(jamendo, tmp_path):
    folder, sounds = jamendo
    (folder / "14").mkdir()
    (folder / "14/214.low.mp3").write_bytes(sounds["14/214.low.mp3"])
    (folder / "14/214_instrumental.mp3").write_bytes(mp3(9))
    (folder / "15").mkdir()
    (folder / "15/215_instrumental.mp3").write_bytes(mp3(8))
    (tmp_path / "jamendo_qwen.json").write_text(json.dumps([{"path": "14/214.mp3", "caption": "a calm piano piece"}]))
    text = RECIPE.replace("  - duplicates", "  - captions: {files: [jamendo_qwen.json]}\n  - duplicates")
    run(f"mtg-jamendo:{folder}", tmp_path / "out", text=text)
    told = {row["track"]: row["outcome"] for row in rows(tmp_path / "out", "tracks")}
    assert (told["14/214"], told["15/215"]) == ("kept", "no caption in the caption files")
    kept = rows(tmp_path / "out")
    assert {(row["caption"], row["caption_by"]) for row in kept} == {("a calm piano piece", "jamendo_qwen")}
    heard = sf.read(tmp_path / "out" / kept[0]["file_name"])[0]
    separated = sf.read(folder / "14/214_instrumental.mp3")[0][: len(heard)]
    assert np.abs(heard - separated).max() < 1e-3
    # Another caption is another data set: what hangs on it is done again.
    (tmp_path / "jamendo_qwen.json").write_text(json.dumps([{"path": "14/214.mp3", "caption": "fast drums and bass"}]))
    run(f"mtg-jamendo:{folder}", tmp_path / "out", text=text)
    assert {row["caption"] for row in rows(tmp_path / "out")} == {"fast drums and bass"}


def test_jamendo_that_is_not_here_says_what_to_fetch(tmp_path):
    with pytest.raises(UserError, match="says what to download"):
        list_tracks(f"mtg-jamendo:{tmp_path}")
    told = what_to_download()
    assert "156 GB" in told and "raw_30s_audio-low-$n.tar" in told and "sha256sum --check" in told


def test_webdataset_shards(tmp_path):
    def flac(seed):
        held = io.BytesIO()
        sf.write(held, tune(2.5, 16000, seed), 16000, format="FLAC")
        return held.getvalue()

    about = {"caption": "calm piano", "license": "CC BY 4.0", "title": "T", "artist": "A"}
    members = {"a.flac": flac(1), "a.json": json.dumps(about).encode(), "b.flac": flac(2), "b.txt": b"slow drums\n"}
    (tmp_path / "wds").mkdir()
    pack(tmp_path / "wds/00.tar", {**members, "c.json": b"{}", "d.flac": b"", "e.wav": b"no music", "f.json": b"{"})
    whole = pack(tmp_path / "whole.tar", {"g.flac": flac(3), "h.flac": flac(4)}).read_bytes()
    (tmp_path / "wds/01.tar").write_bytes(whole[: len(whole) // 2])
    run(f"webdataset:{tmp_path / 'wds'}", tmp_path / "out")
    told = {row["track"]: row for row in rows(tmp_path / "out", "tracks")}
    assert told["wds/00.tar/a"]["outcome"] == told["wds/00.tar/b"]["outcome"] == "kept"
    assert told["wds/00.tar/c"]["outcome"] == "no audio in this sample"
    assert told["wds/00.tar/d"]["outcome"] == "empty (0 bytes)"
    assert told["wds/00.tar/e"]["outcome"] == "cannot be read"
    assert told["wds/01.tar"]["outcome"].startswith("the archive is damaged") or told["wds/01.tar/g"]
    kept = {row["track"]: row for row in rows(tmp_path / "out")}
    assert kept["wds/00.tar/a"]["caption"] == "calm piano" and kept["wds/00.tar/a"]["licence"] == "CC-BY"
    assert kept["wds/00.tar/b"]["caption"] == "slow drums"


def test_a_hugging_face_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [str(write(tmp_path / f"in/{i}.flac", 2.5, seed=i)) for i in range(3)]
    # As `datasets` itself lays it out: it encodes audio only with a package that is not needed here.
    held = [{"bytes": Path(file).read_bytes(), "path": None} for file in files]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"audio": pa.array(held, kind), "text": pa.array(["calm piano", "drums", ""])})
    features = datasets.Features({"audio": datasets.Audio(decode=False), "text": datasets.Value("string")})
    made = datasets.Dataset(datasets.table.InMemoryTable(table)).cast(features)
    made.save_to_disk(str(tmp_path / "hf"))
    run(f"datasets:{tmp_path / 'hf'}", tmp_path / "out")
    kept = rows(tmp_path / "out")
    assert len(kept) == 3 and [row["caption"] for row in kept] == ["calm piano", "drums", ""]
    first = list_tracks(f"datasets:{tmp_path / 'hf'}")[0]
    with as_file(first) as path:
        assert path.read_bytes() == Path(files[0]).read_bytes()
