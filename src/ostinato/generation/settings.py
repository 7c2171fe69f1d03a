"""The settings of sampling. Nothing here needs torch, so that a value that cannot be is refused at once."""

import math
from dataclasses import dataclass

from ostinato.utils.errors import UserError


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
