"""The settings of sampling, of both stages. Nothing here needs torch: a value that cannot be is refused at once."""

import math
from dataclasses import dataclass

from ostinato.generation.schedule import GRID, SAMPLERS
from ostinato.utils.errors import UserError, nearest


@dataclass(frozen=True)
class Sampling:
    """The paper's settings (section IV-A). guidance 1: no guidance; top_k 0 and top_p 1: all codes; negative: the text
    that guidance leads away from, by default the empty one."""

    guidance: float = 3.0
    temperature: float = 1.2
    top_k: int = 250
    top_p: float = 1.0
    negative: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance):
            raise UserError(f"guidance must be a finite number (1: none), got {self.guidance}")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be 0 (always the likeliest code) or above, got {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top-k must be 0 (all codes) or above, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p must be above 0 and at most 1, got {self.top_p}")
        if self.negative and self.guidance == 1:
            raise UserError("guidance 1 is no guidance, so nothing leads away from the negative text: leave out one")


@dataclass(frozen=True)
class FineSampling:
    """How the fine stage samples. The paper's: ddpm, 100 steps, guidance 3 (section IV-A); guidance 1: none.

    Clips are sampled in windows of `window` seconds, which overlap by `overlap` seconds on either side: a window's own
    sound depends on that much before it and that much after it (while windows grow, on less after it: see `ahead`).

    Codes are always the latents quantized to the codebooks. The codec decodes these codes, or, unless `snapped`, the
    latents as they were sampled, which after few steps are the mean of what may be.
    """

    sampler: str = "dpm++"
    steps: int = 16
    guidance: float = 3.0
    window: float = 6.0  # s
    overlap: float = 1.0  # s
    first: float = 0.0  # s of the first window, each next one a third of it longer, up to `window`; 0: `window`
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
        if not 0 <= self.first <= self.window:
            raise UserError(f"a first window of {self.first:g} s must be from 0 (as long as any) to {self.window:g} s")
        if not 0 <= 2 * self.overlap < self.window < math.inf:
            raise UserError(f"a window of {self.window:g} s must be longer than twice its overlap, {self.overlap:g} s")


def longer(first: int) -> int:
    """Frames that each window has more than the one before, after a first one of `first`: a third of it. More at once
    would take longer to make than what is there takes to play (benchmarks/studio.py); of one alone, all could be kept
    back (`ahead`)."""
    return max(2, -(-first // 3))


def ahead(frames: int, window: int, overlap: int) -> int:
    """Frames at the end of a window of `frames` that are only heard ahead, and given out by the next one: `overlap`.
    Of one that is still to grow to `window` a quarter at most, so that sound comes early."""
    return overlap if frames >= window else min(overlap, frames // 4)


def check_temperature(prediction_type: str, temperature: float) -> None:
    """Raise UserError for a temperature that a denoiser of prediction type `prediction_type` has no odds for."""
    if prediction_type == "v" and temperature != 1:
        raise UserError(f"a denoiser that predicts v has no odds for a temperature of {temperature:g}: set it to 1")
