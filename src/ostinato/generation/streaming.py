"""Sound as it is drawn: frames of codes or latents in, pieces of waveform out, equal to decoding them all at once."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ostinato.codecs.codec import Codec, sound
from ostinato.utils.errors import UserError

PIECE = 10  # frames of one piece: with the pocket codec 0.2 s


def pieces(codec: Codec, frames: Iterable[Tensor], piece: int = PIECE) -> Iterator[Tensor]:
    """frames, without end if they like, each [b, K] codes, or latents [b, K * latent_width] -> audio [b, 1, piece *
    hop], the last one shorter.

    A piece waits for `codec.context` frames after it, as many as can be heard in it, and is decoded between its
    neighbours; no more than 2 context + piece frames are ever kept. Raises UserError where the codec has no bound to
    its context.
    """
    context = codec.context
    if context is None:
        raise UserError(f"{codec.name} decodes whole clips only; write to a file in place of a stream")
    kept: list[Tensor] = []
    played = 0  # frames of `kept` that were given out already

    def decode(upto: int) -> Tensor:
        audio = sound(codec, torch.stack(kept, -1))
        return audio[..., played * codec.hop : upto * codec.hop]

    for frame in frames:
        kept.append(frame)
        if len(kept) == played + piece + context:
            yield decode(played + piece)
            played += piece
            spare = max(0, played - context)
            kept, played = kept[spare:], played - spare
    if played < len(kept):
        yield decode(len(kept))
