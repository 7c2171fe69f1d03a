"""The fine stage ready to play: coarse codes and text in, the codes of all codebooks out; and its folder.

A folder has config.json (model_type "ostinato-fine") and model.safetensors, the denoiser's weights.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from ostinato.codecs.base import Codec, sound_id
from ostinato.generation.diffusion import Denoiser, code_velocity, guided
from ostinato.generation.precision import told
from ostinato.generation.schedule import noises
from ostinato.generation.settings import FineSampling, check_temperature
from ostinato.generation.windows import Windows
from ostinato.models.denoisers import FineConfig, make_denoiser
from ostinato.models.text_encoder import TextEncoder
from ostinato.utils.errors import UserError
from ostinato.utils.files import load_module, read_config, write_model_folder
from ostinato.utils.schema import build

SEEDS = 2**62  # added to a clip's seed: the fine stage's noise is another than the language model's


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each number of a codec's latent, all K codebooks (K * latent_width of them)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ValueError("mean and std must be as many, and every std above 0")

    def apply(self, latents: Tensor, first: int = 0) -> Tensor:
        """latents [b, n, T], the numbers from `first` on -> with mean 0 and variance 1."""
        mean, std = self.at(latents, first)
        return (latents - mean) / std

    def undo(self, latents: Tensor, first: int = 0) -> Tensor:
        mean, std = self.at(latents, first)
        return latents * std + mean

    def at(self, latents: Tensor, first: int) -> tuple[Tensor, Tensor]:
        last = first + latents.shape[1]
        mean, std = (torch.tensor(x[first:last], device=latents.device)[:, None] for x in (self.mean, self.std))
        return mean.to(latents.dtype), std.to(latents.dtype)


def measure_scale(latents: Iterable[Tensor]) -> Scale:
    """Of latents [n, T] of several clips. Raises ValueError for none."""
    total = square = None
    count = 0
    for x in latents:
        x = x.double()
        total = x.sum(1) + (0 if total is None else total)
        square = x.square().sum(1) + (0 if square is None else square)
        count += x.shape[1]
    if total is None or square is None:
        raise ValueError("no latents to measure")
    mean = total / count
    std = (square / count - mean.square()).clamp(min=1e-12).sqrt().clamp(min=1e-4)
    return Scale(tuple(mean.tolist()), tuple(std.tolist()))


def code_table(codec: Codec, scale: Scale) -> Tensor:
    """The latents of all codes of codebooks 2 to K, [K - 1, V, latent_width]."""
    K, V = codec.num_codebooks, codec.codebook_size
    every = torch.arange(V, device=next(codec.parameters()).device).expand(1, K, V)  # type: ignore[attr-defined]
    return scale.apply(codec.codes_to_latents(every))[0].unflatten(0, (K, -1))[1:].mT.contiguous().float()


def with_coarse(codec: Codec, coarse: Tensor, latents: Tensor) -> Tensor:
    """coarse codes [b, n, T] and fine latents [b, (K - n) * latent_width, T] -> the latents of both, coarse first."""
    return torch.cat([codec.codes_to_latents(coarse), latents.float()], 1)


def quantize(codec: Codec, coarse: Tensor, latents: Tensor) -> Tensor:
    """coarse codes [b, n, T] and fine latents [b, (K - n) * latent_width, T] -> codes [b, K, T]: each fine latent to
    its nearest code, codebook after codebook; the coarse codes stay."""
    codes = codec.latents_to_codes(with_coarse(codec, coarse, latents))
    return torch.cat([coarse, codes[:, coarse.shape[1] :]], 1)


@dataclass
class FineStage:
    """A denoiser with all that it takes to fill in codes. `config`: what config.json says of it."""

    denoiser: nn.Module
    codec: Codec
    scale: Scale
    sampling: FineSampling = field(default_factory=FineSampling)
    config: dict = field(default_factory=dict)
    text: TextEncoder | None = None  # None: that of the language model

    @property
    def sizes(self) -> FineConfig:
        return self.denoiser.config  # type: ignore[return-value]

    def velocity(self, temperature: float = 1.0) -> Denoiser:
        """The denoiser, of any type of weights, as one that predicts v of float32. Errors: `check_temperature`."""
        check_temperature(self.sizes.prediction_type, temperature)
        dtype = next(self.denoiser.parameters()).dtype
        table = code_table(self.codec, self.scale) if self.sizes.prediction_type == "codes" else None

        def predict(noisy: Tensor, coarse: Tensor, time: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
            out = self.denoiser(noisy.to(dtype), coarse.to(dtype), time, text.to(dtype), text_mask).to(noisy.dtype)
            return out if table is None else code_velocity(out / temperature, noisy, time, table)

        return predict

    def frames(self, settings: FineSampling) -> tuple[int, int]:
        """Frames of a window and of its overlap on either side."""
        overlap = round(settings.overlap * self.codec.frame_rate)
        return max(2 * overlap + 1, round(settings.window * self.codec.frame_rate)), overlap

    def latents(
        self,
        coarse: Iterable[Tensor],
        text: tuple[Tensor, Tensor],
        empty: tuple[Tensor, Tensor],
        seeds: list[int],
        settings: FineSampling | None = None,
        prompt_codes: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Coarse codes [b, 1], frame by frame -> a window behind at the most, stretches of them [b, 1, n], each with
        its fine latents as the codec has them [b, F, n].

        text: embeddings and mask of b rows; empty: of the empty prompt, one row; seeds: one a row; prompt_codes
        [b, K, T0]: codes that stand before.
        """
        settings = settings or self.sampling
        C, device = self.sizes.coarse, next(self.denoiser.parameters()).device
        generators = [torch.Generator(device).manual_seed((seed + SEEDS) % 2**63) for seed in seeds]
        shape = noises(settings.sampler, settings.steps), self.sizes.fine

        def noise(frames: int) -> Tensor:  # [noises, b, F, frames], frame by frame, so that any split has the same
            rows = [[torch.randn(shape, generator=g, device=device) for g in generators] for _ in range(frames)]
            return torch.stack([torch.stack(row, 1) for row in rows], -1)

        velocity_of = guided(self.velocity(settings.temperature), text, empty, settings.guidance)
        first = round(settings.first * self.codec.frame_rate)
        windows = Windows(velocity_of, settings, *self.frames(settings), first=first)
        if prompt_codes is not None and prompt_codes.shape[-1] and windows.overlap:
            before = self.scale.apply(self.codec.codes_to_latents(prompt_codes))[..., -windows.overlap :]
            windows.begin(before[:, :C], before[:, C:], noise(before.shape[-1]))
        waiting: list[Tensor] = []  # coarse codes without their fine frames
        frames = iter(coarse)
        while stretch := list(islice(frames, windows.missing)):
            waiting += stretch
            latents = self.scale.apply(self.codec.codes_to_latents(torch.stack(stretch, -1)))
            fine = windows.push(latents, noise(len(stretch)))
            if n := fine.shape[-1]:
                yield torch.stack(waiting[:n], -1), self.scale.undo(fine, C)
                waiting = waiting[n:]
        if (rest := windows.finish()) is not None:
            yield torch.stack(waiting, -1), self.scale.undo(rest, C)

    def refine(
        self,
        coarse: Iterable[Tensor],
        text: tuple[Tensor, Tensor],
        empty: tuple[Tensor, Tensor],
        seeds: list[int],
        settings: FineSampling | None = None,
        prompt_codes: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`latents`, quantized: stretches of codes [b, K, n], each with what the codec is to decode of it, as
        `decoder_inputs` has it."""
        settings = settings or self.sampling
        for first, fine in self.latents(coarse, text, empty, seeds, settings, prompt_codes):
            codes = quantize(self.codec, first, fine)
            yield codes, codes if settings.snapped else with_coarse(self.codec, first, fine)

    def decoder_inputs(self, codes: Tensor) -> Tensor:
        """Codes [b, K, T] that stand before -> them, or, unless `sampling.snapped`, their latents [b, K * latent_width,
        T]: what the codec is to decode along with the new frames."""
        return codes if self.sampling.snapped else self.codec.codes_to_latents(codes)


def identity(stage: FineStage) -> str:
    """16 hex digits that two fine stages share when they play alike: of weights, scale, settings, text encoder and
    codec."""
    parts = stage.sizes, stage.scale, stage.sampling, stage.config.get("text"), sound_id(stage.codec)
    digest = hashlib.sha256(f"{parts!r}{told(stage.denoiser)}".encode())
    for weight in stage.denoiser.state_dict().values():
        digest.update(weight.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def fine_folder(folder: str | Path) -> tuple[FineConfig, Scale, FineSampling, dict]:
    """What config.json of a fine stage's folder says. Raises UserError if it is not one, or not whole."""
    config = read_config(folder)
    if config.get("model_type") != "ostinato-fine":
        raise UserError(f"{folder} holds a model of type {config.get('model_type')!r}, not a fine stage")
    for key in ("fine", "scale", "text", "codec"):
        if key not in config:
            raise UserError(f"{folder}/config.json lacks {key!r}; the folder may be damaged, copy it again")
    sizes = build(FineConfig, config["fine"], f"{folder}: fine")
    scale = build(Scale, config["scale"], f"{folder}: scale")
    if len(scale.mean) != sizes.coarse + sizes.fine:
        raise UserError(
            f"{folder}/config.json has the scale of {len(scale.mean)} numbers, not {sizes.coarse + sizes.fine}"
        )
    sampling = build(FineSampling, config.get("sampling", {}), f"{folder}: sampling")
    check_temperature(sizes.prediction_type, sampling.temperature)
    return sizes, scale, sampling, config


def load_fine(folder: str | Path, codec: Codec, device: str | torch.device = "cpu") -> FineStage:
    """The fine stage of a folder, over `codec`. Raises UserError if the folder is incomplete, or of other sizes
    than the codec."""
    sizes, scale, sampling, config = fine_folder(folder)
    check_sizes(sizes, codec)
    repeats = max(sizes.blocks, sizes.num_codebooks, len(sizes.multiples))
    denoiser = load_module(folder, lambda: make_denoiser(sizes), repeats)
    config.pop("weights", None)  # which file was read; a copy of the model has one
    return FineStage(denoiser.to(device), codec, scale, sampling, config)


def save_fine(folder: str | Path, sizes: FineConfig, scale: Scale, config: dict, weights: dict[str, Tensor]) -> None:
    """Write config.json and model.safetensors. config: text, codec, codec_id, and, if known, sampling."""
    about = {"model_type": "ostinato-fine", "fine": dataclasses.asdict(sizes), "scale": dataclasses.asdict(scale)}
    write_model_folder(folder, about | config, weights)


def check_sizes(sizes: FineConfig, codec: Codec) -> None:
    """Raise UserError unless a fine stage is for codecs of this one's sizes."""
    wanted, found = (sizes.num_codebooks, sizes.latent_width), (codec.num_codebooks, codec.latent_width)
    if wanted != found:
        raise UserError(
            f"the fine stage is for {wanted[0]} codebooks of {wanted[1]} numbers, {codec.name} has {found[0]} of "
            f"{found[1]}: set model.num_codebooks and model.latent_width, or begin with a stage of these sizes"
        )
    if sizes.prediction_type == "codes" and sizes.codebook_size != codec.codebook_size:
        raise UserError(
            f"the fine stage is for codebooks of {sizes.codebook_size} codes, {codec.name} has {codec.codebook_size}; "
            "set model.codebook_size"
        )
