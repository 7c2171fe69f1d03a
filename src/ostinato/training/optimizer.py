"""The optimiser: its schedule, its groups, its state; and gradients that several processes hold."""

import math
import re

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ostinato.training.config import Optimisation
from ostinato.training.distributed import like
from ostinato.training.muon import FloatMuon

ENDS = re.compile(r"(^|\.)(embedding|lm_head)\.")  # of a language model, which Muon is not for


def learning_rate(step: int, hyper: Optimisation) -> float:
    """Linear warm-up, then cosine to `final_learning_rate`, by optimizer step (counted from 0)."""
    if step < hyper.warmup:
        return hyper.learning_rate * (step + 1) / hyper.warmup
    progress = (step - hyper.warmup) / max(1, hyper.steps - hyper.warmup)
    low = hyper.final_learning_rate
    return low + (hyper.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def optimizers_for(module: nn.Module, hyper: Optimisation) -> list[torch.optim.Optimizer]:
    """AdamW, fused on a GPU; vectors and scalars (norms, biases, A_log, D) are not decayed.

    With `hyper.optimizer` muon, Muon (K. Jordan 2024; arXiv 2502.16982 for the rate that suits AdamW's) takes the
    matrices of linear layers, AdamW what is left: a language model's embeddings and heads, convolutions, vectors.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    inner: list[Tensor] = []
    if hyper.optimizer == "muon":
        inner = [p for name, p in trained.items() if p.ndim == 2 and not ENDS.search(name)]
    rest = [p for p in trained.values() if all(p is not q for q in inner)]
    matrices, vectors = [p for p in rest if p.ndim >= 2], [p for p in rest if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": hyper.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    fused = all(p.is_cuda for p in rest)
    adamw = torch.optim.AdamW(groups, lr=hyper.learning_rate, betas=hyper.betas, fused=fused)
    if not inner:
        return [adamw]
    rate, decay, momentum = hyper.learning_rate, hyper.weight_decay, hyper.betas[0]
    kind = FloatMuon if inner[0].device.type == "cpu" and hyper.precision != "bf16" else torch.optim.Muon
    muon = kind(inner, rate, decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw]


def load_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a state dict of whole tensors, each sharded as its parameter is; betas and decay stay this run's own."""
    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        saved.update({key: group[key] for key in ("betas", "momentum", "weight_decay", "fused") if key in group})
    optimizer.load_state_dict(state)
    for p, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == p.shape:
                entries[name] = like(value.to(p.device), p)


def clip_gradients(module: nn.Module, most: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `most`; returns what it was."""
    norm = nn.utils.clip_grad_norm_(module.parameters(), most)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def all_finite(module: nn.Module) -> Tensor:
    """Whether all weights that this process holds are finite numbers."""
    held = [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
    return torch.stack([p.detach().isfinite().all() for p in held]).all()
