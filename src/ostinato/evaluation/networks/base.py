"""Networks that listen, for the metrics: one table, one download, one way to load them.

A listener turns a clip into embeddings of its windows; a tagger gives class logits too, and CLAP embeds sentences into
the space of its clips. `openl3`, `passt`, `vggish` and `clap` are the networks of the published metrics, with their
original weights. `efficientat` and `jamendo` are stand-ins of a few megabytes for developing with: their `proxy` is
true, and no number of theirs belongs in one table with the others'.
"""

import hashlib
import os
import pickle
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from torch import Tensor, nn

from ostinato.utils.errors import UserError, nearest
from ostinato.utils.hub import first_line

_BLOCK = 1 << 20  # bytes
_AT_ONCE = 16  # windows that go through a network together, so that a long clip takes no more memory than a short one


class Listener(Protocol):
    """What every network here does. Audio is mono float32 in [-1, 1] at `sample_rate`: a clip [samples], or clips of
    one length [b, samples]. A clip shorter than a window is padded as the original does it."""

    name: str  # as `load_listener` takes it, without the path
    sample_rate: int  # Hz
    window: float  # s that one embedding covers
    proxy: bool  # a stand-in, not the network of a published metric

    def embed(self, audio: Tensor) -> Tensor:
        """[samples] -> [windows, d], [b, samples] -> [b, windows, d], float32."""


class Tagger(Listener, Protocol):
    """A listener that gives tags (`passt`, `efficientat`, `jamendo`)."""

    labels: tuple[str, ...]  # of the classes, in order; empty where the weights come without

    def tags(self, audio: Tensor) -> Tensor:
        """[samples] -> logits [windows, classes], [b, samples] -> [b, windows, classes], float32."""


class TextListener(Listener, Protocol):
    """A listener that reads too (`clap`)."""

    def embed_text(self, texts: list[str]) -> Tensor:
        """n texts -> [n, d], float32, comparable with `embed` by cosine."""


@dataclass(frozen=True)
class Source:
    """One row of the table. `loader` is "module:class", called with the path of the weights. url "": by path only, as
    jamendo's file, models/jamendo/fcn/best_model.pth of github.com/minzwon/sota-music-tagging-models, has no name to
    keep it by.

    sha256 of the file at `url`: vggish's is the beginning that its name holds; those of passt and clap are what several
    projects independently recorded; no such witness of the others is known (""), and they are pinned on first use.
    """

    loader: str
    gives: str
    url: str = ""
    sha256: str = ""


LISTENERS = {
    "openl3": Source(
        "ostinato.evaluation.networks.openl3:OpenL3",
        "512-d embeddings of 1 s every 0.5 s (mel256, music) for the Frechet distance",
        "https://github.com/marl/openl3/raw/models/openl3_audio_mel256_music-v0_4_0.h5.gz",
    ),
    "passt": Source(
        "ostinato.evaluation.networks.passt:PaSST",
        "AudioSet's 527 tags of 10 s every 5 s, for the KL divergence",
        "https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset/passt-s-f128-p16-s10-ap.476-swa.pt",
        "302903fa8c4aee817b11dc982da0b29aaf8d11a3e722420476d0a12c9db70c2c",
    ),
    "vggish": Source(
        "ostinato.evaluation.networks.vggish:VGGish",
        "128-d embeddings of 0.96 s, for the Frechet audio distance",
        "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
        "10086976",
    ),
    "clap": Source(
        "ostinato.evaluation.networks.clap:CLAP",
        "512-d embeddings of 10 s and of sentences, for the CLAP score",
        "https://huggingface.co/lukewys/laion_clap/resolve/main/music_audioset_epoch_15_esc_90.14.pt",
        "fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
    ),
    "efficientat": Source(
        "ostinato.evaluation.networks.taggers:EfficientAT",
        "a stand-in: AudioSet's 527 tags and 384-d embeddings of 10 s every 5 s",
        "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/mn04_as_mAP_432.pt",
    ),
    "jamendo": Source(
        "ostinato.evaluation.networks.taggers:JamendoFCN",
        "a stand-in: MTG-Jamendo's 50 tags and 64-d embeddings of 29 s, by path only",
    ),
}


def load_listener(spec: str, device: str | torch.device = "cpu") -> Listener:
    """The network that `spec` names, on `device`: a name of `LISTENERS`, whose weights are fetched on first use, or
    "name:PATH" with the weights at PATH.

    Raises: UserError for an unknown name, a missing path, weights that cannot be had or are of another network.
    """
    name, _, given = spec.partition(":")
    if name not in LISTENERS:
        raise UserError(f"no listening network {name!r}: {nearest(name, list(LISTENERS))}")
    source = LISTENERS[name]
    if not given and not source.url:
        raise UserError(f"{name} takes its weights by path: write {name}:PATH")
    if given and not Path(given).is_file():
        raise UserError(f"no weights {given} for {name}: check the path")
    path = Path(given) if given else fetch_weights(source.url, source.sha256)
    module, _, loader = source.loader.partition(":")
    return getattr(import_module(module), loader)(path).to(device)


def hear(listener: Listener, audio: Tensor, sample_rate: int) -> np.ndarray:
    """One mono clip, [samples] or with axes of one before, at any rate -> its embedding [windows, d]."""
    at = soxr.resample(audio.flatten().cpu().numpy(), sample_rate, listener.sample_rate).astype(np.float32)
    return listener.embed(torch.from_numpy(at)).cpu().numpy()


def peak_normalised(audio: Tensor, db: float = -1.0) -> Tensor:
    """audio [..., samples] -> the same with its peak at `db` dB of full scale, as stable-audio-metrics does before each
    of its networks; digital silence stays as it is."""
    peak = audio.abs().amax(-1, keepdim=True)
    return audio * torch.where(peak > 0, 10 ** (db / 20) / peak, 1.0)


def cut(audio: Tensor, size: int, hop: int, count: int) -> Tensor:
    """audio [..., samples] -> its first `count` windows [..., count, size], zeros where it has ended."""
    return F.pad(audio, (0, max(0, (count - 1) * hop + size - audio.shape[-1]))).unfold(-1, size, hop)[..., :count, :]


@torch.no_grad()
def each_window(network: Callable[[Tensor], Tensor], windows: Tensor) -> Tensor:
    """`network`, from [n, samples] to [n, d], over windows [..., n, samples]: [..., n, d], float32."""
    parts = [network(part) for part in windows.flatten(0, -2).split(_AT_ONCE)]
    return torch.cat(parts).float().unflatten(0, windows.shape[:-1])


def read_weights(path: str | Path) -> dict[str, Any]:
    """A file of torch.save, tensors only and on the CPU. Raises UserError for a file that is no such thing."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds no weights alone, as torch.save writes them: check the path") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"cannot read the weights {path} ({first_line(error)}): delete the file, fetch anew") from error


def fill(network: nn.Module, weights: dict[str, Tensor], path: str | Path, name: str) -> None:
    """Make `weights` those of `network` (which may be on "meta"), every name and shape as it has them. Raises UserError
    where `path` holds others."""
    try:
        network.load_state_dict(weights, assign=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        told = " ".join(str(error).split())[:200]
        raise UserError(f"{path} holds no weights of {name} ({told}): check the path") from error


def weights_folder() -> Path:
    """Where weights are kept: torch.hub's checkpoints, where other tools may have put them; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch_weights(url: str, sha256: str = "", folder: Path | None = None) -> Path:
    """The file at `url` in `folder` (default: `weights_folder()`), downloaded where it is not there yet.

    The file is held against `sha256` (all of it or a prefix). Where none is known it is pinned on first use: the digest
    is written beside the file (NAME.sha256), and later loads are held against that.

    Raises: UserError where it cannot be had, naming the address and where to put the file by hand, and for a file
    whose digest is another; what was downloaded wrong is removed.
    """
    path = (folder or weights_folder()) / url.rsplit("/", 1)[-1]
    pin = path.with_name(path.name + ".sha256")
    fresh = not path.exists()
    if fresh:
        _download(url, path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    expected = sha256 or (pin.read_text().split()[0] if pin.exists() else "")
    if not expected:
        pin.write_text(f"{found}  {path.name}\n")
    if not found.startswith(expected):
        if fresh:
            path.unlink()
        raise UserError(
            f"{path} has sha256 {found[:16]}..., not {expected[:16]}...: "
            + ("the download was damaged, try again" if fresh else f"delete it, and {pin.name} if there, to fetch anew")
        )
    return path


def _download(url: str, path: Path) -> None:
    """Fetch `url` to `path`, which appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as reply, temporary.open("wb") as file:
            length = int(reply.headers.get("Content-Length") or 0)
            with Progress(*columns, TimeRemainingColumn(), transient=True) as bar:
                task = bar.add_task(path.name, total=length or None)
                while block := reply.read(_BLOCK):
                    file.write(block)
                    bar.advance(task, len(block))
        if length and temporary.stat().st_size != length:
            raise OSError(f"{temporary.stat().st_size} of {length} bytes came")
        os.replace(temporary, path)
    except OSError as error:  # URLError, HTTPError and timeouts are among them
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(f"could not fetch {url} ({reason}): fetch it elsewhere and put it at {path}") from error
    finally:
        temporary.unlink(missing_ok=True)
