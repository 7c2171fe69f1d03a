"""Self-attention with a key/value cache, and cross-attention to the text, on PyTorch's SDPA."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class KVState:
    """Keys and values of the frames so far, in buffers that grow by doubling, and which of them are real."""

    k: Tensor  # [b, heads, capacity, d / heads]
    v: Tensor
    mask: Tensor  # [b, capacity], False at padding and beyond `length`
    length: int = 0

    def append(self, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
        """Add keys and values [b, heads, T, d / heads] of T frames."""
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            more = max(end, 2 * self.k.shape[2]) - self.k.shape[2]
            self.k, self.v = F.pad(self.k, (0, 0, 0, more)), F.pad(self.v, (0, 0, 0, more))
            self.mask = F.pad(self.mask, (0, more))
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.mask[:, self.length : end] = True if mask is None else mask
        self.length = end


@dataclass
class TextState:
    """Keys and values of the text, computed once."""

    k: Tensor  # [b, heads, s, d / heads]
    v: Tensor
    mask: Tensor  # [b, s]


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.in_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def empty_state(self, b: int) -> KVState:
        weight = self.in_proj.weight
        empty = weight.new_zeros(b, self.heads, 256, weight.shape[1] // self.heads)
        return KVState(empty, empty.clone(), weight.new_zeros(b, 256, dtype=torch.bool))

    def forward(self, u: Tensor, state: KVState | None = None, mask: Tensor | None = None) -> Tensor:
        """Causal: u [b, T, d] -> [b, T, d]; `state`, if given, is carried on. mask [b, T], False at padding."""
        T, dropout = u.shape[1], self.dropout if self.training else 0.0
        q, k, v = self.in_proj(u).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if state is None and mask is None:
            y = F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True)
            return self.out_proj(y.transpose(1, 2).flatten(2))
        state = self.empty_state(len(u)) if state is None else state
        state.append(k.to(state.k.dtype), v.to(state.v.dtype), mask)
        end = state.length
        causal = torch.ones(T, end, dtype=torch.bool, device=u.device).tril(end - T)
        # Padding sees itself, so that no row is without a key; nothing real ever sees padding.
        allowed = (causal & state.mask[:, None, None, :end]) | causal.triu(end - T)
        y = F.scaled_dot_product_attention(
            q, state.k[:, :, :end].to(q.dtype), state.v[:, :, :end].to(q.dtype), allowed, dropout
        )
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def step(self, u: Tensor, state: KVState) -> Tensor:
        """One frame: u [b, d] -> [b, d]. It sees all frames so far and itself."""
        q, k, v = self.in_proj(u).view(len(u), 3, self.heads, 1, -1).unbind(1)
        state.append(k.to(state.k.dtype), v.to(state.v.dtype), None)
        k, v = (kept[:, :, : state.length].to(q.dtype) for kept in (state.k, state.v))
        y = F.scaled_dot_product_attention(q, k, v, state.mask[:, None, None, : state.length])
        return self.out_proj(y.flatten(1))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float = 0.0, text_width: int | None = None):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.q_proj = nn.Linear(width, width, bias=False)
        self.kv_proj = nn.Linear(text_width or width, 2 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def text_state(self, text: Tensor, mask: Tensor) -> TextState:
        """text [b, s, text_width], mask [b, s] -> its keys and values."""
        k, v = self.kv_proj(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return TextState(k, v, mask)

    def forward(self, u: Tensor, state: TextState, mask: Tensor | None = None) -> Tensor:
        """u [b, T, d] attends to the text -> [b, T, d]. `mask` of the frames plays no part."""
        q = self.q_proj(u).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, state.k, state.v, state.mask[:, None, None], dropout)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def step(self, u: Tensor, state: TextState) -> Tensor:
        """One frame: u [b, d] -> [b, d]."""
        return self.forward(u.unsqueeze(1), state).squeeze(1)
