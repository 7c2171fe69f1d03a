"""Diffusion by v-prediction (arXiv 2202.00512): its training loss and its samplers; `windows` has clips of any length.

The noisy latent is cos(a) x + sin(a) e, with x the clean one, e white noise, a = time * pi / 2 and time from 0 (clean)
to 1 (noise alone); a denoiser predicts v = cos(a) e - sin(a) x. Because it is given the angle itself, not the step of a
schedule, any schedule and any number of steps fits a trained denoiser. Latents here have a variance of about 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ostinato.generation.guidance import both_branches, guide
from ostinato.generation.schedule import schedule

Denoiser = Callable[..., Tensor]  # (noisy, coarse, time, text, text_mask) -> v, as in `denoisers`
Velocity = Callable[[Tensor, Tensor], Tensor]  # noisy [b, F, T], time [] -> v [b, F, T]


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


@torch.no_grad()
def denoise(v: Velocity, noise: Tensor, sampler: str, steps: int, known: Tensor | None = None) -> Tensor:
    """noise [`noises`, b, F, T] -> the latents before each step and after the last, [steps + 1, b, F, T].

    known [steps + 1, b, F, C]: of the first C frames, as another window had them; they are kept as they are.
    """
    x, path, before = noise[0], [], torch.zeros_like(noise[0])
    for i, step in enumerate(schedule(sampler, steps)):
        x = beside(known, i, x)
        path.append(x)
        clean = step.alpha * x - step.sigma * v(x, x.new_full((), step.time)).to(x.dtype)
        x = step.keep * x + step.take * clean
        if step.before:
            x = x + step.before * before
        if step.fresh:
            x = x + step.fresh * noise[1 + i]
        before = clean
    return torch.stack([*path, beside(known, steps, x)])


def beside(known: Tensor | None, step: int, x: Tensor) -> Tensor:
    """x with the known frames in their place."""
    return x if known is None else torch.cat([known[step].to(x.dtype), x[..., known.shape[-1] :]], -1)


def known_path(clean: Tensor, noise: Tensor, sampler: str, steps: int) -> Tensor:
    """Of frames whose clean latents [b, F, C] are given: what `denoise` would have passed through, from noise
    [b, F, C], [steps + 1, b, F, C]."""
    at = [*(step.time for step in schedule(sampler, steps)), 0.0]
    return torch.stack([noised(clean, noise, clean.new_full((len(clean),), time)) for time in at])
