"""Two stages as one model: a language model for the first codebook, a fine stage for the others (paper, section III-B).

A folder has config.json, which names lm/, fine/ and the codec (codec/, or a short name or hub id), and each of them as
its own folder; `ostinato.load` takes it. `ostinato join` makes one of two runs.
"""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from ostinato.codecs.codec import fingerprint
from ostinato.generation.fine_stage import fine_folder, load_fine, save_fine
from ostinato.generation.pipeline import (
    INSIDE,
    TWO_STAGE,
    Ostinato,
    copy_codec,
    describe,
    lm_config,
    load,
    resolve,
    save_lm,
    training,
    training_rows,
)
from ostinato.models.denoisers import make_denoiser
from ostinato.models.lm import LMConfig, count_parameters
from ostinato.models.text_encoder import load_text_encoder
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
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / "config.json").is_file() or read_config(folder).get("model_type") != TWO_STAGE:
            raise UserError(f"{folder} is not empty: name another folder")
        if others := sorted({path.name for path in folder.iterdir()} - {"config.json", "lm", "fine", "codec"}):
            raise UserError(f"{folder} holds more than a joint model ({others[0]}): name another folder")
        if folder in (*first.resolve().parents, *second.resolve().parents):
            raise UserError(f"{folder} holds one of the stages itself: name another folder")
    inside = first / config["codec"]
    temporary, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("tmp", "old"))
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
        temporary.mkdir(parents=True)
        codec = copy_codec(str(inside) if inside.is_dir() else config["codec"], temporary)
        for name, source, about in (("lm", first, config), ("fine", second, fine_config)):
            trained = {key: value for key, value in training(source).items() if key in ("step", "seed")}
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


def within(codec: str) -> str:
    """What a stage's config.json calls the codec: one that is inside the joint folder lies beside the stage."""
    return "../codec" if codec == "codec" else codec


def place(folder: Path, config: dict, weights: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "model.safetensors", lambda temporary: shutil.copyfile(weights, temporary))
    write_config(folder, config)


def stage_folder(name: str | Path, stage: str) -> Path:
    """The folder of a stage, "lm" or "fine": what `resolve` finds, or where that has two stages, its part. Errors:
    `resolve`, `parts`."""
    folder = resolve(name)
    config = read_config(folder)
    if config.get("model_type") != TWO_STAGE:
        return folder
    first, second = parts(folder, config)
    return first if stage == "lm" else second


def parts(folder: Path, config: dict) -> tuple[Path, Path]:
    """The folders of both stages. Raises UserError where config.json does not name them."""
    for key in ("lm", "fine", "codec"):
        if key not in config:
            raise UserError(f"{folder}/config.json lacks {key!r}; the folder may be damaged, copy it again")
    return folder / config["lm"], folder / config["fine"]


def load_two_stage(folder: Path, device: str | torch.device = "cpu") -> Ostinato:
    """The model of a joint folder. Raises UserError if it is not whole, or its parts do not fit together."""
    config = read_config(folder)
    first, second = parts(folder, config)
    model = load(first, device)
    fine = load_fine(second, model.codec, device)
    check_fit(model.lm.config, model.config | {"codec_id": fingerprint(model.codec)}, fine.config)
    if fine.config["text"] != model.config["text"]:
        fine.text = load_text_encoder(fine.config["text"], str(device))
    model.fine = fine
    return model


def save_two_stage(folder: str | Path, model: Ostinato, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that `load_two_stage` reads."""
    folder, fine = Path(folder), model.fine
    if fine is None:
        raise ValueError("a model of one stage")
    inside = model.config["codec"] in INSIDE
    name = "codec" if inside else model.config["codec"]
    about = model.config | {"codec": within(name), "sampling": asdict(model.sampling)}
    save_lm(folder / "lm", model.lm, about, dtype)
    about = fine.config | {"codec": within(name), "sampling": asdict(fine.sampling)}
    weights = {key: t.to(dtype) for key, t in fine.denoiser.state_dict().items()}
    save_fine(folder / "fine", fine.sizes, fine.scale, about, weights)
    if inside:
        model.codec.save_pretrained(folder / "codec")  # type: ignore[attr-defined]
    write_config(folder, {"model_type": TWO_STAGE, "lm": "lm", "fine": "fine", "codec": name})


def describe_stages(folder: Path, config: dict) -> dict[str, str]:
    """`model.describe` of a joint folder, or of a fine stage's."""
    if config["model_type"] == TWO_STAGE:
        first, second = parts(folder, config)
        stages = {f"lm: {name}": value for name, value in describe(first).items()}
        return {"type": "two stages"} | stages | {f"fine: {name}": value for name, value in describe(second).items()}
    sizes, _, sampling, config = fine_folder(folder)
    with torch.device("meta"):
        count = count_parameters(make_denoiser(sizes))
    return {
        "type": "fine stage",
        "denoiser": f"{sizes.denoiser}, width {sizes.width}, {sizes.blocks} blocks, tells {sizes.tells}",
        "parameters": f"{count / 1e6:.1f} M",
        "codebooks": f"2 to {sizes.num_codebooks}, from the first",
        "codec": f"{config['codec']} ({config.get('codec_id') or 'unknown id'})",
        "text encoder": f"{config['text']} ({sizes.text_width} wide)",
        "sampler": f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance:g}",
        "plays": "its codes" if sampling.snapped else "its latents, before they are snapped to codes",
        "delay": f"{sampling.window:g} s of music, the window of a stream",
    } | training_rows(folder)
