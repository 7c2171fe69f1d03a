"""Sound as it is made: stretches of codes or latents in, pieces of sound out, equal to decoding all at once."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ostinato.codecs.base import Codec, sound
from ostinato.utils.errors import UserError

PIECE = 10  # frames of one piece: with the pocket codec 0.2 s


def pieces(codec: Codec, stretches: Iterable[Tensor], piece: int = PIECE) -> Iterator[Tensor]:
    """stretches, without end if they like, each [b, K, n] codes, or latents [b, K * latent_width, n], of any n -> audio
    [b, 1, piece * hop], the last one shorter.

    A piece waits for `codec.context` frames after it, as many as its sound depends on, and is decoded between its
    neighbours; no more than 2 context + piece frames and one stretch are ever kept. Raises UserError where the codec
    has no bound to its context.
    """
    context = codec.context
    if context is None:
        raise UserError(f"{codec.name} decodes whole clips only; write to a file in place of a stream")
    kept: Tensor | None = None
    played = 0  # frames of `kept` that were given out already
    for stretch in stretches:
        kept = stretch if kept is None else torch.cat([kept, stretch], -1)
        while kept.shape[-1] >= played + piece + context:
            audio = sound(codec, kept[..., : played + piece + context])
            yield audio[..., played * codec.hop : (played + piece) * codec.hop]
            played += piece
            spare = max(0, played - context)
            kept, played = kept[..., spare:], played - spare
    if kept is not None and played < kept.shape[-1]:
        yield sound(codec, kept)[..., played * codec.hop :]
