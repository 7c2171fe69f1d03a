"""Muon for CPUs. PyTorch's own takes its products in bfloat16 whatever the run's precision is, and few CPUs have that:
where it is emulated, a whole training step takes three times as long (LOG.md, 2026-11-28)."""

import math

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # K. Jordan's coefficients, and PyTorch's
ITERATIONS = 5


def orthogonal(update: Tensor) -> Tensor:
    """[m, n] with singular values near 1, by Newton-Schulz iterations in the type that it has (K. Jordan 2024)."""
    a, b, c = NEWTON_SCHULZ
    x = update / update.norm().clamp(min=1e-7)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if update.shape[0] > update.shape[1] else x


class FloatMuon(torch.optim.Muon):
    """`torch.optim.Muon` with Nesterov's momentum and the rate that suits AdamW's (arXiv 2502.16982), in float32. Its
    state is the same, so that a run may go on where the other stopped."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                average = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(average, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-0.2 * math.sqrt(max(p.shape)) * group["lr"])
