"""Checkpoints of a run: folders step-XXXXXXX, written whole or not at all, read only if whole, pruned by a rule.

config.json, model.safetensors   the model, as `ostinato generate --model` reads it
ema.safetensors                  its averaged weights, if the run keeps them
optimizers.pt                    the optimizers' states; deleted, and taken out of training.json, where the checkpoint
                                 is old and kept for its weights (`train.keep_every`): nothing goes on from it
training.json                    format, step, seed, number of processes, the run's config, its data, what validation
                                 said and of which clips, and the size and SHA-256 of every other file; written last
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ostinato.utils.errors import UserError
from ostinato.utils.files import flush, share, why, write_atomic

OPTIMIZERS = "optimizers.pt"
FORMAT = 2  # 1 had no record of files
# Keys that cannot change between two sessions of one run. Dropout and chunk shape no weight.
FIXED = re.compile(r"task|text|lora|decoder_only|train\.optimizer|model\.(?!(dropout|chunk)$).*")


NAME = re.compile(r"step-\d{7,}")  # a copy by another name is the user's own: never pruned


def folders(output: Path) -> list[Path]:
    """Folders of a run that are named as checkpoints, oldest first."""
    return sorted(p for p in output.glob("step-*") if NAME.fullmatch(p.name) and p.is_dir())


def checkpoints(output: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    return [p for p in folders(output) if (p / "training.json").is_file()]


def delete_run(output: Path) -> None:
    """Delete all checkpoints of a run, damaged and diverged ones with them, its samples and its curves."""
    for folder in output.iterdir() if output.is_dir() else ():
        if NAME.fullmatch(re.sub("^(damaged-step|diverged)", "step", folder.name)):
            shutil.rmtree(folder, ignore_errors=True)
    for name in ("samples", "tensorboard"):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / "log.jsonl").unlink(missing_ok=True)


def write_checkpoint(folder: Path, training: dict, write: Callable[[Path], object]) -> None:
    """`write` the files of a checkpoint and training.json beside `folder`, flush them to the disk, rename.

    Raises UserError where that fails, and leaves nothing behind.
    """
    temporary = folder.with_name(".checkpoint")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        temporary.mkdir()
        write(temporary)
        names = sorted(p.relative_to(temporary) for p in temporary.rglob("*") if p.is_file())
        files = {name.as_posix(): record(temporary / name) for name in names}
        (temporary / "training.json").write_text(json.dumps({"format": FORMAT, **training, "files": files}, indent=2))
        for name in names:
            share(temporary / name)
        for path in [*temporary.rglob("*"), temporary]:
            flush(path)
        os.replace(temporary, folder)
        flush(folder.parent)
    except (OSError, SafetensorError, RuntimeError, UserError) as error:  # torch.save reports a full disk by the third
        shutil.rmtree(temporary, ignore_errors=True)
        kept = "earlier checkpoints are whole" if checkpoints(folder.parent) else "there is no earlier checkpoint"
        raise UserError(
            f"{folder.name} could not be written ({why(error)}); {kept}: make room and run the same command again"
        ) from error


def record(path: Path) -> dict:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read_training(folder: Path) -> dict:
    """training.json of a checkpoint. Raises ValueError if it is damaged, UserError if another version wrote it."""
    try:
        training = json.loads((folder / "training.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"training.json: {error}") from error
    if not isinstance(training, dict) or not isinstance(training.get("run"), dict) or "step" not in training:
        raise ValueError("training.json lacks its keys")
    if (found := training.get("format", 1)) != FORMAT:
        if found < FORMAT:
            advice = f"give another output folder, and begin with --init {folder}"
        else:
            advice = "update ostinato (pip install --upgrade ostinato), or give another output folder"
        raise UserError(f"{folder} is of format {found}, and this version reads {FORMAT}: {advice}")
    return training


def read_whole(folder: Path) -> dict:
    """training.json of a checkpoint all of whose files are as they were written. Raises ValueError otherwise, and
    UserError if another version wrote it."""
    training = read_training(folder)
    for name, wanted in training["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != wanted["bytes"]:
            raise ValueError(f"{name} has {path.stat().st_size} bytes of {wanted['bytes']}")
        if record(path) != wanted:
            raise ValueError(f"{name} is not what was written")
    return training


def newest_whole(output: Path, say: Callable[[str], object]) -> tuple[Path, dict] | None:
    """The newest whole checkpoint of a run and its training.json; None if the run has none at all.

    Damaged ones that are newer are reported, and renamed to damaged-step-XXXXXXX: nothing should take them for whole.
    Raises UserError if every one is damaged.
    """
    damaged: list[tuple[Path, str]] = []
    light: list[Path] = []  # kept for their weights
    for folder in reversed(folders(output)):
        try:
            training = read_whole(folder)
            if OPTIMIZERS not in training["files"]:
                light.append(folder)
                continue
        except UserError:
            raise
        except Exception as error:  # a damaged file raises what it likes: pickle, zip, struct, JSON errors
            damaged.append((folder, " ".join(str(error).split()) or type(error).__name__))
            continue
        for bad, reason in damaged:
            aside = bad.with_name(f"damaged-{bad.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(bad, aside)
            say(f"{bad} is damaged ({reason}): moved to {aside.name}; going on from {folder.name}")
        return folder, training
    if light:
        raise UserError(
            f"{light[0]} has its weights only (train.keep_every), and nothing newer in {output} is whole: give another "
            f"output folder and begin with --init {light[0]}"
        )
    if damaged:
        told = "; ".join(f"{folder.name}: {reason}" for folder, reason in damaged)
        raise UserError(f"no checkpoint in {output} is whole ({told}); --fresh deletes them and starts over")
    return None


def prune(output: Path, keep: int, every: int = 0) -> None:
    """Delete all but the `keep` newest checkpoints and the `leaders`; those of every `every`-th step lose only their
    optimizers' states."""
    found = checkpoints(output)
    spared = {*found[-keep:], *leaders(found)}
    for old in found:
        if old in spared:
            continue
        if every and step_of(old) % every == 0:
            lighten(old)
        else:
            # Renamed first: half a deleted checkpoint would pass for a damaged one.
            gone = old.with_name(".pruned")
            shutil.rmtree(gone, ignore_errors=True)
            os.replace(old, gone)
            shutil.rmtree(gone, ignore_errors=True)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def lighten(folder: Path) -> None:
    """Take the optimizers' states out of a checkpoint: first out of its record, so that it is whole at any moment."""
    try:
        training = read_training(folder)
    except (ValueError, UserError):  # damaged, or another version's: told when it is read
        return
    if training["files"].pop(OPTIMIZERS, None):
        text = json.dumps(training, indent=2)
        write_atomic(folder / "training.json", lambda temporary: temporary.write_text(text))
    (folder / OPTIMIZERS).unlink(missing_ok=True)


def leaders(folders: Iterable[Path]) -> list[Path]:
    """Of checkpoints, oldest first, the one with the lowest `score` in its training.json, the newest of equals; where
    validation came to be on other clips (`scored_on`), one for each of them, the latest last."""
    lowest: dict[str | None, tuple[float, Path]] = {}
    for folder in folders:
        try:
            training = read_training(folder)
        except (ValueError, UserError):
            continue
        score, clips = training.get("score"), training.get("scored_on")
        if score is not None:
            before = lowest.pop(clips, (score, folder))
            lowest[clips] = (score, folder) if score <= before[0] else before
    return [folder for _, folder in lowest.values()]


def flat(values: dict, above: str = "") -> dict[str, Any]:
    """Nested dicts -> one with dotted keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return out


def changes(was: dict, now: dict) -> dict[str, str]:
    """Key -> "was -> is" of two configs (dicts as JSON has them); keys that only one of them has are left out where the
    other's version did not know them."""
    was, now = flat(was), flat(json.loads(json.dumps(now)))
    return {key: f"{was[key]} → {now[key]}" for key in now if key in was and was[key] != now[key]}


def compare(folder: Path, training: dict, run: dict, data: dict) -> dict[str, str]:
    """What is not as it was when the checkpoint `folder` was written, as `changes` has it.

    training: its training.json. run, data: what that will hold from now on.
    Raises UserError where going on would make it another run.
    """
    changed = changes(training["run"], run)
    fatal = [f"{key}: {told}" for key, told in changed.items() if FIXED.fullmatch(key)]
    if fatal:
        raise UserError(
            f"{folder} is of another run ({'; '.join(fatal)}); give another output folder, or --fresh to start over"
        )
    was = training.get("data", data)
    if was != data and (was["codec"] != data["codec"] or "data" in changed):
        raise UserError(
            f"{folder} was trained on other clips than {run['data']} has (codec {was['codec']} → {data['codec']}, "
            f"{was['clips']} → {data['clips']} clips); give another output folder, and begin with --init {folder}"
        )
    if was != data:
        count = f"{was['clips']} → {data['clips']}" if was["clips"] != data["clips"] else "others than they were"
        changed["clips of the store"] = f"{count}, so their order is another from here on"
    if "init" in changed:
        changed["init"] += ", without effect: the run goes on from its own weights"
    return changed
