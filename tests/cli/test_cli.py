import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import make_codec, melody

from ostinato import cli
from ostinato.generation.pipeline import load
from ostinato.utils.audio import read_audio

CODEC = {"sample_rate": 8000, "hop": 160, "window": 640, "width": 32, "depth": 1, "num_codebooks": 3}
CODEC |= {"codebook_size": 32, "code_width": 4}
MODEL = {"variant": "cross-simba", "num_codebooks": 3, "pattern": "delay", "codebook_size": 32, "text_width": 384}
MODEL |= {"width": 32, "blocks": 1, "heads": 4, "feed_forward": 32, "state": 8, "head_width": 16, "chunk": 16}
STEPS = {"steps": 2, "batch": 2, "accumulation": 1, "log_every": 1, "precision": "fp32"}


def ostinato(*arguments, code=0):
    """The command as a shell runs it: (stdout, stderr). In this process, since a new one takes seconds to begin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ostinato", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
            raise SystemExit(0)
    assert (exit.value.code or 0) == code
    return exit


@pytest.fixture
def told(capfd):
    """Runs a command that is a mistake: one line on stderr, exit code 2. Returns the line."""

    def run(*arguments):
        capfd.readouterr()
        ostinato(*arguments, code=2)
        out, err = capfd.readouterr()
        lines = [line for line in err.split("\n") if line.strip()]  # progress may stand above
        assert "Traceback" not in err and out == ""
        assert [line for line in lines if line.startswith("ostinato: ")] == lines[-1:], err
        return lines[-1]

    return run


def write_yaml(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The whole way once: audio, store, codec, codes, model."""
    root = tmp_path_factory.mktemp("cli")
    music = root / "music"
    music.mkdir()
    for i, suffix in enumerate((".wav", ".ogg", ".flac")):
        sf.write(music / f"tune{i}{suffix}", np.repeat(melody(3, (0, 4, 7 + i), 16000)[:, None], 2, 1), 16000)
        about = {"captions": [f"tune number {i}", "a chord"], "split": "train"}
        (music / f"tune{i}.json").write_text(json.dumps(about))
    sf.write(music / "held.wav", melody(3, (12, 0)), 8000)
    (music / "held.txt").write_text("two notes")
    (music / "captions.csv").write_text("path,split\nheld.wav,validation\n")
    (music / "broken.wav").write_bytes(b"RIFF but not for long")

    ostinato("prepare", music, root / "audio", "--codec", "none", "--sample-rate", 8000, "--clip-seconds", 1.5)
    codec = {"task": "codec", "data": str(root / "audio"), "output": str(root / "codec"), "clip_seconds": 0.6}
    write_yaml(root / "codec.yaml", codec | {"model": CODEC, "adversary_from": 1, "train": STEPS})
    ostinato("train", root / "codec.yaml")
    ostinato("prepare", music, root / "codes", "--codec", root / "codec", "--clip-seconds", 1.5)
    lm = {"data": str(root / "codes"), "output": str(root / "lm"), "text": "minilm", "clip_seconds": 1.0}
    lm |= {"model": MODEL, "train": STEPS, "prompts": ["two notes"], "sample_seconds": 0.2}
    write_yaml(root / "lm.yaml", lm)
    ostinato("train", root / "lm.yaml", "--set", "train.learning_rate=1e-3")
    return root


@pytest.mark.slow
def test_all_the_way(made, tmp_path, capfd):
    """What each command left behind, and what it says of it."""
    assert (made / "codec" / "step-0000002" / "model.safetensors").is_file()
    ostinato("info", made / "codec")
    out = " ".join(capfd.readouterr().out.split())
    assert "pocket codec" in out and "8000 Hz, 50 frames a second, 3 codebooks" in out and "2 steps, seed 0" in out
    ostinato("info", made / "lm")
    out = " ".join(capfd.readouterr().out.split())
    for words in ("cross-simba (mamba, cross-attention, feed-forward", "3 of 32, pattern delay", "minilm (384 wide)"):
        assert words in out
    assert "2 steps, seed 0" in out and "in codec/" in out
    assert (made / "lm" / "samples" / "step-0000002" / "0-two-notes.wav").is_file()

    ostinato("prepare", made / "music", made / "codes", "--codec", made / "codec", "--clip-seconds", 1.5)
    assert "8 clips" in capfd.readouterr().out.replace("\n", " ")  # 4 files of 3 s; nothing again, nothing lost
    ostinato("train", made / "lm.yaml", "--set", "train.steps=3", "--set", "train.learning_rate=1e-3")
    out, err = capfd.readouterr()
    assert "resuming from step 2" in err and out.strip().endswith("step-0000003")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_sentence_becomes_a_file(made, tmp_path, capfd, suffix):
    out = tmp_path / f"out{suffix}"
    ostinato("generate", "two notes", "--seconds", 0.5, "-o", out, "--model", made / "lm")
    said = capfd.readouterr().out
    assert str(out) in said.replace("\n", "") and re.search(r"0\.5 s at 8000 Hz, seed 0", said)
    with sf.SoundFile(out) as file:
        assert (file.samplerate, file.channels) == (8000, 1)
        assert file.frames == 4000 or suffix == ".mp3"  # whose frames have a length of their own
        assert file.title == "two notes" and file.comment.startswith("ostinato recipe ")
    audio = read_audio(out, 8000)
    assert audio.std() > 1e-4
    wanted = load(made / "lm").generate("two notes", seconds=0.5).audio.clamp(-1, 1)
    if suffix == ".mp3":
        assert 4000 <= audio.shape[1] < 4000 + 3 * 576
        assert torch.corrcoef(torch.cat([audio[:, :4000], wanted]))[0, 1] > 0.9
        return
    assert (audio - wanted).abs().max() < (0.2 if suffix == ".ogg" else 1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


@pytest.mark.slow
def test_same_seed_same_bytes(made, tmp_path):
    def made_with(name, *options):
        ostinato("generate", "two notes", "--seconds", 0.4, "-o", tmp_path / name, "--model", made / "lm", *options)
        return (tmp_path / name).read_bytes()

    first = made_with("a.wav", "--seed", 5)
    assert made_with("b.wav", "--seed", 5) == first
    others = [("--seed", 6), ("--temperature", 0), ("--top-k", 1), ("--top-p", 0.01)]
    assert all(made_with("c.wav", "--seed", 5, *option) != first for option in others)
    # and in a process of its own, by the installed command
    command = [Path(sys.executable).parent / "ostinato", "generate", "two notes", "--seconds", "0.4", "--seed", "5"]
    command += ["-o", str(tmp_path / "d.wav"), "--model", str(made / "lm")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (tmp_path / "d.wav").read_bytes() == first


@pytest.mark.parametrize("name", ["tune0.wav", "tune1.ogg"])
def test_continued_audio_begins_as_it_was(made, tmp_path, name):
    out = tmp_path / "out.wav"
    ostinato(
        *("generate", "two notes", "--seconds", 0.5, "-o", out, "--model", made / "lm"),
        *("--continue-from", made / "music" / name),
    )
    audio, codec = read_audio(out, 8000), load(made / "lm").codec
    assert audio.shape == (1, 3 * 8000 + 4000)
    again = codec.decode(codec.encode(read_audio(made / "music" / name, 8000)[None]))[0]
    # All but the end, which hears what follows.
    assert (audio[:, :20000] - again[:, :20000].clamp(-1, 1)).abs().max() < 1e-4


def test_generate_tells_mistakes(made, tmp_path, told):
    model, out = ("--model", made / "lm"), ("-o", tmp_path / "out.wav")
    (tmp_path / "file").write_text("")
    (tmp_path / "noise.wav").write_bytes(b"no audio at all")

    def generate(*options, prompt="a tune", **_):
        return told("generate", prompt, "--seconds", 0.1, *out, *model, *options)

    for prompt in "", "  \t ":
        assert "prompt is empty" in generate(prompt=prompt)
    for seconds in 0, -3, "inf", "nan":
        assert f"above 0, got {seconds}" in told("generate", "x", *out, *model, f"--seconds={seconds}")
    assert "absent.wav" in generate("--continue-from", tmp_path / "absent.wav")
    assert "noise.wav" in generate("--continue-from", tmp_path / "noise.wav")
    assert str(tmp_path) in generate("--continue-from", tmp_path)
    assert "temperature" in generate("--temperature=-1") and "temperature" in generate("--temperature=nan")
    assert "top-p" in generate("--top-p=0") and "top-k" in generate("--top-k=-5")
    assert "guidance" in generate("--guidance=inf")
    for seed in -1, 2**63:
        assert f"seed must be from 0 to {2**63 - 1}, got {seed}" in generate(f"--seed={seed}")
    for device in "nonsense", "cuda:99", "cuda:x", "meta", "":
        assert f"device {device!r}" in generate("--device", device)
    for name, words in {
        "out.m4a": ".wav, .flac, .ogg or .mp3",
        "out": ".wav, .flac, .ogg or .mp3",
        "file/out.wav": "no folder",
        "absent/out.wav": "no folder",
    }.items():
        assert words in told("generate", "x", "-o", tmp_path / name, *model)
        # and so it is before the model is loaded
        assert words in told("generate", "x", "-o", tmp_path / name, "--model", tmp_path / "absent")
    (tmp_path / "folder.wav").mkdir()
    assert "it is a folder" in told("generate", "x", "-o", tmp_path / "folder.wav", *model)
    assert not (tmp_path / "out.wav").exists()


def test_models_that_are_not_whole(made, tmp_path, told):
    good = next((made / "lm").glob("step-*"))

    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(good, folder)
        change(folder)
        return folder

    def edit(file, **keys):
        return lambda folder: (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | keys))

    def cut(file):
        return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-100])

    def reweigh(folder):
        weights = load_file(folder / "model.safetensors")
        save_file(weights | {"norm.weight": torch.ones(7)}, folder / "model.safetensors")

    def without(folder):
        weights = load_file(folder / "model.safetensors")
        weights.pop("norm.weight")
        save_file(weights, folder / "model.safetensors")

    def another_codec(folder):
        make_codec(seed=8).save_pretrained(folder / "codec")

    def drop(key):
        def change(folder):
            config = json.loads((folder / "config.json").read_text())
            config.pop(key)
            (folder / "config.json").write_text(json.dumps(config))

        return change

    cases = {
        "no-weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        "cut": (cut("model.safetensors"), "copy"),
        "shape": (reweigh, "do not fit"),
        "lacking": (without, "do not fit"),
        "no-config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
        "no-json": (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        "list": (lambda folder: (folder / "config.json").write_text("[]"), "list"),
        "type": (edit("config.json", model_type="bert"), "'bert'"),
        "key": (edit("config.json", lm={"variant": "cross-simba", "widht": 3}), "'width'"),
        "codec-id": (edit("config.json", codec_id="0123456789abcdef"), "0123456789abcdef"),
        "codec": (another_codec, "was trained on codes of codec"),
        "codec-cut": (cut("codec/model.safetensors"), "copy"),
        "codec-config": (edit("codec/config.json", codec={"hop": 5}), "codec"),
        "codec-gone": (lambda folder: shutil.rmtree(folder / "codec"), "codec"),
        "text": (edit("config.json", text="no-such-encoder"), "no-such-encoder"),
        "lacks-codec": (drop("codec"), "codec"),
        "lacks-text": (drop("text"), "text"),
    }
    for name, (change, words) in cases.items():
        folder = broken(name, change)
        line = told("generate", "x", "--seconds", 0.1, "-o", tmp_path / "out.wav", "--model", folder)
        assert words in line, f"{name}: {line}"
    for name in "no-weights", "cut", "shape", "no-config", "no-json", "type", "lacks-codec", "lacks-text":
        assert cases[name][1] in told("info", tmp_path / name)
    for name, words in {
        tmp_path / "absent": "no model folder",
        "absent": "no model folder",
        made / "lm.yaml": "is a file",
        made / "codes": "not a model folder",
    }.items():
        assert words in told("info", name)
    assert "'pocket', not 'ostinato'" in told("generate", "x", "-o", tmp_path / "x.wav", "--model", made / "codec")


def test_train_tells_mistakes(made, tmp_path, told):
    def train(*settings, path=made / "lm.yaml"):
        return told("train", path, *(f"--set={setting}" for setting in settings))

    assert "'cross-simba'" in train("model.variant=cross-samba")
    assert "did you mean 'learning_rate'" in train("train.learnin_rate=1")
    assert "train.steps" in train("train.steps=x") and "key=value" in train("train.steps")
    assert "absent.yaml" in train(path=tmp_path / "absent.yaml")
    assert "no store at" in train(f"data={tmp_path}")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in train(f"output={tmp_path / 'file' / 'run'}")
    assert "cannot be written" in train(f"output={tmp_path / 'file'}")
    assert "--fresh" in train("model.blocks=2", "train.steps=9")
    assert "holds audio" in train(f"data={made / 'audio'}", f"output={tmp_path / 'run'}")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "store.json").write_bytes((made / "codes" / "store.json").read_bytes())
    assert "no clips" in train(f"data={tmp_path / 'none'}", f"output={tmp_path / 'run'}")
    assert "T5" in train(f"text={made / 'codec' / 'step-0000002'}", f"output={tmp_path / 'run'}")
    other_rate = "model.sample_rate=16000", f"output={tmp_path / 'run'}"
    assert "--sample-rate 16000" in train(*other_rate, path=made / "codec.yaml")
    for option, value in (("--gpu", "RTX 4090"), ("--mfu", "0.3")):
        assert "add --plan" in told("train", made / "lm.yaml", f"--set=output={tmp_path / 'run'}", option, value)
    assert not list(tmp_path.rglob("step-*"))


def test_prepare_tells_mistakes(made, tmp_path, told):
    def prepare(folder=made / "music", out=tmp_path / "store", *options):
        return told("prepare", folder, out, *options)

    assert "absent" in prepare(tmp_path / "absent", tmp_path / "store", "--codec", "none", "--sample-rate", 8000)
    (tmp_path / "file").write_text("")
    (tmp_path / "quiet").mkdir()
    assert "no audio files" in prepare(tmp_path / "quiet", tmp_path / "s", "--codec", "none", "--sample-rate", 8000)
    sf.write(tmp_path / "quiet" / "silence.wav", np.zeros(16000), 8000)
    line = prepare(tmp_path / "quiet", tmp_path / "s", "--codec", "none", "--sample-rate", 8000)
    assert "no clips came of" in line and "1 silent" in line
    options = ("--codec", "none", "--sample-rate", 8000)
    assert "cannot write" in prepare(made / "music", tmp_path / "file" / "store", *options)
    assert "sample rate" in prepare(made / "music", tmp_path / "store", "--codec", "none")
    for seconds in "inf", "nan", "0", "-1":
        line = prepare(made / "music", tmp_path / "store", *options, f"--clip-seconds={seconds}")
        assert f"clips of {float(seconds)} s" in line
    assert "other settings" in prepare(made / "music", made / "audio", *options[:3], 4000)
    assert "no codec 'musicodec'" in prepare(made / "music", tmp_path / "store", "--codec", "musicodec")
    assert "config.json" in prepare(made / "music", tmp_path / "store", "--codec", tmp_path / "quiet")
    assert "'ostinato'" in prepare(made / "music", tmp_path / "store", "--codec", made / "lm")
    assert "device 'nonsense'" in prepare(
        made / "music", tmp_path / "store", "--codec", made / "codec", "--device", "nonsense"
    )


def test_clips_shorter_than_a_second(made, tmp_path, capfd):
    for codec in ("none", "--sample-rate", 8000), (made / "codec",):
        out = tmp_path / Path(codec[0]).name
        ostinato("prepare", made / "music", out, "--clip-seconds", 0.5, "--codec", *codec)
        assert "24 clips" in capfd.readouterr().out.replace("\n", " ")  # 4 files of 3 s


def test_a_pickle_that_is_no_checkpoint(tmp_path, told):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "x.ckpt")
    (tmp_path / "config.json").write_text(json.dumps({"model": {}}))
    assert "x.ckpt" in told("import-official", tmp_path / "x.ckpt", tmp_path / "config.json", tmp_path / "out")


def test_without_arguments_it_explains_itself(capfd):
    ostinato("--help")
    out = capfd.readouterr().out
    assert all(name in out for name in ("generate", "prepare", "train", "info", "import-official"))
    ostinato("generate", code=2)
    assert "the prompt is empty" in capfd.readouterr().err
    ostinato("sing", code=2)
    assert "Traceback" not in capfd.readouterr().err
