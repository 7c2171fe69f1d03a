"""Several listeners of one language model: their generations step together, as rows of one batch.

Steps of few rows cost what reading the weights costs, so two generations in one batch take hardly longer than one
(benchmarks/studio.py, `rows`). Each joins and leaves when it likes, and keeps its own state, seed and settings. They
run in a thread of their own, so that even a lone listener's next frames are made while the last ones are decoded.
"""

import copy
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ostinato.generation.sampling import Generation, choose, few_threads
from ostinato.models.lm import LMState, MusicLM

BLOCK = 5  # frames between two looks at who has come and who has gone
AHEAD = 100  # frames made before anyone asks for them, while the fine stage and the codec are at work
LEAST = 2  # generations of a batch; a lone one stands twice in it. Of fewer rows a product is summed in another order


@torch.inference_mode()
def step_together(lm: MusicLM, generations: list[Generation], count: int, least: int = LEAST) -> list[list[Tensor]]:
    """`count` steps of generations whose `sizes_of` are the same -> the frames [b, K] of each that are whole by then.

    The frames are those that each would have alone, but for the rounding of sums; beside others they are always the
    same, whoever these are (tests/generation/test_rows.py).
    """
    copies = least if len(generations) == 1 else 1
    states = [g.state for g in generations] * copies
    sizes = [len(state.position) for state in states]
    state, shape = joined(states), (lm.config.num_codebooks, lm.special)
    frames: list[list[Tensor]] = [[] for _ in generations]
    threads = few_threads(lm, sum(sizes))
    for _ in range(count):
        steps = [g.recent[:, :, -1].repeat(g.branches, 1) for g in generations]
        with threads():
            logits = lm.step(torch.cat(steps * copies), state).split(sizes)
        for g, own, found in zip(generations, logits, frames, strict=False):
            frame = g.put(choose(own, g.settings, g.next_noise(shape)), lm)
            if frame is not None:
                found.append(frame)
    parts = {name: t.split(sizes) for name, t in state.tensors().items() if t.ndim}
    for i, g in enumerate(generations):
        g.state.load_tensors(state.tensors() | {name: part[i] for name, part in parts.items()})
    return frames


def joined(states: list[LMState]) -> LMState:
    """One state with the rows of all, whose `sizes_of` are the same."""
    every = [state.tensors() for state in states]
    state = LMState([copy.copy(layer) for layer in states[0].layers], states[0].position)
    state.load_tensors({name: torch.cat([t[name] for t in every]) if x.ndim else x for name, x in every[0].items()})
    return state


def sizes_of(generation: Generation) -> list[tuple]:
    """What two generations must share to step together: sizes of their states but for rows, and lengths of caches."""
    state = generation.state.tensors()
    return [(name, t.shape[1:] if t.ndim else int(t)) for name, t in state.items()]


@dataclass(eq=False)
class Row:
    generation: Generation
    frames: deque[Tensor] = field(default_factory=deque)
    error: Exception | None = None


class Rows:
    """All generations of one language model that are being listened to. `frames` stands for `generate_frames`."""

    def __init__(self, least: int = LEAST) -> None:
        """least: 1 where there is never more than one generation; its frames are then those of `generate_frames`."""
        self.least, self.rows = least, list[Row]()
        self.change = threading.Condition()
        self.thread: threading.Thread | None = None

    def frames(self, lm: MusicLM, generation: Generation) -> Iterator[Tensor]:
        """The codes [b, K] of one new frame after another, without end; drop the iterator to leave."""
        row = Row(generation)
        with self.change:
            self.rows.append(row)
            if self.thread is None:
                self.thread = threading.Thread(target=self.work, args=(lm,), name="ostinato-rows", daemon=True)
                self.thread.start()
            self.change.notify_all()
        try:
            while True:
                with self.change:
                    self.change.wait_for(lambda: row.frames or row.error)
                    if not row.frames:
                        raise row.error  # type: ignore[misc]
                    frame = row.frames.popleft()
                    self.change.notify_all()
                yield frame
        finally:
            with self.change:
                self.rows.remove(row)
                self.change.notify_all()

    def work(self, lm: MusicLM) -> None:
        """Step whoever has room, until nobody is left."""
        while True:
            with self.change:
                self.change.wait_for(lambda: not self.rows or self.with_room())
                if not self.rows:
                    self.thread = None
                    return
                rows = self.with_room()
            shared = sizes_of(rows[0].generation)
            together = [row for row in rows if sizes_of(row.generation) == shared]
            try:
                found = step_together(lm, [row.generation for row in together], BLOCK, self.least)
            except Exception as error:  # whatever it is, listeners must not wait for ever
                for row in together:
                    row.error = error
                found = [[] for _ in together]
            with self.change:
                for row, frames in zip(together, found, strict=True):
                    row.frames += frames
                self.change.notify_all()

    def with_room(self) -> list[Row]:
        """Rows that may go ahead, the neediest first."""
        return sorted((r for r in self.rows if len(r.frames) < AHEAD and not r.error), key=lambda r: len(r.frames))
