"""Patterns: how K codebooks over T frames become one sequence of S steps (MusicGen, arXiv 2306.05284, section 2.2).

Every pattern here is one line: codebook k of frame t stands at step  stride * t + offset * k.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ostinato.utils.errors import UserError


@dataclass(frozen=True)
class Pattern:
    K: int  # codebooks
    stride: int  # steps from a frame to the next
    offset: int  # steps from a codebook to the next

    def length(self, T: int) -> int:
        """Steps S that T frames take."""
        return self.stride * (T - 1) + self.offset * (self.K - 1) + 1 if T else 0

    def frame(self, step: int, k: int) -> int | None:
        """The frame of codebook k that stands at `step`, or None."""
        t, rest = divmod(step - self.offset * k, self.stride)
        return t if rest == 0 and t >= 0 else None

    def places(self, k: int) -> slice:
        """The steps at which codebook k can stand: one a frame, and any that are over at the end."""
        return slice(self.offset * k, None, self.stride)

    def encode(self, codes: Tensor, special: int) -> Tensor:
        """codes [b, K, T] -> steps [b, K, S], `special` wherever no code stands."""
        b, K, T = codes.shape
        steps = codes.new_full((b, K, self.length(T)), special)
        for k in range(K):
            steps[:, k, self.places(k)][:, :T] = codes[:, k]
        return steps

    def decode(self, steps: Tensor) -> Tensor:
        """steps [b, K, S] -> codes [b, K, T] of all frames that are whole."""
        T = max(0, (steps.shape[2] - 1 - self.offset * (self.K - 1)) // self.stride + 1)
        return torch.stack([steps[:, k, self.places(k)][:, :T] for k in range(self.K)], 1)


def make_pattern(name: str, K: int) -> Pattern:
    """'single' (K = 1), 'delay' (S = K + T - 1) or 'flatten' (S = K T). Raises UserError for any other."""
    table = {"single": Pattern(K, 1, 0), "delay": Pattern(K, 1, 1), "flatten": Pattern(K, K, 1)}
    if name not in table:
        raise UserError(f"unknown pattern {name!r}; there are: {', '.join(table)}")
    if name == "single" and K != 1:
        raise UserError(f"pattern 'single' is for one codebook, not {K}; take 'delay' or 'flatten'")
    return table[name]
