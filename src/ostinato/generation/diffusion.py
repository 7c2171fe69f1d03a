"""Diffusion by v-prediction (arXiv 2202.00512): its training loss and its samplers; `windows` has clips of any length.

The noisy latent is cos(a) x + sin(a) e, with x the clean one, e white noise, a = time * pi / 2 and time from 0 (clean)
to 1 (noise alone); a denoiser predicts v = cos(a) e - sin(a) x. Because it is given the angle itself, not the step of a
schedule, any schedule and any number of steps fits a trained denoiser. Latents here have a variance of about 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ostinato.generation.guidance import both_branches, guide
from ostinato.utils.errors import UserError, nearest

SAMPLERS = ("ddpm", "ddim", "dpm++")
GRID = 1000  # steps at least of the schedule that samplers take theirs from
Denoiser = Callable[..., Tensor]  # (noisy, coarse, time, text, text_mask) -> v, as in `denoisers`
Velocity = Callable[[Tensor, Tensor], Tensor]  # noisy [b, F, T], time [] -> v [b, F, T]


@dataclass(frozen=True)
class FineSampling:
    """How the fine stage samples. The paper's: ddpm, 100 steps, guidance 3 (section IV-A); guidance 1: none.

    Clips are sampled in windows of `window` seconds, which overlap by `overlap` seconds on either side: a window's own
    sound depends on that much before it and that much after it.

    Codes are always the latents quantized to the codebooks. The codec decodes these codes, or, unless `snapped`, the
    latents as they were sampled, which after few steps are the mean of what may be.
    """

    sampler: str = "dpm++"
    steps: int = 16
    guidance: float = 3.0
    window: float = 6.0  # s
    overlap: float = 1.0  # s
    first: float = 0.0  # s of the first window, each next one half as long again up to `window`; 0: `window`
    temperature: float = 1.0  # of the denoiser's odds, where it predicts codes: below 1 the likely ones are likelier
    snapped: bool = True  # decode the quantized codes; False: the latents before

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UserError(f"unknown sampler {self.sampler!r}; {nearest(self.sampler, list(SAMPLERS))}")
        if not 1 <= self.steps <= GRID:
            raise UserError(f"steps of the fine stage must be from 1 to {GRID}, got {self.steps}")
        if not math.isfinite(self.guidance):
            raise UserError(f"guidance must be a finite number (1: none), got {self.guidance}")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"temperature must be above 0, got {self.temperature:g}")
        if self.first and not self.overlap < self.first <= self.window:
            raise UserError(f"a first window of {self.first:g} s must be longer than the overlap, {self.overlap:g} s")
        if not 0 <= 2 * self.overlap < self.window < math.inf:
            raise UserError(f"a window of {self.window:g} s must be longer than twice its overlap, {self.overlap:g} s")


def check_temperature(prediction_type: str, temperature: float) -> None:
    """Raise UserError for a temperature that a denoiser of prediction type `prediction_type` has no odds for."""
    if prediction_type == "v" and temperature != 1:
        raise UserError(f"a denoiser that predicts v has no odds for a temperature of {temperature:g}: set it to 1")


def angle_of(time: Tensor, ndim: int) -> Tensor:
    """time [b] -> a, [b, 1, ...] of so many dimensions."""
    return (time * (math.pi / 2)).view(-1, *[1] * (ndim - 1))


def noised(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """clean, noise [b, F, T] and time [b] -> the noisy latent."""
    angle = angle_of(time, clean.ndim)
    return angle.cos() * clean + angle.sin() * noise


def velocity(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """What a denoiser is trained to predict from `noised`, of its shape."""
    angle = angle_of(time, clean.ndim)
    return angle.cos() * noise - angle.sin() * clean


def v_loss(v: Tensor, clean: Tensor, noise: Tensor, time: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of a denoiser's v [b, F, T] over the real frames, mask [b, T]."""
    error = (v.float() - velocity(clean, noise, time)).square().mean(1)
    return (error * mask).sum() / mask.sum()


def code_odds(logits: Tensor, noisy: Tensor, time: Tensor, table: Tensor) -> Tensor:
    """Log-probabilities [b, n, V, T] of each code of n codebooks, by Bayes: the denoiser's logits [b, n V, T] are the
    prior, and the likelihood is that of white noise between the noisy latent [b, n w, T] and the code's own latent in
    table [n, V, w]. So a denoiser need not learn where the codes lie (as in arXiv 2211.15089, but exact)."""
    angle = angle_of(time, 4)
    signal, noise = angle.cos(), angle.sin()
    near = table @ noisy.float().unflatten(1, (len(table), -1))  # [b, n, V, T], products with each code
    near = signal * near - (signal.square() / 2) * table.square().sum(-1, keepdim=True)
    prior = logits.float().unflatten(1, table.shape[:2])
    return (prior + near / noise.square().clamp(min=1e-4)).log_softmax(2)


def code_velocity(logits: Tensor, noisy: Tensor, time: Tensor, table: Tensor) -> Tensor:
    """What `velocity` is on average over `code_odds`, [b, n w, T]."""
    odds = code_odds(logits, noisy, time, table).exp()
    clean = (table.mT @ odds).flatten(1, 2)
    angle = angle_of(time, 3)
    return (angle.cos() * noisy.float() - clean) / angle.sin().clamp(min=1e-2)


def code_loss(logits: Tensor, noisy: Tensor, time: Tensor, table: Tensor, codes: Tensor, mask: Tensor) -> Tensor:
    """Nats a code: cross-entropy of `code_odds` with the true codes [b, n, T] over the real frames, mask [b, T]."""
    odds = code_odds(logits, noisy, time, table)
    missed = -odds.gather(2, codes.unsqueeze(2)).squeeze(2).mean(1)
    return (missed * mask).sum() / mask.sum()


def guided(
    denoiser: Denoiser, text: tuple[Tensor, Tensor], empty: tuple[Tensor, Tensor], guidance: float
) -> Callable[[Tensor], Velocity]:
    """coarse [b, C, T] -> the velocity under classifier-free guidance (arXiv 2207.12598); the coarse latent is given to
    both branches. text: embeddings [b, s, w] and mask [b, s]; empty: those of the empty prompt, one row."""
    branches = 1 if guidance == 1 else 2
    embeddings, mask = text if branches == 1 else both_branches(text, empty)

    def of(coarse: Tensor) -> Velocity:
        beside = coarse.repeat(branches, 1, 1)

        def v(noisy: Tensor, time: Tensor) -> Tensor:
            out = denoiser(noisy.repeat(branches, 1, 1), beside, time.expand(len(beside)), embeddings, mask)
            return out if branches == 1 else guide(out, guidance)

        return v

    return of


def make_scheduler(sampler: str, steps: int) -> Any:
    """A scheduler of diffusers, whose `times` say the noise of its steps; cosine schedule (arXiv 2102.09672) that ends
    in noise alone (arXiv 2305.08891).

    DDPM is DDIM with eta = 1 (arXiv 2010.02502, section 4.1), which takes its noise from outside.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler  # seconds to import

    options: dict[str, Any] = {
        "num_train_timesteps": steps * math.ceil(GRID / steps),  # a multiple: else DDIM's strides miss its steps
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    if sampler == "dpm++":
        scheduler: Any = DPMSolverMultistepScheduler(**options, algorithm_type="dpmsolver++", solver_order=2)
    else:
        scheduler = DDIMScheduler(**options, clip_sample=False)
        # In float32, and at a first step of no signal at all, DDIM takes the root of a 0 that rounding makes negative.
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double().clamp(min=1e-8)
    scheduler.set_timesteps(steps)
    return scheduler


def times(scheduler: Any) -> Tensor:
    """Time of each step [steps], float32, falling."""
    return scheduler.alphas_cumprod[scheduler.timesteps].sqrt().clamp(0, 1).acos().float() * (2 / math.pi)


def noises(sampler: str, steps: int) -> int:
    """Noise samples a latent needs: one to begin with, for DDPM one more at each step."""
    return 1 + steps if sampler == "ddpm" else 1


@torch.no_grad()
def denoise(v: Velocity, noise: Tensor, sampler: str, steps: int, known: Tensor | None = None) -> Tensor:
    """noise [`noises`, b, F, T] -> the latents before each step and after the last, [steps + 1, b, F, T].

    known [steps + 1, b, F, C]: of the first C frames, as another window had them; they are kept as they are.
    """
    scheduler = make_scheduler(sampler, steps)
    x, path = noise[0], []
    for i, (step, time) in enumerate(zip(scheduler.timesteps, times(scheduler), strict=True)):
        path.append(beside(known, i, x))
        more = {"eta": 1.0, "variance_noise": noise[1 + i]} if sampler == "ddpm" else {}
        x = scheduler.step(v(path[-1], time.to(x.device)), step, path[-1], **more).prev_sample
    return torch.stack([*path, beside(known, steps, x)])


def beside(known: Tensor | None, step: int, x: Tensor) -> Tensor:
    """x with the known frames in their place."""
    return x if known is None else torch.cat([known[step].to(x.dtype), x[..., known.shape[-1] :]], -1)


def known_path(clean: Tensor, noise: Tensor, sampler: str, steps: int) -> Tensor:
    """Of frames whose clean latents [b, F, C] are given: what `denoise` would have passed through, from noise
    [b, F, C], [steps + 1, b, F, C]."""
    at = [*times(make_scheduler(sampler, steps)).to(clean.device), torch.zeros((), device=clean.device)]
    return torch.stack([noised(clean, noise, time.expand(len(clean))) for time in at])
