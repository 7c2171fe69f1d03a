"""Training a language model on a store of codes: next-step prediction over the pattern, led by captions."""

import dataclasses
import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from ostinato.codecs.base import Codec, fingerprint
from ostinato.codecs.load import load_codec
from ostinato.data.prepare import Store, open_store
from ostinato.data.store import spread
from ostinato.generation.folders import copy_codec, load_lm, save_lm
from ostinato.generation.pipeline import Ostinato
from ostinato.models.lm import IGNORED, MusicLM, count_parameters
from ostinato.models.lora import adapt, merged
from ostinato.models.patterns import Pattern
from ostinato.models.text_encoder import CachedTextEncoder, TextEncoder, load_text_encoder
from ostinato.training.compilation import LENGTH
from ostinato.training.config import FineRun, LMRun
from ostinato.training.flops import step_flops
from ostinato.training.init_from import going_over, init_folder
from ostinato.utils.errors import UserError
from ostinato.utils.files import fill

ADAPTED = "adapted.safetensors"  # of a checkpoint: the weights with the adapters apart


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


def make_batch(
    items: list[tuple[Tensor, str]], pattern: Pattern, special: int, least: int = 0
) -> tuple[Tensor, Tensor, list[str]]:
    """Clips of any lengths -> inputs [b, K, S], targets [b, K, S] (IGNORED where no code stands), captions; S as for
    `least` frames or more."""
    S = pattern.length(max(least, *(codes.shape[1] for codes, _ in items)))
    steps = torch.full((len(items), pattern.K, S), special)
    for row, (codes, _) in zip(steps, items, strict=True):
        encoded = pattern.encode(codes[None], special)[0]
        row[:, : encoded.shape[1]] = encoded
    inputs = F.pad(steps, (1, -1), value=special)  # the step before the first is special
    return inputs, steps.masked_fill(steps == special, IGNORED), [caption for _, caption in items]


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


class LMTask:
    main, score = "lm", "loss"  # the module that is the model; the validation metric to choose by, low is good
    remembers = False  # does a forward pass in training change what a checkpoint holds?
    over = ""  # see `going_over`

    def __init__(self, run: LMRun, device: torch.device):
        self.run, self.device = run, device
        store = open_store(run.data)
        if store.info["kind"] != "codes":
            raise UserError(f"{run.data} holds audio, a language model trains on codes: ostinato prepare --codec ...")
        K, size = run.model.num_codebooks, run.model.codebook_size
        if store.info["num_codebooks"] < K or size != store.info["codebook_size"]:
            raise UserError(
                f"the model needs {K} codebooks of {size}, {run.data} has {store.info['num_codebooks']} of "
                f"{store.info['codebook_size']}; set model.num_codebooks and model.codebook_size"
            )
        self.text = load_text_encoder(run.text, device)
        if self.text.width != run.model.text_width:
            raise UserError(f"{run.text} is {self.text.width} wide: set model.text_width={self.text.width}")
        self.codec_name, self.codec_id, self.codec = store_codec(run, store, device)
        frames = store.fitting(max(2, round(run.clip_seconds * store.info["frame_rate"])))
        train, held_out = store.sides(run.train.all_data)
        if not len(train):
            raise UserError(f"{run.data} has no clips in its train split; add more files")
        self.data = CodeDataset(train, K, frames, run.text_dropout)
        self.held_out = CodeDataset(held_out, K, frames, fixed=True)
        self.lm = MusicLM(run.model).to(device)
        self.lm.checkpointing = run.train.checkpointing
        self.modules: dict[str, nn.Module] = {"lm": self.lm}
        least = frames if run.train.compile else 0
        self.collate = partial(make_batch, pattern=self.lm.pattern, special=self.lm.special, least=least)
        self.encode_text = cached_text(self.text, store, run, device)

    def describe(self) -> str:
        c = self.run.model
        count = count_parameters(self.lm) / 1e6
        return (
            f"{c.variant}, {count:.{1 if count >= 1 else 3}f} M parameters to train, {c.num_codebooks} codebooks "
            f"({c.pattern}), {len(self.data)} clips, {len(self.held_out)} held out{self.encode_text.told()}"
            f"{self.over}"
        )

    def backward(
        self, accelerator: Any, batch: tuple[Tensor, Tensor, list[str]], step: int, scale: float
    ) -> dict[str, Tensor]:
        inputs, targets, captions = batch
        text, mask = self.encode_text(captions)
        targets = targets.to(self.device, non_blocking=True)
        inputs, counts = inputs.to(self.device, non_blocking=True), (targets != IGNORED).sum((0, 2))
        with accelerator.autocast():
            losses = self.modules["lm"](inputs, text, mask, targets, self.run.label_smoothing)
        # The mean over the codes of all processes; the gradients' mean over processes is taken of what they give.
        everywhere = accelerator.reduce(counts.float(), "mean").clamp(min=1 / accelerator.num_processes)
        loss = (losses / everywhere).mean()
        accelerator.backward(loss * scale)
        return {"loss": loss.detach(), "tokens": (targets != IGNORED).any(1).sum()}

    def flops(self, batch: tuple[Tensor, Tensor, list[str]]) -> int:
        """Model FLOPs of `backward` on a batch; 0 with adapters, for which they are not counted."""
        pattern, (b, _, S) = self.lm.pattern, batch[0].shape
        frames = (S - 1 - pattern.offset * (pattern.K - 1)) // pattern.stride + 1
        text = max(self.encode_text.lengths[caption] for caption in batch[2])
        return 0 if self.run.lora else step_flops(self.run.model, b, frames, text)

    @torch.no_grad()
    def validate(self, accelerator: Any) -> dict[str, float]:
        """Cross-entropy in nats a code on held-out clips, no label smoothing: the mean, and of each codebook. The clips
        are shared out among the processes."""
        lm = accelerator.unwrap_model(self.modules["lm"]).eval()
        chosen = spread(len(self.held_out), self.run.train.validation_clips)
        batch, rank, world = self.run.train.batch, accelerator.process_index, accelerator.num_processes
        totals = torch.zeros(2, self.run.model.num_codebooks, device=self.device)
        for i in range(0, len(chosen), batch * world):
            mine = chosen[i + rank * batch : i + (rank + 1) * batch]
            # One without clips goes along on another's: sharded weights are gathered from all.
            items = [self.held_out[j] for j in mine or chosen[:1]]
            inputs, targets, captions = self.collate(items)
            targets = targets.to(self.device)
            with accelerator.autocast():
                losses = lm(inputs.to(self.device), *self.encode_text(captions), targets)
            totals += torch.stack([losses, (targets != IGNORED).sum((0, 2))]) * bool(mine)
        lm.train()
        losses, counts = accelerator.reduce(totals, "sum").tolist()
        means = [loss / max(1, count) for loss, count in zip(losses, counts, strict=True)]
        return {"loss": sum(means) / len(means)} | {f"codebook_{k}": value for k, value in enumerate(means)}

    @torch.no_grad()
    def samples(self, folder: Path) -> list[tuple[str, Tensor, int]]:
        """The run's prompts as the checkpoint `folder` plays them, each with the run's seed."""
        if not self.run.prompts:
            return []
        model = Ostinato(load_lm(folder)[0].to(self.device), self.text, self.codec, sampling=self.run.sampling)
        clips = model.generate(list(self.run.prompts), self.run.sample_seconds, self.run.train.seed)
        return [(f"{i}-{slug(clip.prompt)}", clip.audio, clip.sample_rate) for i, clip in enumerate(clips)]  # type: ignore[arg-type]

    def identity(self) -> dict[str, Any]:
        """What clips the run is trained on."""
        return {"codec": self.codec_id, "clips": len(self.data), "digest": self.data.store.digest()}

    def measure(self) -> str:
        """Which clips validation listens to, by name: scores on others are not to be compared."""
        chosen = spread(len(self.held_out), self.run.train.validation_clips)
        return f"{self.held_out.store.digest(chosen)}, {self.run.clip_seconds:g} s"

    def export(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """State dict of the module in training -> of a plain `MusicLM`."""
        return merged(weights) if self.run.lora else weights

    def save(self, folder: Path, modules: dict[str, dict[str, Tensor]], about: dict[str, Any]) -> None:
        """A model folder, from the modules' state dicts; of adapters also the weights with these apart, for `load`."""
        config: dict[str, Any] = {
            "text": self.run.text,
            "codec": copy_codec(self.codec_name, folder),
            "codec_id": self.codec_id,
            "sampling": dataclasses.asdict(self.run.sampling),
        }
        save_lm(folder, self.lm, config | about, weights=self.export(modules["lm"]))
        if self.run.lora:
            save_file({name: t.cpu().contiguous() for name, t in modules["lm"].items()}, folder / ADAPTED)

    def load(self, folder: Path) -> None:
        if self.run.lora:
            adapt(self.lm, self.run.lora)
        fill(self.lm, folder, ADAPTED if self.run.lora else "model.safetensors")

    def start(self) -> None:
        """Begin with the weights of `run.init`, or with random ones where there is none."""
        if self.run.init:
            folder = init_folder(self.run.init, "lm")
            self.over = going_over(self.run, folder, self.codec_id)
            fill(self.lm, folder)
        if self.run.lora:
            adapt(self.lm, self.run.lora)


def slug(text: str) -> str:
    """A file name from a prompt."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())[:40]
