"""Clips of any length through a denoiser of windows: coarse frames in, fine frames out, a window behind at the most."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ostinato.generation.diffusion import Velocity, denoise, known_path
from ostinato.generation.settings import FineSampling, ahead, longer


@dataclass
class Windows:
    """The window under way: all that the next fine frame depends on.

    A window is denoised whole, and all but its last `overlap` frames are given out (while windows grow: see `ahead`);
    the next one begins with the last `overlap` of those given out, which pass once more through what they passed
    through. So whatever reaches no further than what is kept is as if there were no windows. Raises ValueError unless
    window > 2 overlap.
    """

    velocity_of: Callable[[Tensor], Velocity]  # coarse [b, C, n] -> the denoiser beside it, see `diffusion.guided`
    settings: FineSampling
    window: int  # frames
    overlap: int  # frames
    coarse: Tensor | None = None  # [b, C, n], the frames so far
    noise: Tensor | None = None  # [noises, b, F, n]
    path: Tensor | None = None  # [steps + 1, b, F, done], what the first `done` frames passed through
    done: int = 0  # frames that were given out already
    first: int = 0  # frames of the first window, if not `window`; each next one has `more`, up to that
    more: int = field(init=False)
    begun: int = field(init=False, default=0)  # frames known before the first

    def __post_init__(self) -> None:
        self.first = self.first or self.window
        self.more = longer(self.first)
        if not (0 < self.first <= self.window and 0 <= 2 * self.overlap < self.window):
            raise ValueError(f"windows of {self.first} and {self.window} frames and overlaps of {self.overlap}")

    def begin(self, coarse: Tensor, fine: Tensor, noise: Tensor) -> None:
        """Put known frames before the first: coarse [b, C, n], fine [b, F, n], noise [noises, b, F, n]; n is at most
        `overlap`."""
        self.coarse, self.noise, self.done = coarse, noise, coarse.shape[-1]
        self.begun = self.done
        self.first = min(self.window, self.first + self.done)
        self.path = known_path(fine, noise[0], self.settings.sampler, self.settings.steps)

    @property
    def missing(self) -> int:
        """Frames that the window still takes."""
        return self.first - (0 if self.coarse is None else self.coarse.shape[-1])

    def push(self, coarse: Tensor, noise: Tensor) -> Tensor:
        """Further frames, `missing` of them at the most: coarse [b, C, n], noise [noises, b, F, n] -> the fine frames
        [b, F, m] that are ready, m = 0 until the window is full."""
        self.coarse = coarse if self.coarse is None else torch.cat([self.coarse, coarse], -1)
        self.noise = noise if self.noise is None else torch.cat([self.noise, noise], -1)
        if self.missing:
            return noise[0, ..., :0]
        return self.denoise(self.first - ahead(self.first - self.begun, self.window - self.begun, self.overlap))

    def finish(self) -> Tensor | None:
        """The fine frames [b, F, m] that are left at the end of the clip, None where none are."""
        if self.coarse is None or self.done == self.coarse.shape[-1]:
            return None
        return self.denoise(self.coarse.shape[-1])

    def denoise(self, end: int) -> Tensor:
        """The fine frames from `done` up to `end`; what the next window needs is kept."""
        assert self.coarse is not None and self.noise is not None
        v = self.velocity_of(self.coarse)
        path = denoise(v, self.noise, self.settings.sampler, self.settings.steps, self.path)
        new, spare = path[-1, ..., self.done : end], max(0, end - self.overlap)
        self.coarse, self.noise, self.done = self.coarse[..., spare:], self.noise[..., spare:], end - spare
        self.path = path[..., spare:end] if self.done else None
        self.first = min(self.window, self.first + self.more)
        return new


def joins(frames: int, window: int, overlap: int) -> list[int]:
    """Frames of a clip at which `Windows` goes over from one to the next."""
    found, start = [], window - overlap
    while start + max(overlap, 1) <= frames:
        found.append(start)
        start += window - 2 * overlap
    return found
