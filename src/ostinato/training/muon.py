"""Muon, an optimizer for matrices, in float32. PyTorch's own takes its products in bfloat16 whatever the run's
precision is: where a processor has to emulate that, a training step takes three times as long (LOG.md, "Muon in
float32")."""

import math

import torch
from torch import Tensor


def orthogonal(update: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """[m, n] with singular values near 1, by Newton-Schulz iterations in the type that it has (K. Jordan 2024)."""
    a, b, c = coefficients
    x = update / update.norm().clamp(min=eps)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(steps):
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
                update = p.grad.lerp(average, group["momentum"])
                update = orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-0.2 * math.sqrt(max(p.shape)) * group["lr"])
