"""How much memory a training pass takes, by part, found without allocating any: the pass is run on fake tensors."""

import weakref
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ostinato.lm import LMConfig, MusicLM


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


def activations(
    config: LMConfig, batch: int, frames: int, text: int, bf16: bool, checkpointing: bool
) -> tuple[dict[str, int], int]:
    """Bytes that one forward pass keeps for its backward pass, by kind of sub-layer (weights in bfloat16 included), and
    the peak of both passes: what is kept and whatever else lives then. Weights, gradients and the optimizer's states
    come on top.

    The passes run on fake tensors, which have shapes but no bytes, and every storage made is counted: the figures
    follow the model as it is written. Attention is taken as its flash kernel, which on a CPU wants no dropout. Every
    block adds what the second does. checkpointing: only the input of each sub-layer is kept, the rest computed again.
    """
    if config.blocks < 3:
        return traced(config, batch, frames, text, bf16, checkpointing)
    (kept, peak), (kept2, peak2) = (
        traced(replace(config, blocks=blocks), batch, frames, text, bf16, checkpointing) for blocks in (1, 2)
    )
    more = config.blocks - 1
    return {part: kept[part] + more * (kept2[part] - kept[part]) for part in kept}, peak + more * (peak2 - peak)


def traced(
    config: LMConfig, batch: int, frames: int, text: int, bf16: bool, checkpointing: bool
) -> tuple[dict[str, int], int]:
    """See `activations`, which it is for a model of any depth."""
    from ostinato.lm_task import code_losses  # which may itself import this

    kept: Counter[str] = Counter()
    part = OUTSIDE

    def enter(layer: Any, *_: Any) -> None:
        nonlocal part
        part = layer.kind

    def leave(*_: Any) -> None:
        nonlocal part
        part = OUTSIDE

    with FakeTensorMode():
        lm = MusicLM(config).train()
        lm.checkpointing = checkpointing
        S = lm.pattern.length(frames)
        steps = torch.zeros(batch, config.num_codebooks, S, dtype=torch.long)
        embedded, mask = torch.zeros(batch, text, config.text_width), torch.ones(batch, text, dtype=torch.bool)
        seen: weakref.WeakSet = weakref.WeakSet(p.untyped_storage() for p in lm.parameters())

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage not in seen:
                seen.add(storage)
                kept[part] += storage.nbytes()
            return tensor

        for p in lm.parameters():
            p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        layers: Any = lm.layers
        for layer in layers:
            if layer.kind.endswith("attention"):
                layer.mixer.dropout = 0.0
            layer.register_forward_pre_hook(enter)
            layer.register_forward_hook(leave)
        with Live() as live, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
                logits = lm(steps, embedded, mask)
            losses, counts = code_losses(logits, steps)
            loss = (losses / counts).mean()
            del logits
            loss.backward()
    return dict(kept), live.peak
