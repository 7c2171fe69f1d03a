"""The exponential moving average of weights in training (EMA)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ostinato.training.distributed import like


class EMA:
    """Averages of a module's trainable weights: after step n, average = d average + (1 - d) weight, where d is `decay`,
    and less at first, min(decay, (1 + n) / (10 + n)), for the random beginning to be forgotten. offload: they are
    kept in main memory."""

    def __init__(self, module: nn.Module, decay: float, offload: bool = False):
        self.decay = decay
        trained = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
        self.weights = {name: p.to("cpu", copy=True) if offload else p.clone() for name, p in trained.items()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Go on from averages saved, sharded where the weights are."""
        for name, kept in self.weights.items():
            self.weights[name] = like(weights[name].to(kept.device), kept)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights of `module` after its step number `step`, from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, p in module.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(p.detach().to(self.weights[name].device), share)

    @contextmanager
    def ema_weights(self, module: nn.Module) -> Iterator[None]:
        """Within it, `module` has the averages for its weights."""
        self.swap(module)
        try:
            yield
        finally:
            self.swap(module)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        for name, p in module.named_parameters():
            if name in self.weights:
                kept = p.detach().clone().to(self.weights[name].device)
                p.copy_(self.weights[name])
                self.weights[name] = kept
