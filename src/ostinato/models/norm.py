"""RMS norm, of which PyTorch makes six operations on a CPU: `step` takes five, in float32, for the same numbers."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__(width, eps=eps)
        self.floor = as_tensor(eps)

    def step(self, x: Tensor) -> Tensor:
        """One frame, x [b, d]."""
        return rms_norm(x, self.weight, self.floor) if is_plain(x) else self(x)


def as_tensor(eps: float) -> Tensor:
    """eps [] for `rms_norm`: each time that PyTorch makes a tensor of a number costs as much as adding it."""
    return torch.tensor(eps, dtype=torch.float32, device="cpu")


def is_plain(x: Tensor) -> bool:
    return x.is_cpu and x.dtype == torch.float32


def rms_norm(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """x [b, d] over its root mean square, times weight [d]; in float32 on a CPU, without gradients."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (x * weight).mul_(torch.addcmul(eps, size, size, value=1 / x.shape[-1]).rsqrt_())
