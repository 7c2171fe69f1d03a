"""The language model: codes in, logits of the next codes out, led by text. Four variants, a line of data each.

Read this file first, then `mamba.py` and `ssd.py`; `generation/sampling.py` generates with it.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ostinato.models.attention import CrossAttention, KVState, SelfAttention, TextState
from ostinato.models.mamba import Mamba2, MambaState
from ostinato.models.norm import RMSNorm
from ostinato.models.patterns import make_pattern
from ostinato.utils.errors import UserError, nearest

IGNORED = -100  # cross_entropy's mark of a target that does not count


class Variant(NamedTuple):
    sublayers: tuple[str, ...]  # of one block, in order
    text: str  # "prefix": the text stands before the frames; "cross": it is read by cross-attention
    positions: str  # "none": the recurrence itself keeps time; "sinusoidal"


VARIANTS = {  # Figure 1 of the paper, (a) to (d)
    "prefix-mamba": Variant(("mamba", "mamba"), "prefix", "none"),
    "prefix-simba": Variant(("mamba", "feed-forward"), "prefix", "none"),
    "cross-simba": Variant(("mamba", "cross-attention", "feed-forward"), "cross", "none"),
    "cross-transformer": Variant(("self-attention", "cross-attention", "feed-forward"), "cross", "sinusoidal"),
}


@dataclass(frozen=True)
class LMConfig:
    """Sizes default to the paper's (section IV-A). The last six serve the authors' checkpoints (`convert.official`)."""

    variant: str = "prefix-simba"
    num_codebooks: int = 1  # K
    pattern: str = "single"
    codebook_size: int = 1024  # a code's own values; one more, the special token, stands where no code is
    text_width: int = 768
    width: int = 1024  # d
    blocks: int = 24  # N
    heads: int = 8  # of attention
    feed_forward: int = 2048
    dropout: float = 0.3
    state: int = 512  # n
    expand: int = 2
    head_width: int = 64  # p
    conv: int = 4
    chunk: int = 64  # q
    norm: str = "rms"  # or "layer"
    positions: str = ""  # "none", "sinusoidal", or "audiocraft", MusicGen's layout of it; default: the variant's
    condition_norm: bool = False  # a layer norm after the projection of the text
    final_norm: bool = True
    text_positions: bool = False  # cross-attention reads the text with positions added, RMS-normed
    attention_bias: bool = False  # of the output projection of attention

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise UserError(f"unknown variant {self.variant!r}; {nearest(self.variant, list(VARIANTS))}")
        if self.norm not in ("rms", "layer"):
            raise UserError(f"norm must be rms or layer, got {self.norm!r}")
        if self.positions not in ("", "none", "sinusoidal", "audiocraft"):
            raise UserError(f"positions must be none, sinusoidal or audiocraft, got {self.positions!r}")
        for f in fields(self):
            if f.type is int and getattr(self, f.name) < 1:
                raise ValueError(f"{f.name} must be at least 1, got {getattr(self, f.name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        kinds, inner = VARIANTS[self.variant].sublayers, self.expand * self.width
        if "mamba" in kinds and inner % self.head_width:
            raise ValueError(f"expand * width = {inner} must be a multiple of head_width {self.head_width}")
        if any(kind.endswith("attention") for kind in kinds) and self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if (self.positions or VARIANTS[self.variant].positions) != "none" and self.width % 2:
            raise ValueError(f"width {self.width} must be even for sinusoidal positions")
        make_pattern(self.pattern, self.num_codebooks)


State = MambaState | KVState | TextState | None


@dataclass
class LMState:
    """All that the model remembers of text and frames, as tensors: copy it to fork, save its tensors to resume."""

    layers: list[State]  # of each sub-layer, in order
    position: Tensor  # [b] int64: steps done, the prefix counted

    def clone(self) -> "LMState":
        copies = [copy.copy(layer) for layer in self.layers]
        for layer in copies:
            for name, value in vars(layer).items() if layer is not None else ():
                setattr(layer, name, value.clone() if isinstance(value, Tensor) else value)
        return LMState(copies, self.position.clone())

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, for saving; `load_tensors` is the inverse."""
        out = {"position": self.position}
        for i, layer in enumerate(self.layers):
            if layer is not None:
                out |= {f"{i}.{f.name}": torch.as_tensor(getattr(layer, f.name)) for f in fields(layer)}
        return out

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.position = tensors["position"]
        for i, layer in enumerate(self.layers):
            for f in fields(layer) if layer is not None else ():
                value = tensors[f"{i}.{f.name}"]
                setattr(layer, f.name, int(value) if f.name == "length" else value)


class FeedForward(nn.Module):
    """d -> 2048 -> d with GELU."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.up, self.down, self.dropout = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.Dropout(dropout)

    def forward(self, x: Tensor, state: None = None, mask: Tensor | None = None) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x))))

    def step(self, x: Tensor, state: None) -> Tensor:
        return self.down(F.gelu(self.up(x)))


def make_norm(config: LMConfig) -> nn.Module:
    return RMSNorm(config.width, eps=1e-5) if config.norm == "rms" else nn.LayerNorm(config.width)


class SubLayer(nn.Module):
    """x + mixer(norm(x)), the mixer by its name."""

    def __init__(self, kind: str, config: LMConfig):
        super().__init__()
        c = config
        self.kind, self.norm, self.dropout = kind, make_norm(c), nn.Dropout(c.dropout)
        self.mixer: nn.Module
        if kind == "mamba":
            self.mixer = Mamba2(c.width, c.state, c.expand, c.head_width, c.conv, c.chunk)
        elif kind == "self-attention":
            self.mixer = SelfAttention(c.width, c.heads, c.dropout)
        elif kind == "cross-attention":
            self.mixer = CrossAttention(c.width, c.heads, c.dropout)
        else:
            self.mixer = FeedForward(c.width, c.feed_forward, c.dropout)
        if c.attention_bias and kind.endswith("attention"):
            self.mixer.out_proj = nn.Linear(c.width, c.width)

    def forward(self, x: Tensor, state: State, mask: Tensor | None) -> Tensor:
        return x + self.dropout(self.mixer(self.norm(x), state, mask))

    def step(self, x: Tensor, state: State) -> Tensor:
        normed = self.norm.step(x) if isinstance(self.norm, RMSNorm) else self.norm(x)
        return x + self.mixer.step(normed, state)  # type: ignore[operator]


class MusicLM(nn.Module):
    """Steps of a pattern [b, K, S] and text [b, s, text_width] -> logits [b, K, S, V], V = codebook_size + 1.

    Step i of the input leads to the logits of step i + 1: the input begins with a step of special tokens.
    `forward` takes all steps at once, for training; `start`, then `extend` (many steps) and `step` (one) carry a
    state, for generation. They agree.
    """

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config, self.variant = config, VARIANTS[config.variant]
        self.pattern = make_pattern(config.pattern, config.num_codebooks)
        self.special, K, V = config.codebook_size, config.num_codebooks, config.codebook_size + 1
        self.embedding = nn.ModuleList(nn.Embedding(V, config.width) for _ in range(K))
        self.condition_linear = nn.Linear(config.text_width, config.width)
        self.condition_norm = nn.LayerNorm(config.width) if config.condition_norm else nn.Identity()
        kinds = self.variant.sublayers * config.blocks
        self.layers = nn.ModuleList(SubLayer(kind, config) for kind in kinds)
        self.norm = make_norm(config) if config.final_norm else nn.Identity()
        self.lm_head = nn.ModuleList(nn.Linear(config.width, V, bias=False) for _ in range(K))
        self.positions = config.positions or self.variant.positions
        self.checkpointing = False  # of activations, in training
        self.init_weights()

    def init_weights(self) -> None:
        """Every initialisation of the model; the same seed gives the same weights.

        | what | values |
        | --- | --- |
        | linear layers | normal, std 0.02; biases 0 |
        | out_proj and down, which add to the residual | normal, std 0.02 / sqrt(sub-layers) |
        | embeddings | normal, std 1 / sqrt(K) |
        | norms | 1 (biases 0) |
        | Mamba-2, set in `Mamba2`: A | -uniform(1, 16) |
        | softplus(dt_bias) | log-uniform in [0.001, 0.1] |
        | D | 1 |
        | conv1d | uniform, PyTorch's own |
        """
        into_residual = 0.02 / math.sqrt(len(self.layers))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=into_residual if name.endswith((".out_proj", ".down")) else 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Of variance 1 in sum: at 0.02 the positions drown it, and a Transformer learns at half the speed (LOG.md).
        for table in self.embedding:
            nn.init.normal_(table.weight, std=1 / math.sqrt(len(self.embedding)))  # type: ignore[arg-type]

    def forward(
        self,
        steps: Tensor,
        text: Tensor,
        text_mask: Tensor,
        targets: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """steps [b, K, S], text [b, s, text_width], text_mask [b, s] (True at tokens) -> logits [b, K, S, V]; with
        targets [b, K, S] the `losses` [K] in their place."""
        frames, states = self.embed(steps), self.text_states(text, text_mask)
        if self.variant.text == "cross":
            x = self.backbone(self.place(frames, None), states, None)
        else:
            prefix, mask = pad_left(self.condition(text), text_mask)
            mask = F.pad(mask, (0, frames.shape[1]), value=True)
            x = self.place(torch.cat([prefix, frames], 1), mask)
            x = self.backbone(x, states, mask)[:, prefix.shape[1] :]
        return self.logits(x) if targets is None else self.losses(x, targets, label_smoothing)

    def start(self, text: Tensor, text_mask: Tensor) -> LMState:
        """The state before the first step: the text read. text [b, s, text_width], text_mask [b, s]."""
        b = len(text)
        state = LMState(self.text_states(text, text_mask), torch.zeros(b, dtype=torch.long, device=text.device))
        for i, layer in enumerate(self.layers):
            if layer.kind in ("mamba", "self-attention"):
                state.layers[i] = layer.mixer.empty_state(b)  # type: ignore[union-attr, operator]
        if self.variant.text == "prefix":
            prefix, mask = pad_left(self.condition(text), text_mask)
            self.backbone(self.place(prefix, mask), state.layers, mask)
            state.position = mask.sum(1)
        return state

    def extend(self, steps: Tensor, state: LMState) -> Tensor:
        """Further steps [b, K, S] in parallel -> logits [b, K, S, V]; `state` is carried on in place."""
        x = self.place(self.embed(steps), None, state.position)
        state.position = state.position + x.shape[1]
        return self.logits(self.backbone(x, state.layers, None))

    def step(self, codes: Tensor, state: LMState) -> Tensor:
        """One step [b, K] -> logits [b, K, V], in constant time for Mamba; `state` is carried on in place."""
        x = self.place(self.embed(codes.unsqueeze(-1)), None, state.position).squeeze(1)
        state.position += 1
        for layer, s in zip(self.layers, state.layers, strict=True):
            x = layer.step(x, s)  # type: ignore[operator]
        return self.logits(x.unsqueeze(1)).squeeze(2)

    @property
    def device(self) -> torch.device:
        return self.condition_linear.weight.device

    def embed(self, steps: Tensor) -> Tensor:
        """[b, K, S] -> [b, S, d], the sum over codebooks."""
        return torch.stack([table(steps[:, k]) for k, table in enumerate(self.embedding)]).sum(0)

    def condition(self, text: Tensor) -> Tensor:
        return self.condition_norm(self.condition_linear(text.to(self.condition_linear.weight.dtype)))

    def text_states(self, text: Tensor, mask: Tensor) -> list[State]:
        """A state for each sub-layer: the keys and values of the text for cross-attention, None for others."""
        condition = self.condition(text) if self.variant.text == "cross" else text
        if self.config.text_positions:  # the norm's weight, where there is one, is part of kv_proj
            condition = F.rms_norm(self.place(condition, mask), condition.shape[-1:], eps=1e-5)
        cross = [layer.mixer if layer.kind == "cross-attention" else None for layer in self.layers]
        return [m.text_state(condition, mask) if isinstance(m, CrossAttention) else None for m in cross]

    def place(self, x: Tensor, mask: Tensor | None, first: Tensor | None = None) -> Tensor:
        """Add positions to x [b, T, d]: counted over real frames only, from `first` [b] on."""
        if self.positions == "none":
            return x
        if mask is None:
            position = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        else:
            position = (mask.cumsum(1) - 1).clamp(min=0)
        if first is not None:
            position = position + first.unsqueeze(1)
        return x + sinusoids(position, x.shape[-1], self.positions).to(x.dtype)

    def backbone(self, x: Tensor, states: list[State], mask: Tensor | None) -> Tensor:
        for layer, state in zip(self.layers, states, strict=True):
            x = recomputed(self, layer, x, state, mask)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """[b, S, d] -> [b, K, S, V]."""
        x = self.norm(x)
        return torch.stack([head(x) for head in self.lm_head], 1)

    def losses(self, x: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy (nats), summed over the codes of each codebook: x [b, S, d], targets [b, K, S] -> [K].

        Logits are made one codebook at a time, and only at steps that the pattern has for it: of a flattened one every
        K-th. With `checkpointing` they are made again for the backward pass.
        """
        x, out = self.norm(x), []
        for k, head in enumerate(self.lm_head):
            places = self.pattern.places(k)
            out.append(recomputed(self, head_loss, head, x[:, places], targets[:, k, places], label_smoothing))
        return torch.stack(out)


def recomputed(model: nn.Module, part: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`part` of its inputs; in training with `model.checkpointing` it keeps only these, and is computed again for the
    backward pass."""
    if model.checkpointing and model.training:
        return checkpoint(part, *inputs, use_reentrant=False)
    return part(*inputs)


def head_loss(head: nn.Module, x: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Summed cross-entropy of one codebook, in float32: x [b, T, d], targets [b, T], IGNORED where none is -> []."""
    logits = head(x).flatten(0, 1).float()
    return F.cross_entropy(
        logits, targets.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
    )


def pad_left(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real tokens of x [b, s, d] to the end of each row, where the frames follow; mask [b, s] likewise."""
    real = mask.long()
    first = mask.shape[1] - real.sum(1, keepdim=True)  # where they begin
    place = torch.where(mask, first + real.cumsum(1) - 1, (1 - real).cumsum(1) - 1)
    moved = torch.zeros_like(x).scatter(1, place.unsqueeze(-1).expand_as(x), x)
    return moved, torch.arange(mask.shape[1], device=mask.device) >= first


def sinusoids(position: Tensor, width: int, layout: str = "sinusoidal") -> Tensor:
    """position [b, T] -> [b, T, width]: sines and cosines, wavelengths 2 pi to 20000 pi (Vaswani et al.).

    layout "sinusoidal": in turn; "audiocraft": all cosines, then all sines, the last wavelength 20000 pi exactly.
    Whole positions make angles in float64: in float32 those of an hour are off by 0.02. Times keep their own type.
    """
    wide = position.dtype
    if not position.is_floating_point():
        wide = torch.float32 if position.device.type == "mps" else torch.float64  # mps has no float64
    last = width if layout == "sinusoidal" else max(2, width - 2)
    rate = torch.exp(torch.arange(0, width, 2, device=position.device, dtype=wide) * (-math.log(10000.0) / last))
    angle = position.to(wide).unsqueeze(-1) * rate
    if layout == "audiocraft":
        return torch.cat([angle.cos(), angle.sin()], -1)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
