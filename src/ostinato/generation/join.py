"""Two stages as one model: a language model for the first codebook, a fine stage for the others (paper, section III-B).

A folder has config.json, which names lm/, fine/ and the codec (codec/, or a short name or hub id), and each of them as
its own folder; `ostinato.load` takes it. `ostinato join` makes one of two runs.
"""

import os
import shutil
from pathlib import Path

from ostinato.generation.fine_stage import fine_folder
from ostinato.generation.folders import (
    TWO_STAGE,
    check_fit,
    copy_codec,
    lm_config,
    stage_folder,
    training_state,
    within,
)
from ostinato.utils.errors import UserError
from ostinato.utils.files import read_config, weights_file, write_atomic, write_config


def join(lm: str | Path, fine: str | Path, out: str | Path) -> Path:
    """Put a language model and a fine stage (folders, runs' folders, hub ids, or two-stage models that have them) into
    the folder `out`.

    `out` is written whole or not at all. Raises UserError where they do not fit together, or `out` holds anything but
    an earlier joint model, or cannot be written.
    """
    first, second, folder = stage_folder(lm, "lm"), stage_folder(fine, "fine"), Path(out).resolve()
    sizes, config = lm_config(first)
    _, _, _, fine_config = fine_folder(second)
    check_fit(sizes, config, fine_config)
    check_place(folder)
    if folder in (*first.resolve().parents, *second.resolve().parents):
        raise UserError(f"{folder} holds one of the stages itself: name another folder")
    inside = first / config["codec"]
    temporary, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("tmp", "old"))
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
        temporary.mkdir(parents=True)
        codec = copy_codec(str(inside) if inside.is_dir() else config["codec"], temporary)
        for name, source, about in (("lm", first, config), ("fine", second, fine_config)):
            trained = {key: value for key, value in training_state(source).items() if key in ("step", "seed")}
            about = {key: value for key, value in about.items() if key != "weights"} | {"training": trained}
            place(temporary / name, about | {"codec": within(codec)}, weights_file(source))
        write_config(temporary, {"model_type": TWO_STAGE, "lm": "lm", "fine": "fine", "codec": codec})
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): is there room left, and leave to write?") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not folder.exists():
            os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def check_place(folder: Path) -> None:
    """Raise UserError where `folder` holds anything but an earlier joint model."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / "config.json").is_file() or read_config(folder).get("model_type") != TWO_STAGE:
            raise UserError(f"{folder} is not empty: name another folder")
        if others := sorted({path.name for path in folder.iterdir()} - {"config.json", "lm", "fine", "codec"}):
            raise UserError(f"{folder} holds more than a joint model ({others[0]}): name another folder")


def place(folder: Path, config: dict, weights: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "model.safetensors", lambda temporary: shutil.copyfile(weights, temporary))
    write_config(folder, config)
