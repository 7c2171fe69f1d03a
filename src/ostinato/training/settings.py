"""What a run is asked to do, from YAML and options, and how it is optimised. Nothing here needs torch, so that a wrong
file, key or value is told at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ostinato.utils.errors import UserError, nearest
from ostinato.utils.schema import build
from ostinato.utils.text_files import read_text


@dataclass(frozen=True)
class Optimisation:
    """The paper's optimiser and schedule (section IV-A) are the defaults; `batch` is clips per process."""

    steps: int = 100_000
    optimizer: str = "adamw"  # or muon: Muon for matrices, with betas[0] as momentum (see optimizer.py)
    batch: int = 4
    accumulation: int = 32
    learning_rate: float = 1e-4
    final_learning_rate: float = 0.0
    weight_decay: float = 2e-2
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 100
    clip_norm: float = 1.0
    precision: str = "auto"  # auto: bf16 on a GPU, float32 on a CPU; or fp32, bf16
    seed: int = 0
    workers: int = 0  # processes that read the store
    text_cache: float = 8.0  # GB of main memory for encoded captions, in each process; the paper's take 5.4
    log_every: int = 10
    validate_every: int = 1000
    validation_clips: int = 64
    all_data: bool = False  # train on the validation split, too, as the paper does; there is no validation then
    checkpoint_every: int = 1000
    keep: int = 2  # newest checkpoints kept, beside the one that validated best
    keep_every: int = 0  # also kept for good: weights, without the optimizer's states, every so many steps; 0: none
    ema: float = 0.0  # decay of averaged weights, such as 0.999; 0: none are kept
    ema_offload: bool = False  # keep them in main memory: 4 bytes a weight less on the GPU, a copy each step
    tracker: str = "tensorboard"  # none, or another by accelerate's name: wandb, mlflow, trackio, ...
    checkpointing: bool = False  # of activations: the backward pass computes them again, for less memory
    deterministic: bool = False  # the same bits each time on a GPU, too, from slower kernels
    compile: bool = False  # torch.compile; needs a compiler on a CPU
    ssd: str = "auto"  # torch, fla or mamba-ssm: what computes SSD on a GPU; auto: one that is installed and right
    shard: bool = False  # over several processes, spread the weights and the optimizer (FSDP2) instead of copying them


TASKS = ("lm", "fine", "codec")
# `train --init MODEL --data STORE` without a config: gentle steps for a folder of songs, on a CPU in an afternoon.
GENTLE: dict[str, Any] = {
    "steps": 1000,
    "batch": 8,
    "accumulation": 1,
    "learning_rate": 3e-4,
    "final_learning_rate": 3e-5,
    "betas": [0.9, 0.95],
    "warmup": 50,
    "validate_every": 100,
    "checkpoint_every": 100,
}
CONTINUED: dict[str, Any] = {
    "lm": {"clip_seconds": 10.0, "label_smoothing": 0.0, "train": GENTLE},
    "fine": {"clip_seconds": 6.0, "train": GENTLE},
}
COUNTS = (
    "steps",
    "batch",
    "accumulation",
    "log_every",
    "validate_every",
    "validation_clips",
    "checkpoint_every",
    "keep",
)


def read_config(path: str | Path, above: tuple[Path, ...] = ()) -> dict:
    """A YAML file as a dict; its `base: other.yaml` is read first and this one laid over it. `above` led here."""
    path = Path(path)
    try:
        values = yaml.safe_load(read_text(path))
    except FileNotFoundError as error:
        raise UserError(f"config {path} does not exist; the shipped ones are in configs/") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"config {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"config {path} should hold 'key: value' lines, and holds a {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str) or path.resolve() in above:
        raise UserError(f"config {path}: base should name another config, and says {base!r}")
    return merge(read_config(path.parent / base, (*above, path.resolve())), values)


def merge(base: dict, over: dict) -> dict:
    both = {
        k: merge(base[k], v) if isinstance(base.get(k), dict) and isinstance(v, dict) else v for k, v in over.items()
    }
    return base | both


def set_key(values: dict, setting: str) -> None:
    """Apply one `--set a.b=value` (value read as YAML) to `values` in place."""
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set takes key=value, for example train.steps=1000; got {setting!r}")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {setting}: {parent!r} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting}: the value is not YAML") from error


def read_values(
    path: str | Path | None, settings: Sequence[str] = (), given: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Config file + `given` keys + settings -> one nested dict, its `train` section checked; without a file, `given`
    must have `init` and `data`, and the rest is `CONTINUED`. Raises UserError."""
    values = read_config(path) if path else {}
    values |= given or {}
    for setting in settings:
        set_key(values, setting)
    if not path:
        if not values.get("init") or not values.get("data"):
            raise UserError("give a config (the shipped ones are in configs/), or --init MODEL and --data STORE")
        if values.get("task") == "codec":
            raise UserError("a codec is trained by a config: ostinato train configs/codec-pocket.yaml --init pocket")
        values = merge(CONTINUED.get(str(values.get("task", "lm")), {}), values)
        values.setdefault("output", f"runs/{Path(str(values['data'])).resolve().name}")
    task = values.setdefault("task", "lm")
    if task not in list(TASKS):
        raise UserError(f"{path or '--set task'}: unknown task {task!r}; {nearest(str(task), list(TASKS))}")
    check_training(build(Optimisation, values.get("train", {}), "train"))
    return values


def check_training(hyper: Optimisation) -> None:
    for key in COUNTS:
        check(getattr(hyper, key) >= 1, f"train.{key} must be at least 1, got {getattr(hyper, key)}")
    check(hyper.text_cache >= 0, f"train.text_cache must be at least 0, got {hyper.text_cache}")
    check(hyper.workers >= 0, f"train.workers must be at least 0, got {hyper.workers}")
    check(0 < hyper.learning_rate < math.inf, f"train.learning_rate must be above 0, got {hyper.learning_rate}")
    for key in ("final_learning_rate", "weight_decay"):
        check(0 <= getattr(hyper, key) < math.inf, f"train.{key} must be at least 0, got {getattr(hyper, key)}")
    check(
        all(0 <= beta < 1 for beta in hyper.betas),
        f"train.betas must each be at least 0 and under 1, got {list(hyper.betas)}",
    )
    check(hyper.optimizer in ("adamw", "muon"), f"train.optimizer must be adamw or muon, got {hyper.optimizer!r}")
    check(not hyper.shard or hyper.optimizer == "adamw", "train.shard goes with adamw only: set train.optimizer=adamw")
    check(
        hyper.keep_every >= 0 and hyper.keep_every % hyper.checkpoint_every == 0,
        f"train.keep_every must be a multiple of train.checkpoint_every ({hyper.checkpoint_every}), or 0 for none, got "
        f"{hyper.keep_every}",
    )
    check(hyper.warmup >= 0, f"train.warmup must be at least 0, got {hyper.warmup}")
    check(hyper.clip_norm > 0, f"train.clip_norm must be above 0 (.inf for none), got {hyper.clip_norm}")
    check(0 <= hyper.ema < 1, f"train.ema must be at least 0 and under 1, got {hyper.ema}")
    check(not (hyper.ema_offload and hyper.shard), "train.ema_offload is for whole weights: leave out train.shard")
    check(0 <= hyper.seed < 2**31, f"train.seed must be from 0 to {2**31 - 1}, got {hyper.seed}")
    check(
        hyper.precision in ("auto", "fp32", "bf16"),
        f"train.precision must be auto, fp32 or bf16, got {hyper.precision!r}",
    )


def check(right: bool, message: str) -> None:
    if not right:
        raise UserError(message)
