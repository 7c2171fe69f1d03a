"""Two stages as one model: one folder, one sound whether whole or streamed, from the command line as from Python."""

import dataclasses
import json
import shutil

import pytest
import soundfile as sf
import torch
from runs import lm_run
from test_fine import fine_run
from typer.testing import CliRunner

import ostinato
from ostinato.cli import app
from ostinato.errors import UserError
from ostinato.model import describe
from ostinato.train import train
from ostinato.two_stage import join


@pytest.fixture(scope="module")
def runs(stores, tmp_path_factory):
    """A run of a language model of one codebook, and one of a fine stage with averaged weights."""
    root = tmp_path_factory.mktemp("two")
    train(lm_run(stores, root / "lm", {"num_codebooks": 1, "pattern": "single"}, {"steps": 1}))
    train(fine_run(stores, root / "fine", "simba", {"steps": 1, "validate_every": 1}))
    return root


@pytest.fixture(scope="module")
def folder(runs):
    return join(runs / "lm", runs / "fine", runs / "joint")


def test_one_folder_plays_and_is_saved_again(runs, folder, tmp_path):
    assert json.loads((folder / "config.json").read_text())["codec"] == "codec"
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    clip = ostinato.load(folder).generate("a tune", 1.3, seed=5)
    assert clip.codes.shape == (3, 65) and clip.audio.shape == (1, 65 * 160)
    model = ostinato.load(moved)
    assert torch.equal(model.generate("a tune", 1.3, seed=5).codes, clip.codes)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(ostinato.load(tmp_path / "again").generate("a tune", 1.3, seed=5).codes, clip.codes)
    told = describe(folder)
    assert told["type"] == "two stages" and told["lm: trained"] == "1 steps, seed 0" and "fine: delay" in told
    join(runs / "lm", runs / "fine", folder)  # again, over the earlier one


def test_a_stream_is_the_clip_and_follows_within_a_window(folder):
    model = ostinato.load(folder)
    clip = model.generate("a tune", 2.0, seed=1)
    drawn, sound, waited = [], [], 0
    for piece in model.play("a tune", seed=1, seconds=2.0, on_frame=lambda done, count: drawn.append(done)):
        waited = max(waited, len(drawn) - sum(map(len, (p[0] for p in sound))) // 160)
        sound.append(piece)
    torch.testing.assert_close(torch.cat(sound, -1), clip.audio, atol=1e-4, rtol=0)
    window, _ = model.fine.frames(model.fine.sampling)
    assert waited <= window + model.codec.context + 10  # a piece is 10 frames
    first = [codes for codes, _ in zip(model.stream("a tune", seed=1), range(7), strict=False)]
    assert torch.equal(torch.stack(first, 1)[:1], clip.codes[:1, :7])


def test_clips_of_a_list_and_continuations(folder):
    model = ostinato.load(folder)
    both = model.generate(["a tune", "another one"], 0.8, seed=1)
    assert torch.equal(model.generate("another one", 0.8, seed=2).codes[:1], both[1].codes[:1])
    on = model.generate("a tune", 0.5, seed=1, continue_from=both[0].codes[None])
    assert on.codes.shape == (3, 65) and torch.equal(on.codes[:, :40], both[0].codes)
    with pytest.raises(UserError, match=r"\[1, 3, frames\]"):
        model.generate("a tune", 0.5, continue_from=both[0].codes[None, :1])


def test_the_command_line(runs, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)

    joined = run("join", runs / "lm", runs / "fine", tmp_path / "joint")
    assert joined.exit_code == 0, joined.output
    wav = tmp_path / "out.wav"
    made = run("generate", "a tune", "--seconds", 0.6, "--model", tmp_path / "joint", "--steps", 3, "-o", wav)
    assert made.exit_code == 0, made.output
    assert sf.info(wav).frames == 30 * 160
    refused = run("generate", "a tune", "--seconds", 0.6, "--model", runs / "lm", "--steps", 3, "-o", wav)
    assert isinstance(refused.exception, UserError) and "two stages" in str(refused.exception)


def test_stages_that_do_not_fit(runs, stores, tmp_path):
    several = train(lm_run(stores, tmp_path / "lm", train={"steps": 1}))
    with pytest.raises(UserError, match="writes 1 codebook, this language model 3"):
        join(several, runs / "fine", tmp_path / "joint")
    with pytest.raises(UserError, match="not a fine stage"):
        join(runs / "lm", runs / "lm", tmp_path / "joint")
    with pytest.raises(UserError, match="is not empty"):
        join(runs / "lm", runs / "fine", stores)
    other = shutil.copytree(next((runs / "fine").glob("step-*")), tmp_path / "fine")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"codec_id": "0" * 16}))
    with pytest.raises(UserError, match="train them on one store"):
        join(runs / "lm", other, tmp_path / "joint")


def test_steps_and_windows_are_settings_of_the_model(folder):
    model = ostinato.load(folder)
    model.fine.sampling = dataclasses.replace(model.fine.sampling, sampler="ddpm", steps=4)
    codes = [model.generate("a tune", 0.5, seed=s).codes for s in (1, 1, 2)]
    assert torch.equal(codes[0], codes[1]) and not torch.equal(codes[0], codes[2])
