"""Other people's models, loaded quietly: from a folder, from the hub's local cache, then from the hub."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn

from ostinato.utils.errors import UserError
from ostinato.utils.files import read_config

T = TypeVar("T")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Frozen(nn.Module):
    """A module that stays as it was loaded: evaluation mode whatever holds it, and nothing to train."""

    def freeze(self) -> None:
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        # DAC in training mode drops codebooks at random, and whoever holds one calls train() on all it holds.
        return super().train(False)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the warnings and progress bars of transformers and huggingface_hub; put everything back after."""
    import huggingface_hub.utils.logging as hub_logging
    import transformers.utils.logging as transformers_logging  # seconds to import

    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    hub_level = hub_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()


def fetch(load: Callable[..., T], source: str | Path, **options: Any) -> T:
    """`load(source, **options)` without a word printed, `source` being a folder or a hub id (owner/name).

    Raises UserError for a folder that is not there or not whole, and for a hub id that is neither in the local cache
    nor reachable.
    """
    source = str(source)
    local = Path(source).is_dir()
    if not local and not HUB_ID.fullmatch(source):
        raise UserError(f"no folder {source!r}: check the path, or give a hub id such as google/flan-t5-base")
    with quiet():
        try:
            # The cache first: a model fetched once then loads without a network, and without waiting for one.
            return load(source, local_files_only=True, **options)
        except Exception as error:  # a damaged tokenizer.json raises a bare Exception
            if local:
                raise UserError(f"{source} could not be loaded ({first_line(error)}); copy the folder again") from error
        try:
            return load(source, **options)
        except Exception as error:
            raise UserError(
                f"{source!r} is not a folder here and could not be fetched from the Hugging Face hub "
                f"({first_line(error)}); check the name and the network, or give a folder that holds the model"
            ) from error


def load_model(cls: Any, source: str | Path, **options: Any) -> Any:
    """A transformers model in float32, every weight of it read from `source` (folder or hub id). Errors: `fetch`."""
    model, report = fetch(cls.from_pretrained, source, dtype=torch.float32, output_loading_info=True, **options)
    # transformers fills in what a file lacks with random numbers, and only warns.
    absent = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if absent:
        raise UserError(
            f"{source} lacks {len(absent)} weights of a {cls.__name__}, the first {absent[0]}; "
            "it is another type of model or a damaged copy"
        )
    return model


def model_type(source: str | Path) -> str | None:
    """`model_type` in config.json of a folder or hub id, None if it names none. Errors: `fetch`, `read_config`."""
    if Path(source).is_dir():
        return read_config(source).get("model_type")
    from transformers import PretrainedConfig

    return fetch(PretrainedConfig.get_config_dict, source)[0].get("model_type")


def first_line(error: Exception) -> str:
    """The first line of an exception's message, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
