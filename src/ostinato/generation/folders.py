"""Model folders: how a name is resolved, and what a language model's and a two-stage model's folder hold.

One stage: config.json (model_type "ostinato"), model.safetensors, and the codec in codec/ or by name. Two stages:
config.json (model_type "ostinato-two-stage") that names lm/, fine/ and the codec, each a folder of its own.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from ostinato.codecs.load import SHORT_NAMES
from ostinato.models.layout import outputs_last
from ostinato.models.lm import LMConfig, MusicLM
from ostinato.packs import POCKET
from ostinato.utils.errors import UserError
from ostinato.utils.files import load_module, read_config, weights_file, write_model_folder
from ostinato.utils.schema import build

TWO_STAGE = "ostinato-two-stage"  # model_type of a folder with a language model and a fine stage
INSIDE = ("codec", "../codec")  # what config.json calls a codec in the same folder, of one stage and of two


def save_lm(
    folder: str | Path,
    lm: MusicLM,
    config: dict,
    dtype: torch.dtype = torch.float32,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write config.json and model.safetensors. config: text, codec, codec_id, and, if known, sampling and training;
    weights: by default those of `lm`."""
    config = {"model_type": "ostinato", "lm": dataclasses.asdict(lm.config)} | config
    write_model_folder(folder, config, {name: t.to(dtype) for name, t in (weights or lm.state_dict()).items()})


def lm_config(folder: str | Path) -> tuple[LMConfig, dict]:
    """What config.json of a language model's folder says. Raises UserError if it is not one, or not whole."""
    config = read_config(folder)
    if config.get("model_type") == "ostinato-fine":
        raise UserError(f"{folder} is a fine stage, which goes with a language model: ostinato join LM FINE OUT")
    if config.get("model_type") != "ostinato":
        raise UserError(f"{folder} holds a model of type {config.get('model_type')!r}, not 'ostinato'")
    for key in ("lm", "text", "codec"):
        if key not in config:
            raise UserError(f"{folder}/config.json lacks {key!r}; the folder may be damaged, copy it again")
    return build(LMConfig, config["lm"], f"{folder}: lm"), config


def load_lm(folder: str | Path) -> tuple[MusicLM, dict]:
    """The language model of a folder and its config. Raises UserError if the folder is incomplete."""
    sizes, config = lm_config(folder)
    lm = load_module(folder, lambda: MusicLM(sizes), max(sizes.blocks, sizes.num_codebooks))
    outputs_last(lm)
    config.pop("weights", None)  # which file was read; a copy of the model has one
    return lm, config


def resolve(name: str | Path | None) -> Path:
    """A model folder, a run's folder (its newest checkpoint), a hub id (downloaded), or "pocket"; None: "pocket".

    Raises UserError when there is no such thing or the hub cannot be reached.
    """
    if name is None or (str(name) == "pocket" and not Path(name).is_dir()):
        if not (POCKET / "config.json").is_file():
            raise UserError("this installation has no pocket pack; name a model folder or a hub id with --model")
        return POCKET
    folder = Path(name)
    if folder.is_dir():
        steps = sorted(p for p in folder.glob("step-*") if (p / "config.json").is_file())
        return folder if (folder / "config.json").is_file() or not steps else steps[-1]
    if folder.is_file():
        raise UserError(f"{name} is a file, not a model folder; for an authors' .ckpt run ostinato import-official")
    if str(name).count("/") != 1 or str(name).startswith((".", "/")):
        raise UserError(f"there is no model folder {name}; give a folder, a hub id as user/name, or pocket")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name} is not a folder here and could not be fetched from the hub: {reason}") from error


def training_state(folder: Path) -> dict:
    """The training so far: training.json of a checkpoint, or `training` in config.json; empty where neither says."""
    path = folder / "training.json"
    try:
        return json.loads(path.read_text()) if path.is_file() else read_config(folder).get("training", {})
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); copy the checkpoint again") from error


def copy_codec(source: str, folder: Path) -> str:
    """Put a codec that is a local folder into `folder`/codec; returns what config.json should call it: a folder may
    move or go, a short name or hub id stays."""
    inside = source if Path(source).is_dir() else SHORT_NAMES.get(source, source)
    if not Path(inside).is_dir():
        return source
    (folder / "codec").mkdir(parents=True, exist_ok=True)
    codec = resolve(inside)
    for path in (codec / "config.json", weights_file(codec)):
        shutil.copyfile(path, folder / "codec" / path.name)
    return "codec"


def within(codec: str) -> str:
    """What a stage's config.json calls the codec: one that is inside the joint folder lies beside the stage."""
    return "../codec" if codec == "codec" else codec


def stage_folder(name: str | Path, stage: str) -> Path:
    """The folder of a stage, "lm" or "fine": what `resolve` finds, or where that has two stages, its part. Errors:
    `resolve`, `parts`."""
    folder = resolve(name)
    config = read_config(folder)
    if config.get("model_type") != TWO_STAGE:
        return folder
    first, second = parts(folder, config)
    return first if stage == "lm" else second


def has_two_stages(name: str | Path) -> bool:
    """Whether `name` is a model of two stages. Errors: `resolve`."""
    return read_config(resolve(name)).get("model_type") == TWO_STAGE


def parts(folder: Path, config: dict) -> tuple[Path, Path]:
    """The folders of both stages. Raises UserError where config.json does not name them."""
    for key in ("lm", "fine", "codec"):
        if key not in config:
            raise UserError(f"{folder}/config.json lacks {key!r}; the folder may be damaged, copy it again")
    return folder / config["lm"], folder / config["fine"]


def check_fit(sizes: LMConfig, config: dict, fine_config: dict) -> None:
    """Raise UserError unless a fine stage follows this language model: one codebook, and the same codec."""
    if sizes.num_codebooks != 1:
        raise UserError(
            f"a first stage writes 1 codebook, this language model {sizes.num_codebooks}: train another one"
        )
    ids = config.get("codec_id"), fine_config.get("codec_id")
    if all(ids) and ids[0] != ids[1]:
        raise UserError(
            f"the language model is for codec {ids[0]}, the fine stage for {ids[1]}: train them on one store"
        )
