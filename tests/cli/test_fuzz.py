"""Made-up inputs: files of every kind, damaged anywhere, and every command with options that nobody should give.

Each is read or done, or refused in one line with exit code 2. Memory is bounded; nothing but the output changes.
"""

import io
import json
import os
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest
import soundfile as sf
import torch
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import POCKET, make_codec, melody

from ostinato import cli
from ostinato.curate.recipe import load_recipe
from ostinato.data.captions import gather
from ostinato.data.prepare import prepare
from ostinato.data.store import open_store
from ostinato.training.config import load_run
from ostinato.utils import files
from ostinato.utils.audio import read_audio, read_tags
from ostinato.utils.errors import UserError

pytestmark = pytest.mark.fuzz
RECIPE = Path(__file__).parents[2] / "configs" / "data-free.yaml"
AUDIO = ["wav", "flac", "ogg", "mp3", "aiff", "au"]
KINDS = [*AUDIO, "csv", "jsonl", "json", "safetensors", "parquet", "yaml", "recipe"]
RUN = {"task": "codec", "data": "store", "output": "cwd/run", "clip_seconds": 0.6, "adversary_from": 9}
RUN |= {"model": vars(POCKET), "train": {"steps": 1, "batch": 1, "accumulation": 1, "precision": "fp32"}}
HOSTILE = ["", " ", "-1", "0", "1", "7", "1e-9", "1e12", "nan", "inf", "-inf", "10" * 30, "1,9", "a=b", "train.steps=0"]
HOSTILE += ["\udcff\udcfe", "x" * 300, "nowhere", "nowhere/x/y", "nowhere/x.wav", "/dev/full", "/proc/self/mem", "cpu"]
HOSTILE += ["../file", "../file/x", "../music", "[bold]", "{}", "%s", "x.wav", "x.mp3", "x.flac", "meta", "."]
# What would reach into a network, or install something.
LEFT_OUT = {"--help", "--push-to-hub", "--ray", "--install-completion", "--show-completion"}
COMMANDS = {  # with arguments that are right, but where the command would run on, or needs a network
    "generate": (["a tune"], ["--model", "../model", "--seconds", "0.1", "--output", "x.wav"]),
    "curate": (["../music", "curated"], ["--recipe", str(RECIPE), "--workers", "0"]),
    "prepare": (["../music", "made"], ["--codec", "none", "--sample-rate", "8000", "--clip-seconds", "0.2"]),
    "train": (["../run.yaml"], []),
    "evaluate": (["../music"], ["--listener", "efficientat:nowhere"]),
    "report": (["nowhere"], []),
    "studio": ([], ["--model", "nowhere/x/y"]),
    "play": ([" "], []),
    "listen prepare": (["a=../music", "b=../music"], []),
    "listen serve": (["nowhere"], []),
    "listen results": (["nowhere"], []),
    "info": (["../model"], []),
    "join": (["../model", "../model", "joined"], []),
    "export": (["nowhere/x/y", "exported"], []),
    "import-official": (["../file", "../file", "imported"], []),
}


@contextmanager
def bounded_memory(more):
    """At most `more` bytes of address space beyond what this process has now, where the system can (Linux)."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError):
        now = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Music, a store, a codec, a config of a run, a file of each kind; and `cwd`, from where commands are given."""
    root = tmp_path_factory.mktemp("world")
    for name in ("music", "cwd", "kinds"):
        (root / name).mkdir()
    for i in range(2):
        sf.write(root / "music" / f"{i}.wav", melody(1.2, seed=i), 8000)
        (root / "music" / f"{i}.txt").write_text("a tune")
    prepare(root / "music", root / "store", sample_rate=8000, clip_seconds=1.0, min_seconds=0.1, progress=False)
    make_codec().save_pretrained(root / "model")
    (root / "file").write_text("neither")
    (root / "run.yaml").write_text(yaml.safe_dump(RUN | {"data": str(root / "store"), "output": str(root / "cwd/run")}))
    kinds = root / "kinds"
    for kind in AUDIO:
        sf.write(kinds / f"x.{kind}", melody(0.2), 8000)
    (kinds / "x.csv").write_text("path,caption\nx.wav,a piano\n")
    (kinds / "x.jsonl").write_text('{"path": "x.wav", "caption": "a piano"}\n')
    (kinds / "x.json").write_text(json.dumps({"model_type": "pocket", "codec": vars(POCKET)}))
    save_file({"a": torch.ones(8)}, kinds / "x.safetensors", {"sha256": files.digest({"a": torch.ones(8)})})
    (kinds / "x.parquet").write_bytes((root / "store" / "clips-00000.parquet").read_bytes())
    (kinds / "x.yaml").write_text((root / "run.yaml").read_text())
    (kinds / "x.recipe").write_text(RECIPE.read_text())
    return root


def read(kind, path):
    """As the program reads a file of this kind."""
    if kind in ("csv", "jsonl"):
        gather(path.parent, ["x.wav"], path)
    elif kind == "json":
        files.read_config(path.replace(path.with_name("config.json")).parent)
    elif kind == "safetensors":
        files.read_weights(path)
    elif kind == "parquet":
        path.replace(path.with_name("clips-00000.parquet"))
        store = open_store(path.parent)
        [store.pcm(i) for i in range(len(store))]
    elif kind == "yaml":
        load_run(path)
    elif kind == "recipe":
        load_recipe(path)
    else:
        read_audio(path, 8000)
        read_tags(path)


@settings(max_examples=1600, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(KINDS), cut=st.floats(0, 1), noise=st.binary(max_size=64), at=st.floats(0, 1))
def test_damaged_files_are_read_or_refused(world, tmp_path_factory, kind, cut, noise, at):
    """Cut and overwritten anywhere: read, or a UserError, and nothing else."""
    place = tmp_path_factory.getbasetemp() / "damaged"
    place.mkdir(exist_ok=True)
    (place / "store.json").write_text((world / "store" / "store.json").read_text())
    data = bytearray((world / "kinds" / f"x.{kind}").read_bytes())
    start = int(at * len(data))
    data[start : start + len(noise)] = noise
    (place / f"x.{kind}").write_bytes(data[: int(cut * len(data)) + 1])
    with bounded_memory(1 << 30):
        try:
            read(kind, place / f"x.{kind}")
        except UserError as error:
            assert str(error)


def options(name):
    """Options of a command that take a value, and flags."""
    command = typer.main.get_command(cli.app)
    for word in name.split():
        command = command.commands[word]
    found = [(p.opts[0], p.is_flag) for p in command.params if p.param_type_name == "option"]
    return [(option, flag) for option, flag in found if option not in LEFT_OUT]


def state_of(world):
    """Every file and folder but those of `cwd`, with what would tell that it was touched."""
    found = {}
    for path in world.rglob("*"):
        if "cwd" not in path.parts and "-report" not in str(path):  # where `curate --report X` writes
            stat = path.stat()
            found[str(path)] = (stat.st_size, stat.st_mtime_ns if path.is_file() else 0)
    return found


def run(*arguments):
    """Exit code and stderr of a command in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["ostinato", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
    return exit.value.code or 0, err.getvalue()


@pytest.fixture(scope="module")
def warm(world):
    """What is loaded once is loaded."""
    before = os.getcwd()
    os.chdir(world / "cwd")
    for name, (right, more) in COMMANDS.items():
        run(*name.split(), *right, *more)
    yield
    os.chdir(before)


def test_every_command_is_here():
    group = typer.main.get_command(cli.app).commands
    names = {name for name in group if not hasattr(group[name], "commands")}
    assert names | {f"listen {name}" for name in group["listen"].commands} == set(COMMANDS)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_hostile_options_are_refused_in_a_line(world, warm, data):
    name = data.draw(st.sampled_from(list(COMMANDS)))
    right, more = COMMANDS[name]
    chosen = data.draw(st.lists(st.sampled_from(options(name)), max_size=3)) if options(name) else []
    drawn = [
        part
        for option, flag in chosen
        for part in ([option] if flag else [option, data.draw(st.sampled_from(HOSTILE))])
    ]
    if right and name not in ("play", "listen serve") and data.draw(st.integers(0, 3)) == 0:
        right = [*right[:-1], data.draw(st.sampled_from(HOSTILE))]
    before = state_of(world)
    with bounded_memory(2 << 30):
        code, err = run(*name.split(), *more, *drawn, "--", *right)
    lines = [line for line in err.splitlines() if line.startswith("ostinato: ")]
    assert code in (0, 2) and "Traceback" not in err and "memory" not in err, err
    assert code == 0 or (len(lines) == 1 and err.rstrip().splitlines()[-1] == lines[0]), err
    assert state_of(world) == before
