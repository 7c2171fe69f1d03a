"""No step is lost: whatever kills, fills, damages or changes a run."""

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from runs import assert_same_checkpoint, codec_run, lively, lm_run, log_of

from ostinato.data import store
from ostinato.generation.pipeline import load
from ostinato.training import checkpoint, codes_task
from ostinato.training import trainer as training
from ostinato.training.checkpoint import checkpoints
from ostinato.training.lm_task import LMTask
from ostinato.training.trainer import train
from ostinato.utils import files as folder
from ostinato.utils.errors import UserError

pytestmark = pytest.mark.slow


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def half(file):
    os.truncate(file, os.path.getsize(file) // 2)


# Where a life ends, at the n-th time it gets there; the last argument is called after or in place of the real thing.
PLACES = {
    "within a step, some micro-batches done": (LMTask, "backward", lambda real, *a: die()),
    "after the optimizer's step": (torch.optim.AdamW, "step", lambda real, *a: die(real(*a))),
    "half of model.safetensors written": (folder, "save_file", lambda real, *a: die(real(*a), half(a[1]))),
    "half of optimizers.pt written": (torch, "save", lambda real, *a: die(real(*a), half(a[1]))),
    "before training.json is written": (checkpoint, "record", lambda real, *a: die()),
    "an old checkpoint half deleted": (checkpoint.shutil, "rmtree", lambda real, path, **k: half_deleted(real, path)),
    "a line of the log torn": (training.Loop, "log", lambda real, loop, *a: torn(real, loop, *a)),
}


def half_deleted(real, path):
    if Path(path).is_dir() and Path(path).name == ".pruned":
        (Path(path) / "model.safetensors").unlink()
        die()
    real(path, ignore_errors=True)


def torn(real, loop, *arguments):
    real(loop, *arguments)
    os.truncate(loop.output / "log.jsonl", os.path.getsize(loop.output / "log.jsonl") - 9)
    die()


def live(stores, output, steps, place, n):
    """One life of a run, in this process: until its last step, or the n-th time at `place`."""
    if place:
        owner, name, ending = PLACES[place]
        real, left = getattr(owner, name), [n]

        def reached(*arguments, **options):
            left[0] -= 1
            return ending(real, *arguments, **options) if left[0] <= 0 else real(*arguments, **options)

        setattr(owner, name, reached)
    train(lively(Path(stores), output, steps=steps, checkpoint_every=3))


def serve():
    """Read lives as lines of JSON, fork each, and answer with how it ended: imports are paid for once."""
    codes_task.load_text_encoder = cache(codes_task.load_text_encoder)
    codes_task.load_text_encoder("minilm", torch.device("cpu"))
    for line in sys.stdin:
        life = json.loads(line)
        after = life.pop("after")
        pid = os.fork()
        if not pid:
            live(**life)
            os._exit(0)
        if after is not None:  # from its first line in the log on
            log = Path(life["output"]) / "log.jsonl"
            before, deadline = log.stat().st_size if log.is_file() else 0, time.monotonic() + 60
            while not (log.is_file() and log.stat().st_size > before) and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(after)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        print(json.dumps(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1), flush=True)


def test_killed_ten_times_it_is_the_same_run(stores, tmp_path):
    """SIGKILL, which nothing can handle: seven times at a place of its own, three times at any moment. Weights,
    optimizer and losses are those of a run that nobody killed."""
    chance = random.Random(time.time_ns())
    lives = [{"place": place, "n": chance.randint(1, 3), "after": None} for place in PLACES]
    lives[0]["n"] = chance.choice([2, 4, 6])  # the second micro-batch of a step
    lives += [{"place": None, "n": 0, "after": chance.uniform(0, 0.4)} for _ in range(3)]
    chance.shuffle(lives)
    code = "import sys; sys.path[:0] = sys.argv[1:]; import test_resume; test_resume.serve()"
    with open(tmp_path / "stderr", "w") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-c", code, *(p for p in sys.path if "tests" in p)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with server:
        for life in lives:
            print(
                json.dumps({"stores": str(stores), "output": str(tmp_path / "run"), "steps": 1000, **life}),
                file=server.stdin,
                flush=True,
            )
            ended = server.stdout.readline().strip()
            assert ended == str(int(signal.SIGKILL)), f"{life}: {(tmp_path / 'stderr').read_text()}"
        at = int(checkpoints(tmp_path / "run")[-1].name.removeprefix("step-"))
        assert 0 < at < 1000
        server.stdin.close()
    whole = train(lively(stores, tmp_path / "run", steps=at + 4, checkpoint_every=3))
    straight = train(lively(stores, tmp_path / "straight", steps=at + 4, checkpoint_every=3))
    assert_same_checkpoint(whole, straight)
    for kind in "train", "validation":
        found, wanted = (log_of(tmp_path / name, kind) for name in ("run", "straight"))
        assert [(line["step"], line["loss"]) for line in found] == [(line["step"], line["loss"]) for line in wanted]
    assert not list((tmp_path / "run").glob("damaged-*"))


def damaged(file):
    """Cut off, or with one bit turned over."""
    if file.suffix == ".pt":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    else:
        half(file)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizers.pt", "training.json", "codec/config.json"])
def test_the_newest_whole_checkpoint_is_used(stores, tmp_path, capsys, name):
    straight = train(lively(stores, tmp_path / "straight"))
    output = shutil.copytree(tmp_path / "straight", tmp_path / "run")
    damaged(output / straight.name / name)
    capsys.readouterr()
    again = train(lively(stores, output))
    told = " ".join(capsys.readouterr().err.split())
    assert f"{straight.name} is damaged" in told and name in told and "going on from step-0000004" in told
    assert_same_checkpoint(again, straight)
    assert (output / f"damaged-{straight.name}").is_dir()
    for old in checkpoints(output):
        damaged(old / name)
    before = sorted(p.name for p in output.iterdir())
    with pytest.raises(UserError, match=rf"no checkpoint in .* is whole \(step-0000008: .*{name}.*--fresh"):
        train(lively(stores, output, steps=12))
    assert sorted(p.name for p in output.iterdir()) == before


def test_checkpoints_of_other_versions(stores, tmp_path):
    """One of another format is refused, and neither passed over nor changed."""
    train(lively(stores, tmp_path / "run", steps=4))
    path = tmp_path / "run" / "step-0000004" / "training.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"format": 99}))
    with pytest.raises(UserError, match=r"step-0000004 is of format 99, .* reads 2: update"):
        train(lively(stores, tmp_path / "run"))
    path.write_text(json.dumps({key: told[key] for key in ("step", "seed", "run")}))
    with pytest.raises(UserError, match=r"step-0000004 is of format 1, .* reads 2: .*, and begin with --init"):
        train(lively(stores, tmp_path / "run"))
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-0000004"]


def test_a_full_disk_loses_nothing(stores, tmp_path, monkeypatch):
    """The kernel refuses to write on (a limit of file size stands for the disk's); with room again the run goes on."""
    straight = train(lively(stores, tmp_path / "straight"))
    real, calls, (_, most) = checkpoint.write_checkpoint, [], resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_full_disk(*arguments):
        calls.append(1)
        if len(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, most))
        try:
            real(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_checkpoint", on_a_full_disk)
        patch.setattr(training.Loop, "rescue", lambda loop, error: (_ for _ in ()).throw(error))
        with pytest.raises(UserError, match=r"step-0000008 could not be written.*make room"):
            train(lively(stores, tmp_path / "run"))
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-0000004"]
    assert not (tmp_path / "run" / ".checkpoint").exists()
    assert_same_checkpoint(train(lively(stores, tmp_path / "run")), straight)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_log_that_cannot_be_written(stores, tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"log in .* cannot be written \(No space.*step 1 is saved"):
        train(lm_run(stores, tmp_path))
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000001"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_goes_is_told_and_the_steps_are_saved(stores, tmp_path, monkeypatch, workers):
    data, original, calls = shutil.copytree(stores / "codes", tmp_path / "codes"), LMTask.backward, []

    def going(task, *arguments):
        calls.append(1)
        if len(calls) == 5:
            os.rename(data, tmp_path / "away")
        return original(task, *arguments)

    monkeypatch.setattr(LMTask, "backward", going)
    monkeypatch.setattr(store, "_parquet", store._parquet.__wrapped__)  # else a file once open is read on, gone or not
    run = dataclasses.replace(lively(stores, tmp_path / "run", workers=workers), data=str(data))
    with pytest.raises(UserError, match=r"cannot be read any more.*put the store back; step \d is saved") as error:
        train(run)
    assert "\n" not in str(error.value) and len(checkpoints(tmp_path / "run")) == 1
    os.rename(tmp_path / "away", data)
    straight = train(lively(stores, tmp_path / "straight"))
    assert_same_checkpoint(train(run), straight)


def test_what_others_do_in_the_folder(stores, tmp_path, capsys):
    """A checkpoint copied by another name is not gone on from, nor pruned; one that lost training.json is told, not
    passed over in silence; lines of the log that a power cut tore are no obstacle."""
    straight = train(lively(stores, tmp_path / "straight"))
    output = tmp_path / "run"
    train(lively(stores, output, steps=4))
    copy = shutil.copytree(output / "step-0000004", output / "step-0000004 good")
    shutil.copytree(straight, output / straight.name)
    (output / straight.name / "training.json").unlink()
    with open(output / "log.jsonl", "a") as log:
        log.write('\0\0\0\n{"step": 3, "ki\n{"step": 4}')
    again = train(lively(stores, output, keep=1))
    assert f"{straight.name} is damaged (training.json" in " ".join(capsys.readouterr().err.split())
    assert_same_checkpoint(again, straight)
    assert copy.is_dir() and [line["step"] for line in log_of(output)] == list(range(1, 9))


def test_what_has_changed_is_told_or_refused(stores, tmp_path, capsys):
    first = train(lm_run(stores, tmp_path / "run", train={"steps": 2}))
    moved = shutil.copytree(stores / "codes", tmp_path / "moved")
    capsys.readouterr()
    safe = lm_run(stores, tmp_path / "run", {"dropout": 0.2}, {"steps": 3, "learning_rate": 1e-3, "betas": (0.5, 0.9)})
    last = train(dataclasses.replace(safe, data=str(moved), prompts=("a tune",), sample_seconds=0.1))
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.replace("\n", " ").split("since ")][1:]
    told = {line.split(", ", 1)[1].split(": ")[0] for line in lines}
    wanted = {"train.steps", "train.learning_rate", "train.betas", "model.dropout", "data", "prompts", "sample_seconds"}
    assert told == wanted and "train.steps: 2 → 3" in lines[[*map(lambda l: "train.steps" in l, lines)].index(True)]
    states = torch.load(last / "optimizers.pt", weights_only=True)
    assert {group["betas"] for group in states["lm"][0]["param_groups"]} == {(0.5, 0.9)}  # the new ones are in force
    train(lm_run(stores, tmp_path / "run", train={"steps": 1}))  # done long ago: also then
    assert "train.steps: 3 → 1" in capsys.readouterr().err
    refused = {
        "model.width: 32 → 64": lm_run(stores, tmp_path / "run", {"width": 64}),
        "model.pattern: delay → flatten": lm_run(stores, tmp_path / "run", {"pattern": "flatten"}),
        "lora: 0 → 2": lm_run(stores, tmp_path / "run", lora=2, init=str(first)),
        "task: lm → codec": codec_run(stores, tmp_path / "run"),
    }
    for words, run in refused.items():
        with pytest.raises(UserError, match=f"is of another run.*{words}"):
            train(run)
    assert checkpoints(tmp_path / "run")[-1] == last


def test_checkpoints_for_tables_stay_as_weights(stores, tmp_path):
    """Every `keep_every`-th step, beside the newest `keep`: it plays as it did, without optimizers, and is not
    gone on from."""
    often = {"checkpoint_every": 1, "validate_every": 9, "keep": 1}
    run = lively(stores, tmp_path / "run", **often, keep_every=3)
    last = train(run)
    full = {folder.name: (folder / "optimizers.pt").is_file() for folder in checkpoints(last.parent)}
    assert full == {"step-0000003": False, "step-0000006": False, "step-0000008": True}
    run_folder = last.parent
    light = run_folder / "step-0000006"
    assert "optimizers.pt" not in checkpoint.read_whole(light)["files"]
    there = train(lively(stores, tmp_path / "there", steps=6))  # its schedule is flat
    assert (light / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
    assert load(light).generate("a tune", 0.1).codes.shape == load(there).generate("a tune", 0.1).codes.shape
    shutil.copy(last / "optimizers.pt", light)  # killed before it was deleted
    checkpoint.prune(run_folder, 1, 3)
    assert not (light / "optimizers.pt").is_file()
    shutil.rmtree(last)
    with pytest.raises(UserError, match=r"step-0000006 has its weights only.*--init"):
        train(run)
    checkpoint.prune(run_folder, 1)  # no longer asked for
    assert [folder.name for folder in checkpoints(run_folder)] == ["step-0000006"]
