"""How much memory a training pass takes, by part, found without allocating any: the pass is run on fake tensors."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ostinato.generation.diffusion import code_loss, noised, v_loss
from ostinato.models.attention import CrossAttention, SelfAttention
from ostinato.models.denoisers import BidirectionalSimba, FineConfig, LinearAttention, Residual, UNet, make_denoiser
from ostinato.models.lm import FeedForward, LMConfig, MusicLM
from ostinato.models.mamba import Mamba2


class Live(TorchDispatchMode):
    """Within it, bytes of all storages that are made: those alive `now`, and the `peak` of that."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.gone, storage.nbytes())
        return out

    def gone(self, size: int) -> None:
        self.now -= size


OUTSIDE = "outside sub-layers"
KINDS = {  # of the denoisers' sub-layers
    Residual: "residual convolutions",
    LinearAttention: "linear attention",
    Mamba2: "mamba",
    CrossAttention: "cross-attention",
    FeedForward: "feed-forward",
}
Loss = Callable[[], Tensor]


def sublayers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Sub-layers of a language model or a denoiser, each with its kind."""
    if isinstance(model, MusicLM):
        yield from ((str(layer.kind), layer) for layer in model.layers)
    else:
        yield from ((KINDS[type(module)], module) for module in model.modules() if type(module) in KINDS)


def activations(
    config: LMConfig | FineConfig, batch: int, frames: int, text: int, bf16: bool, checkpointing: bool
) -> tuple[dict[str, int], int]:
    """Bytes that one forward pass keeps for its backward pass, by kind of sub-layer (weights in bfloat16 included), and
    the peak of both passes: what is kept and whatever else lives then. Weights, gradients and the optimizer's states
    come on top.

    The passes run on fake tensors, which have shapes but no bytes, and every storage made is counted: the figures
    follow the model as it is written. Attention is taken as its flash kernel, which on a CPU wants no dropout. Every
    block adds what the second does, but in a U-Net, whose blocks differ. checkpointing: only the input of each
    sub-layer (of a denoiser: of each block) is kept, the rest computed again.
    """
    if config.blocks < 3 or (isinstance(config, FineConfig) and config.denoiser == "unet"):
        return traced(config, batch, frames, text, bf16, checkpointing)
    (kept, peak), (kept2, peak2) = (
        traced(replace(config, blocks=blocks), batch, frames, text, bf16, checkpointing) for blocks in (1, 2)
    )
    more = config.blocks - 1
    return {part: kept[part] + more * (kept2[part] - kept[part]) for part in kept}, peak + more * (peak2 - peak)


def autocast_type() -> str:
    """The default device's, a CPU's where that has no bytes."""
    return "cuda" if torch.get_default_device().type == "cuda" else "cpu"


def lm_loss(config: LMConfig, batch: int, frames: int, text: int, bf16: bool) -> tuple[MusicLM, Loss]:
    """A language model, and what makes the loss of a batch of no content."""
    lm = MusicLM(config)
    steps = torch.zeros(batch, config.num_codebooks, lm.pattern.length(frames), dtype=torch.long)
    embedded, mask = torch.zeros(batch, text, config.text_width), torch.ones(batch, text, dtype=torch.bool)

    def loss() -> Tensor:
        with torch.autocast(autocast_type(), torch.bfloat16, bf16):
            losses = lm(steps, embedded, mask, steps)
        return losses.mean() / (batch * frames)

    return lm, loss


def fine_loss(
    config: FineConfig, batch: int, frames: int, text: int, bf16: bool
) -> tuple[UNet | BidirectionalSimba, Loss]:
    """`lm_loss`, of a fine stage."""
    denoiser = make_denoiser(config)
    fine, coarse = torch.zeros(batch, config.fine, frames), torch.zeros(batch, config.coarse, frames)
    time, mask = torch.zeros(batch), torch.ones(batch, frames, dtype=torch.bool)
    codes = torch.zeros(batch, config.num_codebooks - 1, frames, dtype=torch.long)
    table = torch.zeros(config.num_codebooks - 1, config.codebook_size, config.latent_width)
    embedded, text_mask = torch.zeros(batch, text, config.text_width), torch.ones(batch, text, dtype=torch.bool)

    def loss() -> Tensor:
        noise = torch.zeros_like(fine)
        with torch.autocast(autocast_type(), torch.bfloat16, bf16):
            predicted = denoiser(noised(fine, noise, time), coarse, time, embedded, text_mask, mask)
        if config.prediction_type == "v":
            return v_loss(predicted, fine, noise, time, mask)
        return code_loss(predicted, fine, time, table, codes, mask)

    return denoiser, loss


def traced(
    config: LMConfig | FineConfig, batch: int, frames: int, text: int, bf16: bool, checkpointing: bool
) -> tuple[dict[str, int], int]:
    """See `activations`, which it is for a model of any depth."""
    kept: Counter[str] = Counter()
    part = OUTSIDE

    def enter(kind: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal part
            part = kind

        return hook

    with FakeTensorMode():
        sizes = batch, frames, text, bf16
        model: Any
        model, loss = lm_loss(config, *sizes) if isinstance(config, LMConfig) else fine_loss(config, *sizes)
        model.train().checkpointing = checkpointing
        seen: weakref.WeakSet = weakref.WeakSet(p.untyped_storage() for p in model.parameters())

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage not in seen:
                seen.add(storage)
                kept[part] += storage.nbytes()
            return tensor

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        for module in model.modules():
            if isinstance(module, SelfAttention | CrossAttention):
                module.dropout = 0.0
        for kind, layer in sublayers(model):
            layer.register_forward_pre_hook(enter(kind))
            layer.register_forward_hook(enter(OUTSIDE))
        with Live() as live, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss().backward()
    return dict(kept), live.peak
