"""Music being made: a `Stream` gives its sound piece by piece, and can be steered, forked and made again.

A change of course is a `Turn`: from its frame on, the music is what a generation continues that has read the turn's
sentence and then the last seconds of the music, in parallel, as `forward` reads them. With the same sentence these are
`MEMORY` seconds; of anything shorter that is the recurrent state itself. With another one they are `HANDOVER` seconds:
of more, the language model goes on with the music and hardly follows the sentence (benchmarks/steering.py). So a take
is no more than its turns, and the same turns give the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ostinato.codecs.base import Codec, sound
from ostinato.generation.sampling import Sampling
from ostinato.generation.settings import FineSampling
from ostinato.utils.errors import UserError

if TYPE_CHECKING:
    from ostinato.generation.pipeline import Ostinato

PIECE = 10  # frames of one piece: with the pocket codec 0.2 s
SOON = 0.5  # s of sound of the first window, see `early`
MEMORY = 12.0  # s of music that a turn reads again
HANDOVER = 0.3  # s of music that the language model reads again under another sentence
REACH = 30.0  # s behind the newest sound at which a turn can still be


def decode_frames(codec: Codec, inputs: Tensor, start: int, end: int) -> Tensor:
    """Frames `start` to `end` of inputs [b, K, T], codes, or [b, K * latent_width, T], latents -> audio [b, 1, (end -
    start) * hop], equal to that part of the whole: decoded with the `codec.context` frames before them and the
    `codec.lookahead` after them that their sound depends on, as many as there are. Raises UserError for a codec whose
    sound depends on the whole clip."""
    check_context(codec)
    first = max(0, start - codec.context)  # type: ignore[operator]
    audio = sound(codec, inputs[..., first : end + codec.lookahead])  # type: ignore[operator]
    return audio[..., (start - first) * codec.hop : (end - first) * codec.hop]


def check_context(codec: Codec) -> None:
    if codec.context is None:
        raise UserError(f"{codec.name} decodes whole clips only; write to a file in place of a stream")


def early(model: Ostinato, settings: FineSampling | None = None) -> FineSampling | None:
    """settings, by default the fine stage's own, with a first window that gives only `SOON` seconds of sound; None
    for a model without a fine stage."""
    if model.fine is None:
        return None
    settings = settings or model.fine.sampling
    given = SOON + (model.codec.lookahead or 0) / model.codec.frame_rate  # three quarters of the window, see `ahead`
    return replace(settings, first=min(settings.window, given + min(settings.overlap, given / 3)))


@dataclass(frozen=True)
class Turn:
    """From frame `frame` on (0: the first, the codes to continue from counted) this sentence and this seed."""

    frame: int
    prompt: str
    seed: int


class Stream:
    """Iterate for pieces of sound [1, samples] in [-1, 1], without end unless `count` frames were asked for.

    Between two pieces it may be steered or forked; nothing is made that is not asked for, so a pause is simply not to
    ask. `position` is the sample the next piece begins at. Memory does not grow with time.
    """

    def __init__(
        self,
        model: Ostinato,
        prompt: str,
        seed: int = 0,
        settings: Sampling | None = None,
        prompt_codes: Tensor | None = None,
        count: int = 0,
        on_frame: Callable[[int, int], None] | None = None,
        fine: FineSampling | None = None,
        turns: Sequence[Turn] = (),
    ):
        """prompt_codes [1, K, T0] to continue from; count: new frames, 0: without end; turns: after the first, in
        order, each at a frame that is reached. Raises UserError for a codec that cannot decode in pieces."""
        check_context(model.codec)
        self.model, self.settings, self.fine, self.on_frame = model, settings, fine, on_frame
        self.context: int = model.codec.context  # type: ignore[assignment]
        self.lookahead: int = model.codec.lookahead  # type: ignore[assignment]
        codes = model.prompt_codes(1, None) if prompt_codes is None else prompt_codes
        self.prompt_codes, self.begins = codes, codes.shape[-1]
        self.end = self.begins + count if count else 0  # frames in all, 0: without end
        self.codes: Tensor = codes  # [1, K, n], the newest frames, from `first` on
        self.inputs: Tensor | None = model.decoder_inputs(codes) if self.begins else None  # [1, W, n], likewise
        self.first = self.sent = 0  # the oldest frame kept; the next to be decoded
        self.turns: list[Turn] = []
        self.planned = list(turns)
        self.over = False
        self.turn(Turn(self.begins, prompt, seed))

    @property
    def made(self) -> int:
        """Frames whose codes are there."""
        return self.first + self.codes.shape[-1]

    @property
    def position(self) -> int:
        return self.sent * self.model.codec.hop

    @property
    def wait(self) -> float:
        """s of music that are made after a turn before any of it can sound."""
        fine = self.model.fine and (self.fine or self.model.fine.sampling)
        return (fine.first or fine.window) if fine else (PIECE + self.lookahead) / self.model.codec.frame_rate

    @property
    def prompt(self) -> str:
        return self.turns[-1].prompt

    def __iter__(self) -> Iterator[Tensor]:
        return self

    @torch.no_grad()
    def __next__(self) -> Tensor:
        if self.over:
            raise StopIteration
        wanted = self.sent + PIECE + self.lookahead
        while self.made < wanted and self.more():
            pass
        last = self.made < wanted
        end = self.made if last else self.sent + PIECE
        if self.inputs is None or end <= self.sent:
            self.over = True
            raise StopIteration
        audio = decode_frames(self.model.codec, self.inputs, self.sent - self.first, end - self.first)
        self.sent, self.over = end, last
        self.forget()
        return audio[0].clamp(-1, 1).cpu()

    def more(self) -> bool:
        """Make the next stretch of frames, and take a planned turn on the way; whether there was one."""
        if self.planned and self.made >= self.planned[0].frame:
            self.turn(self.planned.pop(0))
        stretch = next(self.stretches, None)
        if stretch is None:
            return False
        codes, inputs = stretch
        self.codes = torch.cat([self.codes, codes], -1)
        self.inputs = inputs if self.inputs is None else torch.cat([self.inputs, inputs], -1)
        if self.planned and self.made >= self.planned[0].frame:
            self.turn(self.planned.pop(0))
        return True

    def forget(self) -> None:
        """Let go of frames that neither sound nor a turn can need again."""
        spare = self.sent - round((REACH + MEMORY) * self.model.codec.frame_rate) - self.first
        if spare > 0:
            self.codes, self.first = self.codes[..., spare:].clone(), self.first + spare
            self.inputs = None if self.inputs is None else self.inputs[..., spare:].clone()

    def turn(self, turn: Turn) -> None:
        """Go on from `turn.frame` as it says; what was made after it is dropped. Sound that depends on it is made
        anew: `position` may go back by as much as the codec hears ahead."""
        codec = self.model.codec
        oldest = max(self.begins, self.first + self.context if self.first else 0)
        if not oldest <= turn.frame <= self.made:
            raise UserError(f"a turn must be at a frame from {oldest} to {self.made}, got {turn.frame}")
        if not turn.prompt.strip():
            raise UserError("the prompt is empty; write a sentence that says what to play")
        kept = turn.frame - self.first
        self.codes = self.codes[..., :kept]
        self.inputs = None if self.inputs is None else self.inputs[..., :kept]
        memory = turn.frame if not self.turns else round(MEMORY * codec.frame_rate)
        count = self.end - turn.frame if self.end else 0
        read = self.codes[..., max(0, kept - memory) :]
        self.stretches: Iterator[tuple[Tensor, Tensor]] = iter(())
        if count or not self.end:
            told = self.told(turn.frame) if self.on_frame else None
            earlier = [each for each in self.turns if each.frame < turn.frame]
            other = bool(earlier) and earlier[-1].prompt != turn.prompt
            recent = max(1, round(HANDOVER * codec.frame_rate)) if other else 0
            self.stretches = self.model.stretches(
                [turn.prompt], turn.seed, self.settings, read, count, told, self.fine, memory=recent
            )
        if self.turns:  # not of the first: what one continues from is heard, too
            self.sent = min(self.sent, max(0, turn.frame - self.lookahead))
        self.over = False
        self.turns = [earlier for earlier in self.turns if earlier.frame < turn.frame] + [turn]

    def told(self, frame: int) -> Callable[[int, int], None]:
        before, count = frame - self.begins, self.end - self.begins if self.end else 0
        return lambda done, _: self.on_frame(before + done, count) if self.on_frame else None

    def steer(self, prompt: str, at: int | None = None) -> Turn:
        """Another sentence from sample `at` on, by default from the next piece on; returns the turn that was taken.

        Raises UserError for an empty prompt or a sample that is too long ago."""
        return self.change(prompt, self.turns[-1].seed, at)

    def reseed(self, seed: int, at: int | None = None) -> Turn:
        """Again from sample `at` on, with another seed; else as `steer`."""
        return self.change(self.prompt, seed, at)

    def change(self, prompt: str, seed: int, at: int | None = None) -> Turn:
        frame = self.sent if at is None else round(at / self.model.codec.hop)
        oldest = max(self.begins, self.first + self.context if self.first else 0)
        self.planned.clear()
        self.turn(Turn(min(max(frame, oldest), self.made), prompt, seed))
        return self.turns[-1]

    def fork(self, seed: int) -> Stream:
        """Another stream that goes on from the next piece on with another seed; this one is left as it is."""
        other = object.__new__(Stream)
        vars(other).update(vars(self) | {"turns": list(self.turns), "planned": []})
        other.reseed(seed)
        return other
