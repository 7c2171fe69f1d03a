"""Training a language model on a store of codes: next-step prediction over the pattern, led by captions."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ostinato.generation.folders import copy_codec, load_lm, save_lm
from ostinato.generation.pipeline import Ostinato
from ostinato.models.lm import IGNORED, MusicLM, count_parameters
from ostinato.models.lora import adapt, merged
from ostinato.models.patterns import Pattern
from ostinato.training.codes_task import CodesTask
from ostinato.training.config import LMRun
from ostinato.training.flops import step_flops
from ostinato.training.init_from import going_over, init_folder
from ostinato.utils.errors import UserError
from ostinato.utils.files import fill

ADAPTED = "adapted.safetensors"  # of a checkpoint: the weights with the adapters apart


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


class LMTask(CodesTask):
    run: LMRun
    main = "lm"  # the module that is the model

    def __init__(self, run: LMRun, device: torch.device):
        super().__init__(run, device)
        K, size, info = run.model.num_codebooks, run.model.codebook_size, self.data.store.info
        if info["num_codebooks"] < K or size != info["codebook_size"]:
            raise UserError(
                f"the model needs {K} codebooks of {size}, {run.data} has {info['num_codebooks']} of "
                f"{info['codebook_size']}; set model.num_codebooks and model.codebook_size"
            )
        self.lm = MusicLM(run.model).to(device)
        self.lm.checkpointing = run.train.checkpointing
        self.modules: dict[str, nn.Module] = {"lm": self.lm}
        self.collate = partial(make_batch, pattern=self.lm.pattern, special=self.lm.special, least=self.least)

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
        chosen, batch = self.validated, self.run.train.batch
        rank, world = accelerator.process_index, accelerator.num_processes
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
