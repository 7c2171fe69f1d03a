"""A codec by its short name, folder or hub id."""

from pathlib import Path

import torch
from torch import nn

from ostinato.codecs.base import Codec
from ostinato.codecs.pocket import PocketCodec
from ostinato.packs import POCKET
from ostinato.utils.errors import UserError
from ostinato.utils.hub import fetch, model_type

SHORT_NAMES = {
    "dac": "descript/dac_44khz",
    "encodec": "facebook/encodec_32khz",
    "pocket": str(POCKET / "codec"),  # ships with the package
}


def hub_folder(source: str) -> Path:
    """The cached folder of a hub id that holds config.json and model.safetensors, fetched where need be. Errors:
    `fetch`."""
    import huggingface_hub

    # One by one: `model_type` leaves a snapshot of config.json alone, which snapshot_download takes for the whole. The
    # weights first: their fetch may move the cache to a newer revision, whose config then is fetched, too.
    names = ("model.safetensors", "config.json")
    files = [fetch(huggingface_hub.hf_hub_download, source, filename=name) for name in names]
    return Path(files[-1]).parent


def load_codec(name_or_folder: str | Path, device: str | torch.device = "cpu") -> Codec:
    """A codec by short name ("dac", "encodec", "pocket"), folder or hub id, on `device`.

    A folder of that name goes before a short name. Raises UserError for a name that is none of these, a hub that
    cannot be reached, and a model that is not a codec known here.
    """
    source = str(name_or_folder)
    if not Path(source).is_dir():
        if "/" not in source and source not in SHORT_NAMES:
            raise UserError(f"no codec {source!r}: give {', '.join(SHORT_NAMES)}, a codec's folder or a hub id")
        source = SHORT_NAMES.get(source, source)
    kind = model_type(source)
    codec: nn.Module
    if kind == "dac":
        from ostinato.codecs.dac import DAC  # transformers' networks take seconds to import

        codec = DAC.from_pretrained(source)
    elif kind == "encodec":
        from ostinato.codecs.encodec import EnCodec

        codec = EnCodec.from_pretrained(source)
    elif kind == "pocket":
        codec = PocketCodec.from_pretrained(source if Path(source).is_dir() else hub_folder(source))
    else:
        raise UserError(f"{source} holds a model of type {kind!r}, which is no codec here: give dac, encodec or pocket")
    return codec.to(device)  # type: ignore[return-value]  # all three have what Codec asks for
