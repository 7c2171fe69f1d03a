"""Model folders, as Hugging Face has them: config.json beside model.safetensors; and files that are written whole."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ostinato.utils.errors import UserError


def read_config(folder: str | Path) -> dict:
    """config.json of a model folder. Raises UserError if there is none or it is not a JSON object."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a model folder: it has no config.json")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); the folder may be damaged, copy it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} should hold a JSON object, and holds a {type(config).__name__}")
    return config


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, floating ones as float32. Raises UserError if it is incomplete."""
    if not Path(path).is_file():
        raise UserError(f"{path} is missing: the model folder is not complete, copy it again")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); copy the folder again") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def read_model_folder(folder: str | Path, model_type: str) -> tuple[dict, dict[str, Tensor]]:
    """config.json and weights of a folder of the given model_type. Raises UserError where they are not that."""
    config = read_config(folder)
    if config.get("model_type") != model_type:
        raise UserError(f"{folder} holds a model of type {config.get('model_type')!r}, not {model_type!r}")
    return config, read_weights(weights_file(folder))


def weights_file(folder: str | Path) -> Path:
    """The file of the weights to play: model.safetensors, or the averaged ones beside it where config.json says so."""
    name = read_config(folder).get("weights", "model.safetensors")
    if name not in ("model.safetensors", "ema.safetensors"):
        raise UserError(f"{folder}/config.json has weights {name!r}, not model.safetensors or ema.safetensors")
    return Path(folder) / name


def fill(module: nn.Module, folder: str | Path, name: str | None = None) -> None:
    """Load the weights of a folder into `module`: the file `name`, by default those to play. Raises UserError if they
    are of another module, or not whole."""
    weights = read_weights(Path(folder) / name if name else weights_file(folder))
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the weights in {folder} do not fit its config.json: {str(error).splitlines()[-1].strip()}"
        ) from error


def write_model_folder(folder: str | Path, config: dict, weights: dict[str, Tensor]) -> None:
    """Write config.json and model.safetensors into `folder`, each whole or not at all. Raises: as `write_atomic`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror}): name another") from error
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomic(folder / "model.safetensors", lambda temporary: save_file(plain, temporary))
    write_config(folder, config)


def write_config(folder: Path, config: dict) -> None:
    """Write config.json, whole or not at all. Raises: as `write_atomic`."""
    write_atomic(folder / "config.json", lambda temporary: temporary.write_text(json.dumps(config, indent=2) + "\n"))


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """`write` a temporary file beside `path`, flush it to the disk, rename it. Raises: UserError when that fails."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)  # the rename itself
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # half a file on a full disk helps nobody
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path} ({reason}): is the folder writable, with room left?") from error


def flush(path: Path) -> None:
    """Wait until a file, or what a folder says of its files, is on the disk. Raises OSError."""
    if path.is_dir() and os.name != "posix":
        return  # elsewhere a folder cannot be opened
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
