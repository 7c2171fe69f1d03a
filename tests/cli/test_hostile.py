"""What a hostile user tries: a mistake is one line and exit code 2, no traceback (numbers as in issue 17)."""

import base64
import csv
import dataclasses
import errno
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import soundfile as sf
import torch
from rich.console import Console
from rich.progress import TextColumn
from runs import lm_run
from safetensors.torch import load_file, save_file
from test_cli import ostinato, told  # noqa: F401
from tiny import make_codec, make_lm, melody

from ostinato.data.prepare import prepare
from ostinato.generation.pipeline import Clip, Ostinato
from ostinato.models.text_encoder import load_text_encoder
from ostinato.packs import POCKET
from ostinato.training import checkpoint
from ostinato.training.lm_task import LMTask
from ostinato.utils import audio, bars, files
from ostinato.utils.audio import read_audio
from ostinato.utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    make_codec().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that plays, small."""
    lm = make_lm("cross-simba", 3, "delay", dtype=torch.float32, text_width=384, codebook_size=32)
    whole = Ostinato(lm, load_text_encoder("minilm"), make_codec(), {"codec": "codec", "text": "minilm"})
    whole.save_pretrained(tmp_path_factory.mktemp("model"))
    return tmp_path_factory.getbasetemp() / "model0"


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


@pytest.mark.slow
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
    shutil.copytree(POCKET / "codec", tmp_path / "shipped")
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


@pytest.mark.slow
def test_two_runs_in_one_folder(stores, tmp_path, told):  # noqa: F811
    """6: two processes of `train`. The second is refused, the first loses nothing."""
    run = dataclasses.asdict(lm_run(stores, tmp_path / "run", train={"steps": 100_000}))
    (tmp_path / "run.json").write_text(json.dumps(run))
    command = [sys.executable, "-m", "ostinato.cli", "train", str(tmp_path / "run.json")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while first.poll() is None and not (tmp_path / "run" / "log.jsonl").exists():
            time.sleep(0.2)
        assert "another run is writing" in told("train", tmp_path / "run.json")
    finally:
        first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=120)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert first.returncode == 130 and f"step {steps[-1]} saved" in err and steps == list(range(1, len(steps) + 1))


def test_of_a_long_file_the_end_is_read(tmp_path):
    """10: and said."""
    sf.write(tmp_path / "long.wav", melody(20), 8000)
    with pytest.warns(UserWarning, match=r"of the 20 s of .*long.wav, the last 2 s are read"):
        tail = audio.read_tail(tmp_path / "long.wav", 8000, 2.0)
    assert torch.equal(tail, read_audio(tmp_path / "long.wav", 8000, 18.0))


def test_what_takes_long_is_told(capsys):
    """10, and where stderr is no terminal: lines in place of bars, and none before there is something to wait for."""
    for terminal in (True, False):
        out = io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            bars.Bars(
                TextColumn("{task.fields[shown]}"), console=Console(file=out, force_terminal=terminal), transient=True
            ) as bar,
        ):
            task = bar.add_task("", total=None, shown="reading long.wav")
            bar.update(task, completed=1)
            assert ("reading" in out.getvalue()) == terminal
            patch.setattr(bars, "PERIOD", 0.0)
            bar.due = 0.0
            bar.update(task, completed=2, shown="2 of 3")
            bar.update(task, completed=3, shown="3 of 3")
        assert terminal or out.getvalue() == "2 of 3\n3 of 3\n"


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


def test_clips_longer_than_any_of_the_store(stores, tmp_path):
    """15: said, and nothing is padded to that length."""
    with pytest.warns(UserWarning, match="clip_seconds 1000 is longer than every clip of the store: it is 2 here"):
        task = LMTask(lm_run(stores, tmp_path, clip_seconds=1000.0), torch.device("cpu"))
    assert task.data.frames == 100


def test_a_model_that_cannot_fit(stores, tmp_path, told):  # noqa: F811
    """16."""
    run = dataclasses.asdict(lm_run(stores, tmp_path / "run"))
    (tmp_path / "run.json").write_text(json.dumps(run))
    line = told("train", tmp_path / "run.json", "--set", "model.width=1000000")
    assert "GiB to train, more than" in line and "model.width" in line
    assert not list((tmp_path / "run").glob("step-*"))


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 64 kB, where the system lets one be made (Linux, as root)."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be made here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_the_clip_is_kept(full_disk, model, tmp_path, told, monkeypatch):  # noqa: F811
    """17: a real one, of 64 kB. The clip lands in the temporary folder, whole."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    line = told("generate", "a tune", "--model", model, "--seconds", "6", "-o", full_disk / "x.wav")
    kept = tmp_path / "tmp" / "kept-x.wav"
    assert "disk is full" in line and str(kept) in line
    assert sf.info(kept).duration == 6 and not list(full_disk.iterdir())


def test_on_a_full_disk_training_says_that_nothing_is_kept(full_disk, stores, told, tmp_path):  # noqa: F811
    """18: likewise."""
    run = dataclasses.asdict(lm_run(stores, full_disk / "run", train={"steps": 1, "tracker": "none"}))
    (tmp_path / "run.json").write_text(json.dumps(run))
    line = told("train", tmp_path / "run.json")
    assert "disk is full" in line and "there is no earlier checkpoint" in line
    assert not list((full_disk / "run").glob("step-*"))


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


def test_what_can_be_had_without_a_network_is_offered(tmp_path, told, monkeypatch):  # noqa: F811
    """23."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "songs").mkdir()
    sf.write(tmp_path / "songs" / "a.wav", melody(2), 8000)
    assert "--codec pocket" in told("prepare", tmp_path / "songs", tmp_path / "store")


def test_the_shortest_clip(model, tmp_path, capfd):
    """9: a frame, and a factor that is of what was made."""
    ostinato("generate", "a tune", "--model", model, "--seconds", "1e-9", "-o", tmp_path / "x.wav")
    length, spent, factor = map(
        float, re.search(r"wav: (\S+) s .* in (\S+) s .*factor (\S+)\)", one_line(capfd)).groups()
    )
    assert length == 0.02 and abs(factor * length - spent) < 0.06


@pytest.mark.slow
def test_a_prompt_that_is_cut_is_a_note(model, tmp_path, capfd):
    """21."""
    ostinato("generate", "a tune " * 5000, "--model", model, "--seconds", "0.1", "-o", tmp_path / "x.wav")
    err = capfd.readouterr().err
    assert re.search(r"note: a text of \d+ tokens is cut to the 256", err) and "Warning" not in err


def one_line(capfd):
    return " ".join(capfd.readouterr().out.split())


@pytest.mark.slow
def test_takes_and_prompts_in_one_loading(model, tmp_path, capfd):
    """Sentence after sentence, seed after seed; what is there is not made again; the tags say how each was made."""
    (tmp_path / "lines.txt").write_text("fast drums\n\nslow ünïcode strings\n")
    asked = ("--prompts", tmp_path / "lines.txt", "--takes", "2", "--model", model, "--seconds", "0.1", "--seed", "7")
    ostinato("generate", *asked, "-o", tmp_path / "out")
    found = sorted(p.name for p in (tmp_path / "out").iterdir())
    slow = "0003-slow-n-code-strings"
    assert found == ["0001-fast-drums-take1.wav", "0001-fast-drums-take2.wav", f"{slow}-take1.wav", f"{slow}-take2.wav"]
    alone = ("generate", "slow ünïcode strings", "--model", model, "--seconds", "0.1", "--seed", "10")
    ostinato(*alone, "-o", tmp_path / "alone.wav")
    assert (tmp_path / "out" / f"{slow}-take2.wav").read_bytes() == (tmp_path / "alone.wav").read_bytes()
    capfd.readouterr()
    ostinato("generate", *asked, "-o", tmp_path / "out")
    assert "0 clips of 0.1 s, 4 were there already" in one_line(capfd)
    ostinato("info", tmp_path / "alone.wav")
    said = one_line(capfd)
    assert all(word in said for word in ("slow ünïcode strings", "seed", "10", "guidance", str(model)[-6:]))


@pytest.mark.slow
def test_the_state_is_kept_from_the_command_line(model, tmp_path, told):  # noqa: F811
    asked = ("generate", "a tune", "--model", model, "--state", tmp_path / "state")
    ostinato(*asked, "--seconds", "0.2", "-o", tmp_path / "a.wav")
    ostinato(*asked, "--seconds", "0.4", "-o", tmp_path / "b.wav")
    ostinato(*asked[:4], "--seconds", "0.4", "-o", tmp_path / "c.wav")
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "c.wav").read_bytes()
    assert "another generation" in told(*asked, "--negative", "drums", "-o", tmp_path / "d.wav")
    assert "cannot keep the generation" in told(*asked[:-1], "/dev/full", "-o", tmp_path / "d.wav")


def test_verify_reads_all_weights(model, tmp_path, told, capfd):  # noqa: F811
    """5: every file of the folder, also those that the model itself does not load."""
    copy = shutil.copytree(model, tmp_path / "copy")
    ostinato("info", copy, "--verify")
    assert one_line(capfd).count("as it was saved, sha256") == 2  # the model's and its codec's
    shutil.copy(copy / "codec" / "model.safetensors", copy / "spare.safetensors")
    with open(copy / "spare.safetensors", "r+b") as file:
        file.seek(-400, os.SEEK_END)
        file.write(bytes(200))
    ostinato("info", copy)
    assert "sha256" in told("info", copy, "--verify")


def test_a_wrong_option_is_one_line(told):  # noqa: F811
    for options in (["--seconds", "ten"], ["--sedes", "1"], ["--steps", "0"], ["--takes", "0"]):
        assert options[0] in told("generate", "a", *options) or options[0][2:] in told("generate", "a", *options)
    assert "see" in told("prepare", "songs") and "sing" in told("sing")


def test_a_clip_in_a_notebook():
    clip = Clip(torch.from_numpy(melody(1.0))[None], 8000, torch.zeros(3, 50, dtype=torch.long), "<b> & drums")
    assert repr(clip) == "Clip('<b> & drums', 1 s at 8000 Hz)"
    page = clip._repr_html_()
    sound, rate = sf.read(io.BytesIO(base64.b64decode(page.split("base64,")[1].split('"')[0])), dtype="float32")
    assert rate == 8000 and np.abs(sound - clip.audio[0].numpy()).max() < 1e-4 and "<b>" not in page


def test_help_keeps_its_brackets(capfd):
    """20."""
    ostinato("train", "--help")
    assert "ostinato[lora]" in "".join(capfd.readouterr().out.split()).replace("│", "")
