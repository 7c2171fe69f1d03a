"""Training the pocket codec: spectral losses, quantiser dropout and, from a given step on, a discriminator."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from ostinato.codecs.losses import (
    MEL_BINS,
    Discriminator,
    SpectralLoss,
    adversarial_loss,
    discriminator_loss,
    si_sdr,
    waveform_distance,
)
from ostinato.codecs.pocket import PocketCodec
from ostinato.data.prepare import Store, open_store
from ostinato.data.store import spread
from ostinato.training.config import CodecRun
from ostinato.training.init_from import init_folder
from ostinato.utils.errors import UserError
from ostinato.utils.files import fill, write_model_folder


class Segments(Dataset):
    """A random segment of `samples` from each clip of an audio store: [1, samples]; one short of it is padded."""

    def __init__(self, store: Store, samples: int):
        self.store, self.samples = store, samples

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> Tensor:
        start = random.randrange(max(1, self.store.row(i)["frames"] - self.samples + 1))
        audio = self.store.pcm(i, start, self.samples)
        return nn.functional.pad(audio, (0, self.samples - audio.shape[-1]))


class CodecTask:
    main = "codec"  # the module that is the model
    remembers = True  # `ResidualVQ.revive`

    def __init__(self, run: CodecRun, device: torch.device):
        self.run, self.device = run, device
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            processes = torch.distributed.get_world_size()
            if processes > 1:  # what ResidualVQ.revive does is not synchronised
                raise UserError(
                    f"the codec trains in one process, and here are {processes}: start it without a launcher"
                )
        store = open_store(run.data)
        if store.info["kind"] != "pcm":
            raise UserError(
                f"{run.data} holds codes, a codec trains on audio: ostinato prepare FOLDER OUT --codec none"
            )
        if store.info["sample_rate"] != run.model.sample_rate:
            raise UserError(
                f"{run.data} is at {store.info['sample_rate']} Hz, the codec at {run.model.sample_rate} Hz; "
                f"prepare the store with --sample-rate {run.model.sample_rate}"
            )
        train, held_out = store.sides(run.train.all_data)
        if not len(train):
            raise UserError(f"{run.data} has no clips in its train split; add more files")
        self.data = Segments(train, store.fitting(round(run.clip_seconds * run.model.sample_rate)))
        self.held_out = held_out
        codec = PocketCodec(run.model).to(device)
        if run.decoder_only:
            for part in (codec.analyse, codec.encoder, codec.quantiser):
                part.requires_grad_(False)
        self.codec, self.score = codec, f"mel_{run.model.num_codebooks}"  # low is good
        self.modules: dict[str, nn.Module] = {"codec": codec, "discriminator": Discriminator().to(device)}
        self.loss = SpectralLoss(run.model.sample_rate).to(device)
        self.collate = torch.stack

    def describe(self) -> str:
        count = sum(p.numel() for p in self.codec.parameters()) / 1e6
        return f"pocket codec, {count:.1f} M parameters, {len(self.data)} clips, {len(self.held_out)} held out"

    def backward(self, accelerator: Any, audio: Tensor, step: int, scale: float) -> dict[str, Tensor]:
        run, audio = self.run, audio.to(self.device)
        K = run.model.num_codebooks
        # Half of each batch is decoded from its first n codebooks only, n drawn evenly (DAC, section 3.2).
        drawn = torch.randint(1, K + 1, (len(audio),), device=audio.device)
        keep = torch.where(torch.arange(len(audio), device=audio.device) % 2 == 0, drawn, K)
        made, quantised = self.modules["codec"](audio, keep)
        mel, waveform = self.loss(made, audio), waveform_distance(made, audio)
        loss = run.mel_weight * mel + run.waveform_weight * waveform
        loss = loss + run.commitment_weight * quantised.commitment_loss + quantised.codebook_loss
        metrics = {"mel": mel, "waveform": waveform, "commitment": quantised.commitment_loss}
        if step >= run.adversary_from:
            judge = self.modules["discriminator"]
            length = min(audio.shape[-1], round(run.adversary_seconds * run.model.sample_rate))
            start = random.randrange(audio.shape[-1] - length + 1)
            real, fake = (a[..., start : start + length] for a in (audio, made))
            judged = judge(real), judge(fake.detach())
            judge_loss = discriminator_loss(*judged)
            accelerator.backward(judge_loss * scale)
            judge.requires_grad_(False)
            score, matching = adversarial_loss(judged[0], judge(fake))
            judge.requires_grad_(True)
            loss = loss + run.adversarial_weight * score + run.matching_weight * matching
            metrics |= {"discriminator": judge_loss, "adversarial": score, "matching": matching}
        accelerator.backward(loss * scale)
        return {name: value.detach() for name, value in (metrics | {"loss": loss}).items()}

    def flops(self, batch: Tensor) -> int:
        """Not counted."""
        return 0

    @torch.no_grad()
    def validate(self, accelerator: Any) -> dict[str, float]:
        """Mel distance and SI-SDR (dB) on 5 s of held-out clips from the first 1, K / 2 and K codebooks; and the
        perplexity of the codes, codebook_size where all are used alike."""
        codec = accelerator.unwrap_model(self.modules["codec"]).eval()
        K, size = codec.num_codebooks, codec.codebook_size
        totals: dict[str, list[float]] = {}
        counts = torch.zeros(K, size)
        for i in spread(len(self.held_out), self.run.train.validation_clips):
            audio = self.held_out.pcm(i, 0, 5 * codec.sample_rate)[None].to(self.device)
            audio = nn.functional.pad(audio, (0, max(0, max(MEL_BINS) - audio.shape[-1])))
            codes = codec.encode(audio)
            for k in range(K):
                counts[k] += torch.bincount(codes[0, k].cpu(), minlength=size)
            for n in sorted({1, (K + 1) // 2, K}):
                made = codec.decode(codes[:, :n])[..., : audio.shape[-1]]
                totals.setdefault(f"mel_{n}", []).append(float(self.loss(made, audio)))
                totals.setdefault(f"si_sdr_{n}", []).append(float(si_sdr(made, audio)))
        codec.train()
        share = counts / counts.sum(1, keepdim=True)
        perplexity = torch.exp(-(share * share.clamp(min=1e-9).log()).sum(1))
        means = {name: sum(values) / len(values) for name, values in totals.items()}
        return means | {"perplexity_first": float(perplexity[0]), "perplexity_lowest": float(perplexity.min())}

    @torch.no_grad()
    def samples(self, folder: Path) -> list[tuple[str, Tensor, int]]:
        """Two held-out clips of 5 s as they are and through the codec of the checkpoint `folder`."""
        codec = PocketCodec.from_pretrained(folder).to(self.device)
        out = []
        for i in spread(len(self.held_out), 2):
            audio = self.held_out.pcm(i, 0, 5 * codec.sample_rate)
            made = codec.decode(codec.encode(audio[None].to(self.device)))[0].cpu()
            out += [(f"{i}-original", audio, codec.sample_rate), (f"{i}-codec", made, codec.sample_rate)]
        return out

    def identity(self) -> dict[str, Any]:
        """What clips the run is trained on."""
        rate = self.data.store.info["sample_rate"]
        return {"codec": f"audio, {rate} Hz", "clips": len(self.data), "digest": self.data.store.digest()}

    def measure(self) -> str:
        """Which clips validation listens to, by name: scores on others are not to be compared."""
        return self.held_out.digest(spread(len(self.held_out), self.run.train.validation_clips))

    def export(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """State dict of the module in training -> of a plain `PocketCodec`."""
        return weights

    def save(self, folder: Path, modules: dict[str, dict[str, Tensor]], about: dict[str, Any]) -> None:
        """A codec's folder, with the discriminator beside, from the modules' state dicts."""
        config = {"model_type": "pocket", "codec": dataclasses.asdict(self.run.model)} | about
        write_model_folder(folder, config, modules["codec"])
        judge = {name: t.cpu().contiguous() for name, t in modules["discriminator"].items()}
        save_file(judge, folder / "discriminator.safetensors")

    def load(self, folder: Path) -> None:
        fill(self.codec, folder, "model.safetensors")
        self.modules["discriminator"].load_state_dict(load_file(folder / "discriminator.safetensors"))

    def start(self) -> None:
        """Begin with the weights of `run.init`, or with random ones where there is none."""
        if self.run.decoder_only and not self.run.init:
            raise UserError("decoder_only keeps the codes of a codec: say of which with --init")
        if self.run.init:
            folder = init_folder(self.run.init, "codec")
            fill(self.codec, folder)
            if (folder / "discriminator.safetensors").is_file():
                self.modules["discriminator"].load_state_dict(load_file(folder / "discriminator.safetensors"))
