"""Training a fine stage on a store of codes: diffusion of the fine latents beside the coarse ones, led by captions."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostinato.codecs.base import sound
from ostinato.codecs.losses import MEL_BINS, SpectralLoss
from ostinato.data.store import spread
from ostinato.generation.diffusion import code_loss, noised, v_loss
from ostinato.generation.fine_stage import (
    FineStage,
    Scale,
    check_sizes,
    code_table,
    fine_folder,
    load_fine,
    measure_scale,
    save_fine,
)
from ostinato.generation.folders import copy_codec
from ostinato.models.denoisers import make_denoiser
from ostinato.models.lm import count_parameters
from ostinato.training.codes_task import CodesTask
from ostinato.training.config import FineRun
from ostinato.training.flops import step_flops
from ostinato.training.init_from import going_over, init_folder
from ostinato.utils.files import fill

MEASURED = 256  # clips that mean and variance of the latents are measured on
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the noise in validation


def make_batch(items: list[tuple[Tensor, str]], least: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    """Clips of any lengths -> codes [b, K, T], mask [b, T] of the real frames, captions; T is `least` or more."""
    T = max(least, *(codes.shape[1] for codes, _ in items))
    codes = torch.stack([F.pad(codes, (0, T - codes.shape[1])) for codes, _ in items])
    mask = torch.arange(T) < torch.tensor([codes.shape[1] for codes, _ in items])[:, None]
    return codes, mask, [caption for _, caption in items]


class FineTask(CodesTask):
    run: FineRun
    scale: Scale  # of the latents; `load` or `start` sets it
    main = "denoiser"  # the module that is the model

    def __init__(self, run: FineRun, device: torch.device):
        super().__init__(run, device)
        check_sizes(run.model, self.codec)
        self.denoiser = make_denoiser(run.model).to(device)
        self.denoiser.checkpointing = run.train.checkpointing
        self.modules: dict[str, nn.Module] = {"denoiser": self.denoiser}
        self.collate = partial(make_batch, least=self.least)
        self.mel = SpectralLoss(self.codec.sample_rate).to(device)

    def describe(self) -> str:
        c = self.run.model
        count = count_parameters(self.denoiser) / 1e6
        return (
            f"fine stage ({c.denoiser}), {count:.{1 if count >= 1 else 3}f} M parameters to train, codebooks 2 to "
            f"{c.num_codebooks}, {len(self.data)} clips, {len(self.held_out)} held out{self.encode_text.told()}"
            f"{self.over}"
        )

    def latents(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """codes [b, K, T] -> coarse [b, C, T] and fine [b, F, T] latents, of variance 1."""
        latents = self.scale.apply(self.codec.codes_to_latents(codes.to(self.device)))
        coarse = self.run.model.coarse
        return latents[:, :coarse], latents[:, coarse:]

    def loss(self, accelerator: Any, denoiser: nn.Module, batch: tuple, time: Tensor, noise: Tensor) -> Tensor:
        codes, mask, captions = batch
        (coarse, fine), mask, (text, text_mask) = self.latents(codes), mask.to(self.device), self.encode_text(captions)
        noisy = noised(fine, noise, time)
        with accelerator.autocast():
            predicted = denoiser(noisy, coarse, time, text, text_mask, mask)
        if self.run.model.prediction_type == "v":
            return v_loss(predicted, fine, noise, time, mask)
        table = code_table(self.codec, self.scale)
        return code_loss(predicted, noisy, time, table, codes[:, 1:].to(self.device, torch.long), mask)

    def backward(self, accelerator: Any, batch: tuple, step: int, scale: float) -> dict[str, Tensor]:
        b, _, T = batch[0].shape
        # Times spread evenly over the batch: less variance than as many independent ones.
        time = (torch.rand((), device=self.device) + torch.arange(b, device=self.device) / b) % 1
        if self.run.model.prediction_type == "codes":
            time = time.sqrt()  # below about 0.25 the noisy latent alone tells the code: little to learn there
        noise = torch.randn(b, self.run.model.fine, T, device=self.device)
        loss = self.loss(accelerator, self.modules["denoiser"], batch, time[torch.randperm(b)], noise)
        accelerator.backward(loss * scale)
        return {"loss": loss.detach(), "tokens": batch[1].sum().to(self.device)}

    def flops(self, batch: tuple) -> int:
        """Model FLOPs of `backward` on a batch."""
        text = max(self.encode_text.lengths[caption] for caption in batch[2])
        return step_flops(self.run.model, len(batch[0]), batch[0].shape[-1], text)

    @torch.no_grad()
    def validate(self, accelerator: Any) -> dict[str, float]:
        """On held-out clips, the same ones on every process: the loss at fixed times and noise; and, of `sample_clips`,
        the mel distance of the sound drawn from real coarse codes to what all codes decode to (mel_fine), that of the
        first codebook alone (mel_coarse), and their ratio (mel_left: what is still missing, 1 at first)."""
        denoiser = accelerator.unwrap_model(self.modules["denoiser"]).eval()
        losses = []
        for i in self.validated:
            batch = self.collate([self.held_out[i]])
            codes, mask, captions = batch
            several = codes.repeat(len(TIMES), 1, 1), mask.repeat(len(TIMES), 1), captions * len(TIMES)
            shape = len(TIMES), self.run.model.fine, codes.shape[-1]
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(self.device)
            time = torch.tensor(TIMES, device=self.device)
            losses.append(float(self.loss(accelerator, denoiser, several, time, noise)))
        made, coarse = [], []
        for i in spread(len(self.held_out), self.run.sample_clips):
            heard = self.heard(denoiser, i)
            made.append(float(self.mel(heard["fine"], heard["codec"])))
            coarse.append(float(self.mel(heard["coarse"], heard["codec"])))
        denoiser.train()
        found = {"loss": losses, "mel_fine": made, "mel_coarse": coarse}
        means = {name: sum(values) / len(values) for name, values in found.items()}
        return means | {"mel_left": means["mel_fine"] / max(means["mel_coarse"], 1e-9)}

    def heard(self, denoiser: nn.Module, i: int) -> dict[str, Tensor]:
        """Held-out clip i [1, 1, samples] through its first codebook ("coarse"), that and the fine stage ("fine"), and
        all of its codes ("codec")."""
        codes, caption = self.held_out[i]
        codes = codes[None, :, : round(self.run.sample_seconds * self.codec.frame_rate)].to(self.device)
        stage = FineStage(denoiser, self.codec, self.scale, self.run.sampling)
        text, empty = self.encode_text([caption]), self.encode_text([""])
        stretches = stage.refine(codes[:, :1].unbind(-1), text, empty, [self.run.train.seed + i])
        fine = torch.cat([inputs for _, inputs in stretches], -1)
        versions = {"coarse": codes[:, :1], "fine": fine, "codec": codes}
        sounds = {name: sound(self.codec, version) for name, version in versions.items()}
        room = (0, max(0, max(MEL_BINS) - sounds["codec"].shape[-1]))
        return {name: F.pad(sound, room) for name, sound in sounds.items()}

    @torch.no_grad()
    def samples(self, folder: Path) -> list[tuple[str, Tensor, int]]:
        """Two held-out clips from the first codebook, from that and the checkpoint `folder`, and from all codes."""
        stage = load_fine(folder, self.codec, self.device)
        out = []
        for i in spread(len(self.held_out), 2):
            for name, audio in self.heard(stage.denoiser, i).items():
                out.append((f"{i}-{name}", audio[0].clamp(-1, 1).cpu(), self.codec.sample_rate))
        return out

    def export(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """State dict of the module in training -> of a plain denoiser."""
        return weights

    def save(self, folder: Path, modules: dict[str, dict[str, Tensor]], about: dict[str, Any]) -> None:
        """A fine stage's folder, from the modules' state dicts."""
        config: dict[str, Any] = {
            "text": self.run.text,
            "codec": copy_codec(self.codec_name, folder),
            "codec_id": self.codec_id,
        }
        config["sampling"] = dataclasses.asdict(self.run.sampling)
        save_fine(folder, self.run.model, self.scale, config | about, modules["denoiser"])

    def load(self, folder: Path) -> None:
        _, self.scale, *_ = fine_folder(folder)
        fill(self.denoiser, folder, "model.safetensors")

    def start(self) -> None:
        """Begin with the weights of `run.init`, or with random ones where there is none. The scale is what its weights
        were trained at, unless there are none or the run goes over to another codec: then that of the store."""
        folder = init_folder(self.run.init, "fine") if self.run.init else None
        if folder:
            self.over = going_over(self.run, folder, self.codec_id)
            fill(self.denoiser, folder)
        if folder and not self.over:
            _, self.scale, *_ = fine_folder(folder)
        else:
            train = self.data.store
            some = (train.codes(i)[None].to(self.device) for i in spread(len(train), MEASURED))
            self.scale = measure_scale(self.codec.codes_to_latents(codes)[0].cpu() for codes in some)
