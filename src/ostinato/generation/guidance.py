"""Classifier-free guidance (arXiv 2207.12598): a branch with the text and one without, side by side in a batch."""

import torch
from torch import Tensor


def both_branches(text: tuple[Tensor, Tensor], empty: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Rows with their text, then as many with the empty text, padded on the right to one length."""
    (x, mask), (none, none_mask) = text, empty
    s = max(x.shape[1], none.shape[1])
    x, none = (torch.nn.functional.pad(v, (0, 0, 0, s - v.shape[1])) for v in (x, none))
    mask, none_mask = (torch.nn.functional.pad(v, (0, s - v.shape[1])) for v in (mask, none_mask))
    return torch.cat([x, none.expand(len(x), -1, -1)]), torch.cat([mask, none_mask.expand(len(x), -1)])


def guide(logits: Tensor, guidance: float) -> Tensor:
    """Both branches [2b, K, V], with text first -> [b, K, V]: classifier-free guidance (arXiv 2207.12598)."""
    with_text, without = logits.chunk(2)
    return torch.lerp(without, with_text, guidance)
