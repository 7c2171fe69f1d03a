"""Configs: what `settings` reads becomes a dataclass for each task; a wrong key or type is refused, with the nearest
right one named."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ostinato.codecs.losses import DISCRIMINATOR_WINDOWS, MEL_BINS
from ostinato.codecs.pocket import PocketConfig
from ostinato.data.store import read_info
from ostinato.generation.sampling import Sampling
from ostinato.generation.settings import FineSampling, check_temperature
from ostinato.models.denoisers import FineConfig
from ostinato.models.lm import LMConfig
from ostinato.training.settings import Optimisation, check, read_values
from ostinato.utils.schema import build


@dataclass(frozen=True)
class LMRun:
    """`task: lm`: train a language model on a store of codes."""

    data: str
    output: str
    model: LMConfig
    init: str = ""  # pocket, a model folder or a hub id: whose weights a new run begins with, and whose sizes it has
    lora: int = 0  # rank of low-rank adapters, which are then all that is trained; 0: every weight is
    task: str = "lm"
    text: str = "google/flan-t5-base"  # or minilm, or a folder
    codec: str = ""  # default: the one the store was written with
    clip_seconds: float = 30.0
    label_smoothing: float = 0.1
    text_dropout: float = 0.1  # share of captions replaced by the empty one: trains the unconditional branch
    prompts: tuple[str, ...] = ()  # rendered at every checkpoint
    sample_seconds: float = 10.0
    sampling: Sampling = field(default_factory=Sampling)  # what checkpoints play with
    train: Optimisation = field(default_factory=Optimisation)


@dataclass(frozen=True)
class FineRun:
    """`task: fine`: train a fine stage, which fills in codebooks 2 to K, on a store of codes."""

    data: str
    output: str
    model: FineConfig
    init: str = ""  # a fine stage's folder: as in LMRun
    task: str = "fine"
    text: str = "google/flan-t5-base"
    codec: str = ""
    clip_seconds: float = 30.0
    text_dropout: float = 0.2  # condition dropout: share of captions replaced by the empty one
    sampling: FineSampling = field(default_factory=FineSampling)  # what checkpoints play with, and validation
    sample_clips: int = 8  # held-out clips that validation draws and decodes
    sample_seconds: float = 5.0
    train: Optimisation = field(default_factory=Optimisation)


@dataclass(frozen=True)
class CodecRun:
    """`task: codec`: train the pocket codec on a store of audio."""

    data: str
    output: str
    model: PocketConfig = field(default_factory=PocketConfig)
    init: str = ""  # pocket, the folder of a codec or of a model with one, or a hub id: as in LMRun
    task: str = "codec"
    clip_seconds: float = 1.0
    mel_weight: float = 15.0
    waveform_weight: float = 5.0
    commitment_weight: float = 0.25
    adversarial_weight: float = 1.0
    matching_weight: float = 2.0
    adversary_from: int = 1000  # step at which the discriminator begins
    adversary_seconds: float = 0.4  # crop that the discriminator hears
    decoder_only: bool = False  # the codes stay what they are, so that language models on them stay good
    train: Optimisation = field(default_factory=Optimisation)


Run = LMRun | FineRun | CodecRun
RUNS: dict[str, type] = {"lm": LMRun, "fine": FineRun, "codec": CodecRun}
KEYS = {task: {f.name for f in dataclasses.fields(RUNS[task])} for task in ("lm", "fine")}
ONLY = {"lm": KEYS["lm"] - KEYS["fine"] | {"sampling"}, "fine": KEYS["fine"] - KEYS["lm"]}  # see `stage_runs`


def load_run(path: str | Path | None, settings: Sequence[str] = (), given: dict[str, Any] | None = None) -> Run:
    """What `read_values` gives -> a checked run. Raises UserError naming the key and the nearest right one."""
    values = read_values(path, settings, given)
    task = values["task"]
    if values.get("init"):
        from ostinato.training.init_from import like_model  # models are made of what is here

        values = like_model(values, task)
    run: Run = build(RUNS[task], values, "")
    check(0 < run.clip_seconds < math.inf, f"clip_seconds must be above 0, got {run.clip_seconds}")
    if isinstance(run, LMRun):
        check(run.lora >= 0, f"lora must be a rank, at least 1, or 0 for none, got {run.lora}")
        check(not run.lora or bool(run.init), f"lora {run.lora} adapts a model: say which with --init")
        for key in ("label_smoothing", "text_dropout"):
            check(0 <= getattr(run, key) <= 1, f"{key} must be from 0 to 1, got {getattr(run, key)}")
        check(0 < run.sample_seconds < math.inf, f"sample_seconds must be above 0, got {run.sample_seconds}")
    elif isinstance(run, FineRun):
        check(0 <= run.text_dropout <= 1, f"text_dropout must be from 0 to 1, got {run.text_dropout}")
        check(run.sample_clips >= 1, f"sample_clips must be at least 1, got {run.sample_clips}")
        check(0.2 <= run.sample_seconds < math.inf, f"sample_seconds must be at least 0.2, got {run.sample_seconds}")
        check_temperature(run.model.prediction_type, run.sampling.temperature)
    else:
        for key in ("checkpointing", "shard"):
            check(not getattr(run.train, key), f"train.{key} is not for codecs; leave it out")
        check_window("clip_seconds", run.clip_seconds, max(MEL_BINS), run.model.sample_rate)
        check_window("adversary_seconds", run.adversary_seconds, max(DISCRIMINATOR_WINDOWS), run.model.sample_rate)
    return run


def stage_runs(settings: Sequence[str], given: dict[str, Any], output: str) -> tuple[LMRun, FineRun]:
    """`load_run` without a config, to begin with a model of two stages: a run for each, into folders beside the output,
    `output`-lm and -fine. Settings that only one of them has are for that one, and those of `sampling` are for the
    language model. Raises UserError as `load_run`."""
    lm, fine = (
        load_run(
            None,
            [s for s in settings if top(s) not in {"output"} | ONLY[other]],
            given | {"task": task, "output": f"{output}-{task}"},
        )
        for task, other in (("lm", "fine"), ("fine", "lm"))
    )
    assert isinstance(lm, LMRun) and isinstance(fine, FineRun)
    wanted = fine.model.num_codebooks
    found = (read_info(Path(fine.data)) or {}).get("num_codebooks", wanted)  # told now, not after the first stage
    check(found == wanted, f"the fine stage of {fine.init} is for {wanted} codebooks, {fine.data} has {found}")
    return lm, fine


def top(setting: str) -> str:
    """The key, or the section, of `--set KEY=VALUE`."""
    return setting.partition("=")[0].partition(".")[0]


def check_window(key: str, seconds: float, window: int, sample_rate: int) -> None:
    """A spectrum of `window` samples must fit into `seconds`."""
    right = 0 < seconds < math.inf and round(seconds * sample_rate) >= window
    least = math.ceil(1e4 * window / sample_rate) / 1e4
    check(right, f"{key} must be at least {least:g} ({window} samples at {sample_rate} Hz), got {seconds}")
