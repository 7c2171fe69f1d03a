"""What can be seen to be wrong before torch is loaded: an option's range, a file's name. All raise UserError."""

import math
import re
from pathlib import Path

from ostinato.utils.errors import UserError

CODECS = ("dac", "encodec", "pocket", "none")
LONGEST = 3600.0  # s of a file; a stream has no end


def check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise UserError("the prompt is empty; write a sentence that says what to play")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        shown = prompt.encode("utf-8", "backslashreplace").decode()
        raise UserError(f"the prompt is not UTF-8 text ({shown[:40]}): write it in your terminal's encoding") from error


def check_seconds(seconds: float, longest: float = math.inf) -> None:
    if not 0 < seconds < math.inf:
        raise UserError(f"seconds must be a finite number above 0, got {seconds:g}")
    if seconds > longest:
        raise UserError(
            f"a file has at most {longest:g} seconds, got {seconds:g}: stream more of it, as in `--output - | aplay`"
        )


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise UserError(f"seed must be from 0 to {2**63 - 1}, got {seed}")


def check_model(name: str | None) -> None:
    """A name that is neither here nor could be a hub id."""
    if name in (None, "pocket"):
        return
    try:
        there, file = Path(name).exists(), Path(name).is_file()
    except (OSError, ValueError) as error:
        raise UserError(f"{name[:60]!r} cannot be a model folder ({error}); see --help") from error
    if (Path(name) / "ostinato.json").is_file():
        raise UserError(f"{name} is an exported model: play it with --runtime onnx")
    if file:
        raise UserError(f"{name} is a file, not a model folder; for an authors' .ckpt run ostinato import-official")
    if there and not Path(name).is_dir():
        raise UserError(f"{name} is neither a folder nor a file: give a model folder")
    if not there and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise UserError(f"there is no model folder {name}; give a folder, a hub id as user/name, or pocket")


def check_dtype(name: str) -> None:
    if name not in ("float32", "tf32", "bfloat16", "float16"):
        raise UserError(f"dtype {name!r} is none of float32, tf32, bfloat16, float16")


def check_codec(name: str) -> None:
    """A name that is neither here nor could be a hub id."""
    if not Path(name).is_dir() and "/" not in name and name not in CODECS:
        raise UserError(f"no codec {name!r}: give {', '.join(CODECS)}, a codec's folder or a hub id")


def check_device(name: str) -> None:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", name):
        raise UserError(f"device {name!r} is not available: give cpu, cuda, cuda:1, mps or auto")
