"""Model folders, as Hugging Face has them: config.json beside model.safetensors; and files that are written whole."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ostinato.utils.errors import UserError, why

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

M = TypeVar("M", bound=nn.Module)


def read_config(folder: str | Path) -> dict:
    """config.json of a model folder. Raises UserError if there is none or it is not a JSON object."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a model folder: it has no config.json")
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): make it readable, or copy the folder again") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); the folder may be damaged, copy it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} should hold a JSON object, and holds a {type(config).__name__}")
    return config


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, floating ones as float32. Raises UserError if it is incomplete, if its
    bytes are not those that were saved, or if a weight is not a finite number."""
    if not Path(path).is_file():
        raise UserError(f"{path} is missing: the model folder is not complete, copy it again")
    try:
        weights = load_file(path)
        expected = saved_digest(Path(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); copy the folder again") from error
    if expected and digest(weights) != expected:
        raise UserError(f"{path} is not what was saved (another sha256): it is damaged, copy the folder again")
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.sum().isfinite():  # one pass, and nothing new in memory
            raise UserError(f"{path}: the weight {name} holds values that are not finite; take an earlier checkpoint")
    return weights


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, whatever order a file has them in."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def saved_digest(path: Path) -> str | None:
    """The `digest` that a file of weights was saved with: in its own header, or in the config.json beside it. Raises
    what safetensors raises."""
    with safe_open(path, "pt") as file:
        own = (file.metadata() or {}).get("sha256")
    if own or path.name != "model.safetensors" or not path.with_name("config.json").is_file():
        return own
    return read_config(path.parent).get("sha256")


class Unfilled(TorchFunctionMode):
    """Modules made under it have weights without values, for a file to fill: no time is spent on drawing them. (On the
    meta device a draw has PyTorch import its compiler, which takes seconds.)"""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(function, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def load_module(folder: str | Path, make: Callable[[], M], count: int) -> M:
    """The module that `make` builds, with the folder's weights, mapped into memory where they are float32; ready to
    play. count, and errors: as `check_shapes` and `fill`."""
    check_shapes(folder, make, count)
    with Unfilled():
        module = make()
    fill(module, folder, assign=True)
    return module.eval()


def check_shapes(folder: str | Path, make: Callable[[], nn.Module], count: int) -> None:
    """Raise UserError unless the module that `make` builds has the shapes of the folder's weights. Nothing is
    allocated: a config.json from a stranger cannot ask for more memory than the weights beside it explain.

    count: how many times the config has `make` repeat something; the file has at least a tensor for each.
    """
    path = weights_file(folder)
    if not path.is_file():
        raise UserError(f"{path} is missing: the model folder is not complete, copy it again")
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); copy the folder again") from error
    unfit = f"the weights in {folder} do not fit its config.json"
    if count > len(shapes):
        raise UserError(f"{unfit}: it asks for {count} parts, and there are {len(shapes)} weights in all")
    try:
        with torch.device("meta"), Unfilled():
            module = make()
    except (RuntimeError, ValueError, TypeError, OverflowError, ArithmeticError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder}/config.json describes no model that can be built ({reason})") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(name) != shapes.get(name):
            has, asks = (f"{list(s[name])}" if name in s else "nothing" for s in (shapes, wanted))
            raise UserError(f"{unfit}: {name} is {has} in the file, {asks} by the config; copy the folder again")


def weights_file(folder: str | Path) -> Path:
    """The file of the weights to play: model.safetensors, or the averaged ones beside it where config.json says so."""
    name = read_config(folder).get("weights", "model.safetensors")
    if name not in ("model.safetensors", "ema.safetensors"):
        raise UserError(f"{folder}/config.json has weights {name!r}, not model.safetensors or ema.safetensors")
    return Path(folder) / name


def fill(module: nn.Module, folder: str | Path, name: str | None = None, assign: bool = False) -> None:
    """Load the weights of a folder into `module`: the file `name`, by default those to play. assign: in place of the
    module's own, which may be in use elsewhere. Raises UserError if they are of another module, or not whole."""
    weights = read_weights(Path(folder) / name if name else weights_file(folder))
    try:
        module.load_state_dict(weights, assign=assign)
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
    metadata = {"sha256": digest(plain)}  # one key: safetensors writes several in an order by chance
    write_atomic(folder / "model.safetensors", lambda temporary: save_file(plain, temporary, metadata))
    write_config(folder, {key: value for key, value in config.items() if key != "sha256"})


def write_config(folder: Path, config: dict) -> None:
    """Write config.json, whole or not at all. Raises: as `write_atomic`."""
    write_atomic(folder / "config.json", lambda temporary: temporary.write_text(json.dumps(config, indent=2) + "\n"))


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """`write` a temporary file beside `path`, flush it to the disk, rename it. Raises: UserError when that fails."""
    if path.exists() and not path.is_file():  # a device would be replaced
        raise UserError(f"cannot write {path}: it is no ordinary file, name another")
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        share(temporary)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)  # the rename itself
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # half a file on a full disk helps nobody
        raise UserError(f"cannot write {path} ({why(error)})") from error


_held: set[IO] = set()  # files that hold a lock: a child closes them, or it would hold the lock longer than its parent
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: [file.close() for file in _held])


@contextmanager
def held(file: IO) -> Iterator[None]:
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Make the folder `out` and hold it: two runs at once would overwrite each other's files. The lock dies with the
    process. Raises UserError where another process has it, or it cannot be written."""
    lock = out / ".lock"
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): choose another place") from error
    with open(lock) as file, held(file):
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"another run is writing {out}: wait for it, or choose another place") from error
            except OSError:  # a network file system without locks
                pass
        yield


_mask = os.umask(0o022)  # it can only be read by setting it, which other threads would see later on
os.umask(_mask)


def share(path: Path) -> None:
    """Let others read a file as they may read any: safetensors keeps its files to their owner."""
    os.chmod(path, 0o666 & ~_mask)


def flush(path: Path) -> None:
    """Wait until a file, or what a folder says of its files, is on the disk. Raises OSError."""
    if path.is_dir() and os.name != "posix":
        return  # elsewhere a folder cannot be opened
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
