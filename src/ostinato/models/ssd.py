"""State-space duality (SSD), the sequence mixer of Mamba-2 (arXiv 2405.21060): parallel in chunks, or a step at a time.

Both compute, for every head h with its scalar decay,
    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T        y_t = S_t C_t
with S [p, n], and B, C [n] shared by all heads (one group). Decays are kept as float32 logarithms <= 0 until `exp`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SSD = Callable[..., tuple[Tensor, Tensor]]  # as `ssd`


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """The chunked parallel form (section 6 of the Mamba-2 paper), for any T and any chunk length q >= 1.

    x [b, T, h, p]; dt [b, T, h] >= 0 (0 leaves the state untouched: that is how padding is made invisible);
    A [h] < 0; B, C [b, T, n]; state [b, h, p, n], before the first frame.
    Returns y [b, T, h, p] in the type of x, and the state after the last frame in the type of `state`.
    """
    b, T, h, p = x.shape
    q = min(chunk, T)
    pad = -T % q
    if pad:
        x, dt, B, C = (F.pad(v, (0, 0) * (v.ndim - 2) + (0, pad)) for v in (x, dt, B, C))
    c = (T + pad) // q
    B, C = B.view(b, c, q, -1), C.view(b, c, q, -1)
    log_decay = (dt.to(state.dtype) * A.to(state.dtype)).view(b, c, q, h).permute(0, 1, 3, 2).cumsum(-1)  # [b, c, h, q]
    xdt = (x * dt.to(x.dtype).unsqueeze(-1)).view(b, c, q, h, p)

    # 1. Within each chunk, the quadratic form: y_i += sum_{j <= i} (C_i . B_j) exp(decay from j to i) xdt_j
    above = torch.ones(q, q, dtype=torch.bool, device=x.device).triu(1)
    L = (log_decay.unsqueeze(-1) - log_decay.unsqueeze(-2)).masked_fill_(above, float("-inf")).exp_()  # [b, c, h, q, q]
    scores = (C @ B.mT).unsqueeze(2) * L.to(x.dtype)
    y = (scores @ xdt.transpose(2, 3)).transpose(2, 3)  # [b, c, q, h, p]

    # 2. What each chunk alone adds to the state at its end.
    to_end = (log_decay[..., -1:] - log_decay).exp().to(x.dtype).permute(0, 1, 3, 2)  # [b, c, q, h]
    added = (xdt * to_end.unsqueeze(-1)).flatten(3).mT @ B  # [b, c, h p, n]

    # 3. The recurrence over chunks: the state that each chunk begins with.
    across = log_decay[..., -1].exp()[..., None, None]  # [b, c, h, 1, 1]
    before = []
    for decay, new in zip(across.unbind(1), added.view(b, c, h, p, -1).unbind(1), strict=True):
        before.append(state)
        state = state * decay + new.to(state.dtype)

    # 4. What that state gives to each frame of the chunk.
    given = C @ torch.stack(before, 1).to(x.dtype).flatten(2, 3).mT  # [b, c, q, h p]
    from_start = log_decay.exp().to(x.dtype).permute(0, 1, 3, 2)
    y = y + given.view(b, c, q, h, p) * from_start.unsqueeze(-1)
    return y.reshape(b, T + pad, h, p)[:, :T], state


def ssd_step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> Tensor:
    """One frame of the recurrence. x [b, h, p]; dt [b, h]; A [h]; B, C [b, n]; `state` [b, h, p, n] changes in place.

    dt and A are of the type of `state`. Returns y [b, h, p] in the type of x.
    """
    kind, (b, h, p, n) = x.dtype, state.shape
    if kind != state.dtype:
        x, B, C = (v.to(state.dtype) for v in (x, B, C))
    dt = dt.view(b, h, 1, 1)
    state.mul_((dt * A.view(h, 1, 1)).exp_())
    state.addcmul_(x.view(b, h, p, 1) * dt, B.view(b, 1, 1, n))
    y = torch.bmm(C.view(b, 1, n), state.view(b, h * p, n).mT)  # in this order three times as fast on a CPU
    return y.view(b, h, p) if kind == state.dtype else y.view(b, h, p).to(kind)
