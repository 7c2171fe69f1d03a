"""Two stages as one model: one folder, one sound whether whole or streamed, from the command line as from Python."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import soundfile as sf
import torch
from runs import lm_run
from test_evaluate import MelEars, by_name, settings
from test_fine import fine_run
from typer.testing import CliRunner

import ostinato
from ostinato.cli import app
from ostinato.cli.train import train as train_command
from ostinato.data.store import open_store
from ostinato.evaluation.evaluate import evaluate
from ostinato.evaluation.prompts import load_prompts
from ostinato.evaluation.reporting.report import report
from ostinato.generation.info import describe
from ostinato.generation.join import join
from ostinato.generation.settings import Sampling
from ostinato.training.checkpoint import checkpoints
from ostinato.training.config import load_run, stage_runs
from ostinato.training.lm_task import LMTask
from ostinato.training.trainer import train
from ostinato.utils.audio import read_audio, write_audio
from ostinato.utils.errors import UserError

pytestmark = pytest.mark.slow


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


def test_kept_in_a_file_it_goes_on_and_further(folder, tmp_path):
    """Interrupted at any frame, then shorter, then longer: the clip that one call makes, to the bit."""
    model, state = ostinato.load(folder), tmp_path / "state"
    wanted = model.generate("a tune", 1.3, seed=5)

    def stop(done, count):
        if done == 17:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ostinato.generation.keeping.LEAST", 0.0)
        patch.setattr("ostinato.generation.keeping.SHARE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            model.generate("a tune", 1.0, seed=5, on_frame=stop, state=state)
    seen = []
    for seconds in (0.2, 0.8, 1.3):
        clip = model.generate("a tune", seconds, seed=5, on_frame=lambda done, _: seen.append(done), state=state)
        assert torch.equal(clip.codes, model.generate("a tune", seconds, seed=5).codes)
    assert torch.equal(clip.codes, wanted.codes) and torch.equal(clip.audio, wanted.audio)
    assert seen[0] == 10 and seen[1] in (16, 17) and sorted(seen) == seen  # what was made is not made again
    for changed in ({"seed": 6}, {"settings": Sampling(temperature=0.5)}, {"prompt": "another"}):
        with pytest.raises(UserError, match="holds another generation"):
            model.generate(**{"prompt": "a tune", "seconds": 1.0, "seed": 5, "state": state} | changed)


def test_guidance_leads_away_from_the_negative_text(folder, tmp_path):
    """It takes the empty text's place in both stages, and is in the recipe of the file."""
    model = ostinato.load(folder)
    away, plain = (Sampling(guidance=300.0, temperature=0.0, negative=n) for n in ("loud drums", ""))
    clips = [model.generate("a tune", 0.6, seed=1, settings=s) for s in (away, plain)]
    read = []
    text = model.text
    model.text = lambda texts: read.append(texts) or text(["" if t == "loud drums" else t for t in texts])
    model.fine.text = None
    assert torch.equal(model.generate("a tune", 0.6, seed=1, settings=away).codes, clips[1].codes)
    assert read.count(["loud drums"]) == 1 and not torch.equal(clips[0].codes, clips[1].codes)
    with pytest.raises(UserError, match="negative"):
        Sampling(guidance=1.0, negative="loud drums")


def test_one_folder_plays_and_is_saved_again(runs, folder, tmp_path):
    assert json.loads((folder / "config.json").read_text())["codec"] == "codec"
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    clip = ostinato.load(folder).generate("a tune", 1.3, seed=5)
    assert clip.codes.shape == (3, 65) and clip.audio.shape == (1, 65 * 160)
    model = ostinato.load(moved)
    assert torch.equal(model.generate("a tune", 1.3, seed=5).codes, clip.codes)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(ostinato.load(tmp_path / "again").generate("a tune", 1.3, seed=5).codes, clip.codes)
    model.fine.sampling = dataclasses.replace(model.fine.sampling, steps=3, snapped=False)
    model.sampling = dataclasses.replace(model.sampling, guidance=1.5)
    model.save_pretrained(tmp_path / "again")
    again = ostinato.load(tmp_path / "again")
    assert (again.sampling, again.fine.sampling) == (model.sampling, model.fine.sampling)
    told = describe(folder)
    assert told["type"] == "two stages" and told["lm: trained"] == "1 steps, seed 0" and "fine: delay" in told
    (folder.parent / f".{folder.name}.tmp").mkdir()  # as of one that was killed
    join(runs / "lm", runs / "fine", folder)  # again, over the earlier one
    assert sorted(p.name for p in folder.parent.iterdir()) == ["fine", "joint", "lm"]


@pytest.mark.parametrize("snapped", [True, False])
def test_a_stream_is_the_clip_and_follows_within_a_window(folder, snapped):
    model = ostinato.load(folder)
    model.fine.sampling = dataclasses.replace(model.fine.sampling, snapped=snapped)
    clip = model.generate("a tune", 2.0, seed=1)
    drawn, sound, waited = [], [], 0
    for piece in model.play("a tune", seed=1, seconds=2.0, on_frame=lambda done, count: drawn.append(done)):
        waited = max(waited, len(drawn) - sum(map(len, (p[0] for p in sound))) // 160)
        sound.append(piece)
    torch.testing.assert_close(torch.cat(sound, -1), clip.audio, atol=1e-4, rtol=0)
    window, _ = model.fine.frames(model.fine.sampling)
    assert waited <= window + model.codec.lookahead + 10  # a piece is 10 frames
    first = [codes for codes, _ in zip(model.stream("a tune", seed=1), range(7), strict=False)]
    assert torch.equal(torch.stack(first, 1)[:1], clip.codes[:1, :7])


def test_clips_of_a_list_and_continuations(folder):
    model = ostinato.load(folder)
    both = model.generate(["a tune", "another one"], 0.8, seed=1)
    assert torch.equal(model.generate("another one", 0.8, seed=2).codes[:1], both[1].codes[:1])
    on, same = (model.generate("a tune", 0.5, 1, None, given) for given in (both[0].codes, both[0].codes[None]))
    assert torch.equal(on.codes, same.codes)
    assert on.codes.shape == (3, 65) and torch.equal(on.codes[:, :40], both[0].codes)
    with pytest.raises(UserError, match=r"\[3, frames\]"):
        model.generate("a tune", 0.5, continue_from=both[0].codes[None, :1])


def test_latents_are_heard_as_they_were_drawn_and_codes_are_the_same(folder):
    model = ostinato.load(folder)
    before = model.generate("a tune", 0.4, seed=2)
    codes = model.generate("a tune", 1.0, 1, None, before.codes).codes
    coarse = [frame[None, :1] for frame in codes[:, 20:].unbind(1)]
    text, empty = model.text(["a tune"]), model.text([""])
    given = before.codes[None]
    drawn = [latents for _, latents in model.fine.latents(coarse, text, empty, [1], prompt_codes=given)]
    first = model.codec.codes_to_latents(codes[None, :1, 20:])
    whole = torch.cat([model.codec.codes_to_latents(given), torch.cat([first, torch.cat(drawn, -1)], 1)], -1)
    model.fine.sampling = dataclasses.replace(model.fine.sampling, snapped=False)
    clip = model.generate("a tune", 1.0, 1, None, before.codes)
    assert torch.equal(clip.codes, codes)
    torch.testing.assert_close(clip.audio, model.codec.decode_latents(whole)[0].clamp(-1, 1))
    assert (clip.audio - model.codec.decode(codes[None])[0]).abs().max() > 1e-3


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


def test_stages_that_do_not_fit(runs, folder, stores, tmp_path):
    several = train(lm_run(stores, tmp_path / "lm", train={"steps": 1}))
    with pytest.raises(UserError, match="writes 1 codebook, this language model 3"):
        join(several, runs / "fine", tmp_path / "joint")
    with pytest.raises(UserError, match="not a fine stage"):
        join(runs / "lm", runs / "lm", tmp_path / "joint")
    kept = shutil.copytree(folder, tmp_path / "kept")
    (kept / "README.md").write_text("a card")
    with pytest.raises(UserError, match=r"more than a joint model \(README.md\)"):
        join(runs / "lm", runs / "fine", kept)
    assert (kept / "README.md").is_file() and ostinato.load(kept)
    with pytest.raises(UserError, match="is not empty"):
        join(runs / "lm", runs / "fine", stores)
    other = shutil.copytree(next((runs / "fine").glob("step-*")), tmp_path / "fine")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"codec_id": "0" * 16}))
    with pytest.raises(UserError, match="train them on one store"):
        join(runs / "lm", other, tmp_path / "joint")


def test_a_stage_of_a_joint_model_stands_alone(stores, folder, tmp_path):
    """It can be joined again, begun with, played and saved."""
    again = join(folder, folder, tmp_path / "again")
    clip = ostinato.load(folder).generate("a tune", 0.4)
    assert torch.equal(ostinato.load(again).generate("a tune", 0.4).codes, clip.codes)
    alone = ostinato.load(folder / "lm")
    alone.save_pretrained(tmp_path / "alone")
    same = shutil.copytree(tmp_path / "alone", tmp_path / "elsewhere" / "deep")
    assert torch.equal(ostinato.load(same).generate("a tune", 0.4).codes, clip.codes[:1])
    given = {"init": str(folder), "data": str(stores / "codes")}
    run = load_run(None, [], given)
    assert run.sampling == alone.sampling
    assert load_run(None, ["sampling.guidance=7"], given).sampling == dataclasses.replace(alone.sampling, guidance=7.0)
    assert run.model.num_codebooks == 1 and Path(run.codec) == (folder / "codec").resolve()
    (tmp_path / "fine.yaml").write_text("task: fine\nmodel: {}\nsampling: {window: 0.5, overlap: 0.1}\n")
    assert load_run(tmp_path / "fine.yaml", [], given | {"output": "x"}).model.denoiser == "simba"
    (tmp_path / "codec.yaml").write_text("task: codec")
    audio = {"data": str(stores / "audio"), "output": "x", "init": str(folder)}
    assert load_run(tmp_path / "codec.yaml", ["clip_seconds=2"], audio).model.num_codebooks == 3


def test_a_join_that_fails_leaves_what_was_there(runs, folder, tmp_path, monkeypatch):
    kept = shutil.copytree(folder, tmp_path / "kept")
    before = {p: p.read_bytes() for p in kept.rglob("*") if p.is_file()}

    def full(path, write):
        raise UserError(f"cannot write {path} (No space left on device)")

    monkeypatch.setattr("ostinato.generation.join.write_atomic", full)
    for out in (kept, tmp_path / "new"):
        with pytest.raises(UserError, match="No space left"):
            join(runs / "lm", runs / "fine", out)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert {p: p.read_bytes() for p in kept.rglob("*") if p.is_file()} == before


def test_steps_and_windows_are_settings_of_the_model(folder):
    model = ostinato.load(folder)
    model.fine.sampling = dataclasses.replace(model.fine.sampling, sampler="ddpm", steps=4)
    codes = [model.generate("a tune", 0.5, seed=s).codes for s in (1, 1, 2)]
    assert torch.equal(codes[0], codes[1]) and not torch.equal(codes[0], codes[2])


@pytest.fixture
def ask(stores, tmp_path, monkeypatch):
    """Evaluates targets on three sentences, of which two have a recording."""
    monkeypatch.setattr("ostinato.evaluation.evaluate.load_listener", lambda spec, device="cpu": MelEars())
    (tmp_path / "prompts.csv").write_text("name,caption\nabsent,nothing\nrise,a rising one\nfall,a falling one\n")
    prompts = load_prompts(str(tmp_path / "prompts.csv"))

    def ask(*targets, reference=stores / "music", **changes):
        asked = settings(tmp_path, seconds=1, seed=7, metrics=("fd",), **changes)
        return prompts, evaluate([str(t) for t in targets], prompts, reference, tmp_path / "out", asked)

    return ask


def test_clips_of_other_settings_are_not_taken_for_these(ask, folder, tmp_path):
    mine = shutil.copytree(folder, tmp_path / "mine")
    ask(f"mine={mine}", reference=None)
    for part, change in (("fine", {"snapped": False}), ("lm", {"guidance": 1.5})):
        path = mine / part / "config.json"
        before = path.read_text()
        config = json.loads(before)
        path.write_text(json.dumps(config | {"sampling": config.get("sampling", {}) | change}))
        with pytest.raises(UserError, match="made otherwise"):
            ask(f"mine={mine}", reference=None)
        path.write_text(before)


@pytest.mark.parametrize("snapped", [True, False])
def test_oracles_tell_the_stages_apart(ask, stores, folder, tmp_path, snapped):
    """Rows of their own: the real first codebook, that and the fine stage (as the model would play on), all codebooks;
    shared where codec and fine stage are."""
    model = ostinato.load(folder)
    model.fine.sampling = dataclasses.replace(model.fine.sampling, snapped=snapped)
    model.save_pretrained(folder := tmp_path / "simba")
    twin = shutil.copytree(folder, tmp_path / "twin")
    prompts, results = ask(f"simba={folder}", f"twin={twin}", codec=str(stores / "codec"), codebooks=(2, 3))
    rows = by_name(results)
    oracle = "real, 1 of 3 codebooks and the fine stage of simba"
    through = [f"real, {of}, {n} of 3 codebooks" for of, n in (("codec", 2), ("codec", 3), ("codec of simba", 1))]
    assert list(rows) == ["real", *through, oracle, "simba", "twin"]
    assert [row["clips"] for row in rows.values()] == [2] * 5 + [3] * 2
    assert rows[oracle]["notes"] == ["twin has the same fine stage"]
    clips = tmp_path / "out" / "clips"
    refined = Path(rows[oracle]["folder"])
    for i, p in enumerate(prompts.prompts):
        if p.name != "absent":
            source = next((stores / "music").glob(f"{p.name}.*"))
            real = model.codec.encode(read_audio(source, 8000, seconds=1)[None])[:, :1]
            text, empty = model.text([p.text]), model.text([""])
            heard = torch.cat([h for _, h in model.fine.refine(real.unbind(-1), text, empty, [7 + i])], -1)
            decode = model.codec.decode if snapped else model.codec.decode_latents
            write_audio(tmp_path / "wanted.wav", decode(heard)[0].clamp(-1, 1), 8000)
            assert (refined / f"{p.name}.wav").read_bytes() == (tmp_path / "wanted.wav").read_bytes()
    kept = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in clips.rglob("*.wav")}
    (refined / "rise.wav").unlink()
    _, again = ask(f"simba={folder}", f"twin={twin}", codec=str(stores / "codec"), codebooks=(2, 3))
    assert by_name(again)[oracle]["scores"] == rows[oracle]["scores"]
    assert {p: p.read_bytes() for p in kept} == {p: sound for p, (sound, _) in kept.items()}
    assert [p for p, (_, time) in kept.items() if p.stat().st_mtime_ns != time] == [refined / "rise.wav"]


def test_a_report_has_two_stages_in_their_place(ask, folder, tmp_path):
    _, results = ask(f"mine={folder}")
    about = by_name(results)["mine"]["about"]
    assert about["step"] == 1 and 0 < about["fine_parameters"] < about["parameters"]
    text = report([tmp_path / "out"], [], tmp_path / "report")[0].read_text()
    second = text.partition("## Table II:")[2].partition("## Table IV")[0]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in second.splitlines() if "ours:" in line]
    sizes = f"{(about['parameters'] - about['fine_parameters']) / 1e6:.1f} M + {about['fine_parameters'] / 1e6:.1f} M"
    assert [(line[0].partition(" (ours")[0], *line[1:3]) for line in lines] == [
        ("GT (1 layer)", "", ""),
        ("GT (3 layers)", "", ""),
        ("GT (1 layer)/Diffusion", f"{about['fine_parameters'] / 1e6:.1f} M", ""),
        ("Prefix SiMBA/Diffusion", sizes, "1"),
    ]


def test_no_recordings_no_oracles(ask, stores, folder, tmp_path):
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    shutil.copy(stores / "music" / "held.wav", strangers)
    for reference in (None, strangers):
        _, results = ask(f"simba={folder}", reference=reference)
        assert [row["name"] for row in results["rows"]] == ["simba"]


def test_one_command_goes_on_with_both_stages(stores, folder, tmp_path):
    """`ostinato train --init MODEL --data STORE`: a run for each stage, resumed likewise, and one model of both."""
    out = tmp_path / "mine"

    def command(steps, *more):
        small = [f"train.steps={steps}", "train.batch=2", "train.checkpoint_every=1", "sample_seconds=0.5"]
        small += ["sample_clips=1", "label_smoothing=0.1", "sampling.guidance=2.5"]
        options = [word for setting in small for word in ("--set", setting)]
        asked = ["train", "--init", str(folder), "--data", str(stores / "codes"), "--output", str(out)]
        return CliRunner().invoke(app, [*asked, *options, *more], env={"COLUMNS": "300"})

    planned = command(1, "--plan")
    assert planned.exit_code == 0 and not list(tmp_path.iterdir())
    assert "codebooks: 1, single" in planned.output and "codebooks: 2 to 3" in planned.output
    done = command(1)
    assert done.exit_code == 0 and done.stdout.splitlines()[-1] == str(out)
    first = ostinato.load(out)
    assert first.sampling.guidance == 2.5 and first.fine.sampling == ostinato.load(folder).fine.sampling
    told = [
        json.loads((tmp_path / f"mine-{stage}" / "step-0000001" / "training.json").read_text())["run"]
        for stage in STAGES
    ]
    assert [(run["task"], run["clip_seconds"]) for run in told] == [("lm", 10.0), ("fine", 6.0)]
    assert command(2).exit_code == 0
    second = ostinato.load(out)  # of the newest of both
    assert not torch.equal(first.lm.state_dict()["norm.weight"], second.lm.state_dict()["norm.weight"])
    with pytest.MonkeyPatch.context() as patch:  # stopped in the first stage: the second one's old run is gone, too
        patch.setattr(LMTask, "backward", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert command(2, "--fresh").exit_code
    assert not checkpoints(tmp_path / "mine-fine") and torch.equal(
        *(generated(m) for m in (second, ostinato.load(out)))
    )
    given = {"init": str(folder), "data": str(stores / "codes"), "output": str(out)}
    few = tmp_path / "few"
    few.mkdir()
    (few / "store.json").write_text(json.dumps(open_store(stores / "codes").info | {"num_codebooks": 2}))
    with pytest.raises(UserError, match=r"fine stage of .* is for 3 codebooks, .* has 2"):
        stage_runs([], given | {"data": str(few)}, str(tmp_path / "x"))
    with pytest.raises(UserError, match="holds a model"):  # one stage, where the joint model is
        train(load_run(None, ["task=fine"], given))
    with pytest.raises(UserError, match="is not empty"):  # and both, where a run is
        train_command(None, *(given | {"output": str(tmp_path / "mine-lm")}).values())


STAGES = ("lm", "fine")


def generated(model):
    return model.generate("a tune", 0.5, seed=1).codes
