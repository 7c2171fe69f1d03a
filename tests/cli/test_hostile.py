"""What a hostile user tries: a mistake is one line and exit code 2, no traceback (numbers as in issue 17)."""

import csv
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys

import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file
from test_cli import ostinato, told  # noqa: F401
from tiny import make_codec, melody

from ostinato.data.prepare import prepare
from ostinato.packs import PACKS
from ostinato.training import checkpoint
from ostinato.utils import audio, files
from ostinato.utils.audio import read_audio
from ostinato.utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    make_codec().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["\udcff\udcfe"], "not UTF-8"),  # 1
        (["a", "--seconds", "1e6"], "at most 3600"),  # 7
        (["a", "--seconds", "1e12"], "at most 3600"),
        (["a", "--seconds", "inf"], "finite number above 0, got inf"),  # 8
        (["a", "--seconds", "nan"], "finite number above 0, got nan"),
        (["a", "--continue-from", "."], "is a folder"),  # 22
        (["a", "--device", "tpu"], "not available"),
        (["a", "--top-p", "0"], "top-p"),
        (["a", "--model", "nowhere"], "no model folder nowhere"),
        (["a", "-o", "x" * 250 + ".wav"], "too long"),
    ],
)
def test_option_errors_need_no_torch(told, options, said, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ostinato.generation.pipeline", None)  # 25: an import of it would fail
    assert said in told("generate", *options)


def test_option_errors_load_no_torch():
    """25, in a process of its own."""
    code = "import sys; sys.argv = ['ostinato', 'generate', 'a', '--seconds', 'inf']\nfrom ostinato import cli\n"
    code += "try: cli.main()\nexcept SystemExit as e: assert e.code == 2\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_full_disk_on_the_standard_output():
    """2."""
    with open("/dev/full", "wb") as out:
        command = [sys.executable, "-m", "ostinato.cli", "generate", "a", "--seconds", "0.2", "-o", "-"]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "disk is full" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["width", "depth", "window", "codebook_size", "num_codebooks"])
def test_a_config_cannot_ask_for_more_than_its_weights(folder, key):
    """3, and its kin."""
    config = json.loads((folder / "config.json").read_text())
    config["codec"][key] = 10**9
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        type(make_codec()).from_pretrained(folder)


def test_weights_that_are_not_numbers(folder):
    """4."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: torch.full_like(t, float("nan")) for name, t in weights.items()}, folder / "model.safetensors")
    with pytest.raises(UserError, match="not finite"):
        type(make_codec()).from_pretrained(folder)


def test_overwritten_weights_are_found_out(folder, tmp_path):
    """5: in saved folders, and in the one that ships."""
    shutil.copytree(PACKS["pocket"] / "codec", tmp_path / "shipped")
    for place in (folder, tmp_path / "shipped"):
        files.read_weights(place / "model.safetensors")
        with open(place / "model.safetensors", "r+b") as file:
            file.seek(-9000, os.SEEK_END)
            file.write(bytes(4096))
        with pytest.raises(UserError, match="sha256"):
            files.read_weights(place / "model.safetensors")


def test_a_folder_has_one_writer(tmp_path):
    """6: what `train`, `prepare` and `curate` hold."""
    (tmp_path / ".lock").touch()
    with open(tmp_path / ".lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is writing"), files.only_writer(tmp_path):
            pass


def test_of_a_long_file_the_end_is_read(tmp_path):
    """10."""
    sf.write(tmp_path / "long.wav", melody(20), 8000)
    assert torch.equal(audio.read_tail(tmp_path / "long.wav", 8000, 2.0), read_audio(tmp_path / "long.wav", 8000, 18.0))


@pytest.mark.parametrize("suffix", ["wav", "ogg", "aiff", "flac", "au"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_half_a_file_is_broken(tmp_path, suffix, share):
    """11."""
    path = tmp_path / f"song.{suffix}"
    sf.write(path, melody(3), 8000)
    read_audio(path, 8000)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError):
        read_audio(path, 8000)


def test_links_to_nothing_are_reported(tmp_path):
    """12."""
    (tmp_path / "songs").mkdir()
    sf.write(tmp_path / "songs" / "a.wav", melody(2), 8000)
    (tmp_path / "songs" / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "songs" / "loop.wav").symlink_to("loop.wav")
    prepare(tmp_path / "songs", tmp_path / "store", sample_rate=8000, clip_seconds=1.0, progress=False)
    with open(tmp_path / "store" / "report.csv") as lines:
        rows = {row["path"]: row["outcome"] for row in csv.DictReader(lines)}
    assert rows == {"a.wav": "ok", "gone.wav": "broken", "loop.wav": "broken"}


def test_the_store_is_not_written_into_the_music(tmp_path):
    """13, 14."""
    sf.write(tmp_path / "a.wav", melody(2), 8000)
    for out in (tmp_path, tmp_path / "store"):
        with pytest.raises(UserError, match="inside the music"):
            prepare(tmp_path, out, sample_rate=8000, clip_seconds=1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_an_empty_captions_table(tmp_path):
    """14."""
    (tmp_path / "songs").mkdir()
    sf.write(tmp_path / "songs" / "a.wav", melody(2), 8000)
    (tmp_path / "none.csv").touch()
    with pytest.raises(UserError, match="no rows"):
        prepare(tmp_path / "songs", tmp_path / "s", sample_rate=8000, clip_seconds=1.0, captions=tmp_path / "none.csv")


def test_a_full_disk_says_so(tmp_path):
    """17, 18."""

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="disk is full"):
        files.write_atomic(tmp_path / "a", full)
    with pytest.raises(UserError, match=r"disk is full.*there is no earlier checkpoint"):
        checkpoint.write_checkpoint(tmp_path / "step-0000001", {}, full)


def test_what_is_missing_is_said(told, tmp_path):  # noqa: F811
    """19, 24."""
    assert "nothing to evaluate" in told("evaluate")
    (tmp_path / "config.json").write_text("[]")
    line = told("import-official", tmp_path / "no.ckpt", tmp_path / "config.json", tmp_path / "out")
    assert "there is no checkpoint file" in line


def test_help_keeps_its_brackets(capfd):
    """20."""
    ostinato("train", "--help")
    assert "ostinato[lora]" in "".join(capfd.readouterr().out.split()).replace("│", "")
