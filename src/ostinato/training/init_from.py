"""What a run starts from: `init` names a model, whose sizes the run has and whose weights it begins with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ostinato.codecs.load import SHORT_NAMES
from ostinato.codecs.pocket import PocketConfig
from ostinato.generation.fine_stage import fine_folder
from ostinato.generation.folders import TWO_STAGE, lm_config, resolve, stage_folder
from ostinato.packs import POCKET
from ostinato.utils.errors import UserError
from ostinato.utils.files import read_config

if TYPE_CHECKING:
    from ostinato.training.config import FineRun, LMRun

FREE = ("dropout", "chunk")  # keys of the model section that no weight depends on


def init_folder(init: str, task: str) -> Path:
    """The folder of `init`'s language model (task lm), fine stage (task fine) or codec (task codec). Raises UserError
    where there is none."""
    if task != "codec":
        return stage_folder(init, task)
    folder = resolve(init)
    config = read_config(folder)
    if config.get("model_type") == "pocket":
        return folder
    if config.get("model_type") not in ("ostinato", TWO_STAGE):
        raise UserError(f"{init} holds a model of type {config.get('model_type')!r}, and no pocket codec to begin with")
    return codec_folder(folder, config)


def codec_folder(folder: Path, config: dict) -> Path:
    """The pocket codec of a model's folder. Raises UserError if its codec is another kind."""
    named = SHORT_NAMES.get(config["codec"], config["codec"])
    for place in (folder / named, Path(named)):
        if (place / "config.json").is_file() and read_config(place).get("model_type") == "pocket":
            return place
    raise UserError(f"the codec of {folder} is {config['codec']}, and only pocket codecs are trained here")


def like_model(values: dict, task: str) -> dict:
    """Config `values` with the model section, the text encoder, the codec and the sampling of `values["init"]`.

    Raises UserError, naming the keys, where the config says something else of them.
    """
    folder = init_folder(str(values["init"]), task)
    if task == "codec":
        whole = dataclasses.asdict(PocketConfig(**read_config(folder)["codec"]))  # with what an older one did not know
        return values | {"model": same(values, whole, "model", folder)}
    sizes, config = (fine_folder(folder)[0], read_config(folder)) if task == "fine" else lm_config(folder)
    theirs = json.loads(json.dumps(dataclasses.asdict(sizes)))  # a tuple as the list that YAML has
    model = same(values, theirs, "model", folder)
    text = same(values, {"text": config["text"]}, "", folder)
    ours = values.get("sampling", {})
    sampling = {"sampling": config.get("sampling", {}) | ours} if isinstance(ours, dict) else {}
    return {"codec": own_codec(folder, config)} | values | sampling | {"model": model} | text


def own_codec(folder: Path, config: dict) -> str:
    """The codec of a stage's folder, by the name or the folder to load it by."""
    inside = (folder / config["codec"]).resolve()
    if inside == (POCKET / "codec").resolve():
        return "pocket"  # a short name outlives an installation
    return str(inside) if inside.is_dir() else config["codec"]


def going_over(run: LMRun | FineRun, folder: Path, codec_id: str) -> str:
    """From which codec to which a run goes that begins with the stage in `folder`, for the run's first line; "" if they
    are the same. Raises UserError where they are not, and the run's own `codec` does not ask for that."""
    config = read_config(folder)
    before = config.get("codec_id") or codec_id
    if before == codec_id:
        return ""
    if run.codec in ("", own_codec(folder, config)):
        raise UserError(
            f"{folder} was trained on codec {before}, {run.data} is of {codec_id}: prepare a store with the codec it "
            "was trained on, or name the store's own with --set codec=... to go over to that"
        )
    if lora := getattr(run, "lora", 0):
        raise UserError(f"adapters do not learn the codes of another codec, {run.codec}: leave out lora {lora}")
    return f", going over from codec {before} to {codec_id}"


def same(values: dict, theirs: dict[str, Any], section: str, folder: Path) -> dict[str, Any]:
    """`theirs`, with the free keys of `values`' section over it."""
    ours = values.get(section, {}) if section else values
    if not isinstance(ours, dict):
        return ours  # told when the config is built
    differ = [
        f"{section}.{key}".lstrip(".") + f" is {ours[key]!r}, there {wanted!r}"
        for key, wanted in theirs.items()
        if key in ours and ours[key] != wanted and key not in FREE
    ]
    if differ:
        raise UserError(
            f"the config contradicts the model to begin with, {folder}: {'; '.join(differ)}; leave these keys out"
        )
    unknown = {key: value for key, value in ours.items() if section and key not in theirs}
    return theirs | unknown | {key: ours[key] for key in FREE if key in theirs and key in ours}
