"""Several processes train what one does: run by torchrun, on CPUs with gloo."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import soundfile as sf
from runs import lm_run, log_of
from safetensors.torch import load_file
from test_fine import fine_run
from tiny import melody

from ostinato.cli.train import train as train_command
from ostinato.codecs.base import fingerprint
from ostinato.codecs.load import load_codec
from ostinato.data.prepare import prepare
from ostinato.generation.join import join
from ostinato.generation.pipeline import load
from ostinato.training import compilation
from ostinato.training.checkpoint import checkpoints
from ostinato.training.compilation import compile_parts
from ostinato.training.lm_task import LMTask
from ostinato.training.trainer import train

pytestmark = pytest.mark.slow


def run_on(root, name, batch, **changes):
    """Clips of several lengths, dropped captions, accumulation, validation clips that do not divide evenly."""
    hyper = {"steps": 6, "batch": batch, "accumulation": 2, "validate_every": 3, "checkpoint_every": 3, "ema": 0.9}
    model = {"dropout": 0.0, "blocks": 2, "variant": changes.pop("variant", "prefix-simba")}
    run = lm_run(root, root / name, model, hyper | changes, text_dropout=0.5, prompts=("a tune",), sample_seconds=0.1)
    return dataclasses.replace(run, data=str(root / "uneven"))


def fine_on(root, name, kind, **changes):
    hyper = {"steps": 3, "batch": 2, "accumulation": 2, "validate_every": 3, "checkpoint_every": 3, "ema": 0.9}
    run = fine_run(root, root / name, kind, hyper | changes, clip_seconds=2.0)
    return dataclasses.replace(run, data=str(root / "uneven"))


def work(root):
    """What each of two processes does: one run after another; in the last, one of them is asked to stop."""
    root, rank = Path(root), int(os.environ["RANK"])
    compilation.compile_parts = partial(compile_parts, backend="eager")  # captured by Dynamo, and no compiler needed
    for run in (
        run_on(root, "copied", 2),
        run_on(root, "sharded", 2, shard=True, checkpointing=True, steps=3),
        run_on(root, "sharded", 2, shard=True, checkpointing=True),  # resumed
        run_on(root, "compiled", 2, shard=True, compile=True),
        *(
            fine_on(root, f"{kind}-{name}", kind, shard=sharded, checkpointing=sharded, compile=True)
            for kind in ("unet", "simba")
            for name, sharded in (("copied", False), ("sharded", True))
        ),
    ):
        train(run)
    train(run_on(root, "cross", 2, shard=True, steps=2, variant="cross-simba"))
    original, calls = LMTask.backward, []

    def asked(task, *arguments):
        calls.append(1)
        if len(calls) == 3 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(task, *arguments)

    LMTask.backward = asked
    try:
        train(run_on(root, "stopped", 2))
    except KeyboardInterrupt:
        (root / f"stopped-{rank}").write_text("")
    LMTask.backward = original
    small = ["train.steps=2", "train.batch=1", "clip_seconds=0.5", "sample_seconds=0.5", "sample_clips=1"]
    train_command(None, str(root / "joint"), str(root / "uneven"), str(root / "both"), setting=small)


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    (root / "music").mkdir()
    rows = ["path,split,caption"]
    for i, seconds in enumerate((2.0, 1.1, 0.7, 1.6, 1.3, 0.6, 0.9, 1.7)):
        sf.write(root / "music" / f"{i}.wav", melody(seconds, (0, i, 2 * i), seed=i), 8000)
        rows.append(f"{i}.wav,{'validation' if i > 4 else 'train'},tune number {i}")
    (root / "music" / "captions.csv").write_text("\n".join(rows))
    codec = load_codec(stores / "codec")
    asked = {"clip_seconds": 2.0, "min_seconds": 0.5, "progress": False}
    prepare(root / "music", root / "uneven", codec, str(stores / "codec"), fingerprint(codec), **asked)
    script = root / "work.py"
    script.write_text(
        f"import sys; sys.path[:0] = {[p for p in sys.path if p.startswith(str(Path(__file__).parents[1]))]!r}\n"
        f"import test_processes; test_processes.work({str(root)!r})\n"
    )
    first = lm_run(stores, root / "first", {"num_codebooks": 1, "pattern": "single"}, {"steps": 1})
    join(train(first), train(fine_run(stores, root / "second", "simba", {"steps": 1})), root / "joint")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    (root / "stdout").write_text(done.stdout)
    return root


def test_the_command_trains_both_stages_and_prints_their_model_once(trained):
    assert (trained / "stdout").read_text().splitlines().count(str(trained / "both")) == 1
    assert [checkpoints(trained / f"both-{stage}")[-1].name for stage in ("lm", "fine")] == ["step-0000002"] * 2
    assert load(trained / "both").generate("a tune", 0.2).codes.shape == (3, 10)


@pytest.mark.parametrize("name", ["copied", "sharded", "compiled"])
def test_two_processes_with_half_the_batch_give_the_curve_of_one(trained, name):
    if not (trained / "alone").is_dir():
        train(run_on(trained, "alone", 4))
    for kind in "train", "validation", "validation_ema":
        found, wanted = (log_of(trained / run, kind) for run in (name, "alone"))
        assert [line["step"] for line in found] == [line["step"] for line in wanted] != []
        for one, other in zip(found, wanted, strict=True):
            keys = {key for key in other if "loss" in key or "norm" in key or "codebook" in key}
            assert {k: one[k] for k in keys} == pytest.approx({k: other[k] for k in keys}, rel=2e-4)
    folders = [checkpoints(trained / run)[-1] for run in (name, "alone")]
    for file in "model.safetensors", "ema.safetensors":
        one, other = (load_file(folder / file) for folder in folders)
        assert one.keys() == other.keys()
        apart = max((one[key] - other[key]).abs().max().item() for key in other)
        assert apart < 2e-4, apart
    assert load(trained / name).generate("a tune", 0.2).codes.shape == (3, 10)
    samples = [sorted(p.name for p in (trained / run / "samples").rglob("*")) for run in (name, "alone")]
    assert samples[0] == samples[1] != []


@pytest.mark.parametrize("kind", ["unet", "simba"])
def test_a_fine_stage_trains_the_same_whether_copied_or_sharded(trained, kind):
    """Not what one process trains: noise is drawn by each."""
    found, wanted = (
        [*log_of(trained / f"{kind}-{name}"), *log_of(trained / f"{kind}-{name}", "validation_ema")]
        for name in ("sharded", "copied")
    )
    for one, other in zip(found, wanted, strict=True):
        keys = {key for key in other if "loss" in key or "norm" in key or "mel" in key}
        assert keys and {k: one[k] for k in keys} == pytest.approx({k: other[k] for k in keys}, rel=2e-4)
    folders = [checkpoints(trained / f"{kind}-{name}")[-1] for name in ("sharded", "copied")]
    for file in "model.safetensors", "ema.safetensors":
        one, other = (load_file(folder / file) for folder in folders)
        assert one.keys() == other.keys()
        assert max((one[key] - other[key]).abs().max().item() for key in other) < 2e-4


def test_one_asked_to_stop_all_stop_and_it_is_saved_once(trained):
    assert {p.name for p in trained.glob("stopped-*")} == {"stopped-0", "stopped-1"}
    assert [p.name for p in checkpoints(trained / "stopped")] == ["step-0000002"]
    train(run_on(trained, "stopped", 4))  # goes on alone
    last, straight = (checkpoints(trained / name)[-1] for name in ("stopped", "copied"))
    one, other = (load_file(folder / "model.safetensors") for folder in (last, straight))
    assert max((one[key] - other[key]).abs().max().item() for key in other) < 2e-4
    told = json.loads((last / "training.json").read_text())
    assert told["step"] == 6 and told["run"]["train"]["batch"] == 4
