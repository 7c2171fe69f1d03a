"""What training either stage begins with: clips of codes and their captions, a text encoder, a codec."""

import random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ostinato.codecs.base import Codec, fingerprint
from ostinato.codecs.load import load_codec
from ostinato.data.prepare import Store, open_store
from ostinato.data.store import spread
from ostinato.models.text_encoder import CachedTextEncoder, TextEncoder, load_text_encoder
from ostinato.training.compilation import LENGTH
from ostinato.training.config import FineRun, LMRun
from ostinato.utils.errors import UserError


class CodeDataset(Dataset):
    """A stretch of at most `frames` frames of each clip, and one of its captions: (codes [K, T], caption).

    With `fixed`, always the clip's beginning and its first caption: for validation.
    """

    def __init__(self, store: Store, K: int, frames: int, text_dropout: float = 0.0, fixed: bool = False):
        self.store, self.K, self.frames, self.text_dropout, self.fixed = store, K, frames, text_dropout, fixed

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> tuple[Tensor, str]:
        codes, captions = self.store.codes(i)[: self.K], self.store.captions(i) or [""]
        if self.fixed:
            return codes[:, : self.frames], captions[0]
        start = random.randrange(max(1, codes.shape[1] - self.frames + 1))
        # A dropped caption is the empty caption, here as in sampling's unconditional branch.
        caption = "" if random.random() < self.text_dropout else random.choice(captions)
        return codes[:, start : start + self.frames], caption


def store_codec(run: LMRun | FineRun, store: Store, device: torch.device) -> tuple[str, str, Codec]:
    """Name, fingerprint and codec of a store of codes. Raises UserError where another codec wrote it."""
    name, codec_id = run.codec or store.info["codec"], store.info["codec_id"]
    codec = load_codec(name, device)
    if fingerprint(codec) != codec_id:
        raise UserError(
            f"{run.data} was written with codec {codec_id}, but {name} is {fingerprint(codec)}: prepare one with that, "
            f"ostinato prepare MUSIC NEW_STORE --codec {name}, or name the one it was written with: --set codec=..."
        )
    return name, codec_id, codec


def cached_text(encoder: TextEncoder, store: Store, run: LMRun | FineRun, device: torch.device) -> CachedTextEncoder:
    """The run's text encoder, with all captions of its store announced."""
    captions = {caption for several in store.table["captions"].to_pylist() for caption in several or ()}
    multiple = LENGTH if run.train.compile else 1
    return CachedTextEncoder(encoder, device, multiple, captions, run.train.text_cache * 1e9)


class CodesTask:
    """The part of `LMTask` and `FineTask` that is the same."""

    run: LMRun | FineRun
    score = "loss"  # the validation metric to choose by, low is good
    remembers = False  # does a forward pass in training change what a checkpoint holds?
    over = ""  # see `going_over`

    def __init__(self, run: LMRun | FineRun, device: torch.device):
        """Raises UserError for a store of audio, of another codec, or without clips to train on."""
        self.run, self.device = run, device
        store = open_store(run.data)
        if store.info["kind"] != "codes":
            raise UserError(f"{run.data} holds audio, and this trains on codes: ostinato prepare --codec ...")
        self.text = load_text_encoder(run.text, device)
        if self.text.width != run.model.text_width:
            raise UserError(f"{run.text} is {self.text.width} wide: set model.text_width={self.text.width}")
        self.codec_name, self.codec_id, self.codec = store_codec(run, store, device)
        train, held_out = store.sides(run.train.all_data)
        if not len(train):
            raise UserError(f"{run.data} has no clips in its train split; add more files")
        K, frames = run.model.num_codebooks, store.fitting(max(2, round(run.clip_seconds * self.codec.frame_rate)))
        self.data = CodeDataset(train, K, frames, run.text_dropout)
        self.held_out = CodeDataset(held_out, K, frames, fixed=True)
        self.validated = spread(len(held_out), run.train.validation_clips)  # the clips that validation listens to
        self.least = frames if run.train.compile else 0  # of a batch: compiled code wants equal lengths
        self.encode_text = cached_text(self.text, store, run, device)

    def identity(self) -> dict[str, Any]:
        """What clips the run is trained on."""
        return {"codec": self.codec_id, "clips": len(self.data), "digest": self.data.store.digest()}

    def measure(self) -> str:
        """Which clips validation listens to, by name: scores on others are not to be compared."""
        return f"{self.held_out.store.digest(self.validated)}, {self.run.clip_seconds:g} s"
