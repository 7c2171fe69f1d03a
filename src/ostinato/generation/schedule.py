"""The steps of the fine stage's samplers, as plain numbers: nothing here needs torch.

A step makes the next latent of the noisy one x, of the clean one that the denoiser's v tells, of the clean one of the
step before, and of fresh noise, each times a number:

    clean = alpha x - sigma v
    x = keep x + take clean + before clean_before + fresh noise
"""

import math
from functools import cache
from typing import NamedTuple

SAMPLERS = ("ddpm", "ddim", "dpm++")
GRID = 1000  # steps at least of the schedule that samplers take theirs from
LEAST = 2.0**-12  # alpha at the first step, which has no signal: not 0, which has no logarithm


class Step(NamedTuple):
    time: float  # as denoisers take it, see `diffusion`: 1 is noise alone
    alpha: float  # how much of the clean latent is in x; of the noise: sigma
    sigma: float
    keep: float
    take: float
    before: float
    fresh: float


def noises(sampler: str, steps: int) -> int:
    """Noise samples a latent needs: one to begin with, for DDPM one more at each step."""
    return 1 + steps if sampler == "ddpm" else 1


@cache
def schedule(sampler: str, steps: int) -> tuple[Step, ...]:
    """The steps from noise to the clean latent.

    "ddim" is arXiv 2010.02502, equation 12; "ddpm" the same with eta = 1 (section 4.1); "dpm++" DPM-Solver++(2M) of
    arXiv 2211.01095, algorithm 2, whose first and last steps are of the first order, which is DDIM.
    """
    alphas = signal(steps)
    sigmas = [math.sqrt(1 - alpha * alpha) for alpha in alphas]
    snr = [math.log(alpha / sigma) for alpha, sigma in zip(alphas[:-1], sigmas[:-1], strict=True)]
    found = []
    for i, (a, s, then, noise) in enumerate(zip(alphas, sigmas, alphas[1:], sigmas[1:], strict=False)):
        fresh = noise / s * math.sqrt(1 - (a / then) ** 2) if sampler == "ddpm" else 0.0
        keep = math.sqrt(noise * noise - fresh * fresh) / s
        take = then - a * keep
        second = sampler == "dpm++" and 0 < i < steps - 1
        slope = take * (snr[i + 1] - snr[i]) / (2 * (snr[i] - snr[i - 1])) if second else 0.0
        found.append(Step(math.acos(a) * 2 / math.pi, a, s, keep, take + slope, -slope, fresh))
    return tuple(found)


def signal(steps: int) -> list[float]:
    """alpha before each step and after the last, [steps + 1], rising to 1: the cosine schedule (arXiv 2102.09672) on
    `GRID` steps or somewhat more, moved so that it begins in noise alone (arXiv 2305.08891)."""
    stride = math.ceil(GRID / steps)
    grid = steps * stride
    alphas = [math.cos((n / grid + 0.008) / 1.008 * math.pi / 2) for n in range(grid)]
    first, last = alphas[1] / alphas[0], math.sqrt(1e-3) * alphas[-1] / alphas[0]  # no step takes over 0.999 of alpha^2
    moved = [(alphas[n] / alphas[0] - last) * first / (first - last) for n in range(grid - stride, 0, -stride)]
    return [LEAST, *moved, 1.0]
