"""The Mamba-2 layer (arXiv 2405.21060, section 7). Parameter names as in mamba_ssm's `Mamba2`."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostinato.models.norm import as_tensor, is_plain, rms_norm
from ostinato.models.ssd import SSD, ssd, ssd_step


@dataclass
class MambaState:
    """All that a Mamba-2 layer remembers: the last inputs of its convolution and the SSM state (float32)."""

    conv: Tensor  # [b, conv - 1, expand d + 2n]
    ssm: Tensor  # [b, h, p, n]


class GatedNorm(nn.Module):
    """RMS norm of y * silu(z)."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps, self.floor = nn.Parameter(torch.ones(width)), eps, as_tensor(eps)

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        return F.rms_norm(y * F.silu(z), self.weight.shape, self.weight.to(y.dtype), self.eps)

    def step(self, y: Tensor, z: Tensor) -> Tensor:
        return rms_norm(F.silu(z).mul_(y), self.weight, self.floor) if is_plain(y) else self(y, z)


class Mamba2(nn.Module):
    """width d, SSM state n, expand, head width p, convolution length, chunk length q of the parallel form."""

    def __init__(
        self, width: int, state: int = 512, expand: int = 2, head_width: int = 64, conv: int = 4, chunk: int = 64
    ):
        super().__init__()
        self.inner, self.n, self.p, self.chunk = expand * width, state, head_width, chunk
        if self.inner % head_width:
            raise ValueError(f"expand * width = {self.inner} is not a multiple of head_width {head_width}")
        self.h = self.inner // head_width
        channels = self.inner + 2 * state
        self.in_proj = nn.Linear(width, self.inner + channels + self.h, bias=False)  # z, x, B, C, dt
        self.conv1d = nn.Conv1d(channels, channels, conv, groups=channels)
        self.dt_bias, self.A_log = nn.Parameter(torch.empty(self.h)), nn.Parameter(torch.empty(self.h))
        self.reset_parameters()
        self.D = nn.Parameter(torch.ones(self.h))
        self.norm = GatedNorm(self.inner)
        self.out_proj = nn.Linear(self.inner, width, bias=False)
        self.ssd: SSD = ssd  # training may put another backend in its place

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A in [-16, -1] and softplus(dt_bias) log-uniform in [0.001, 0.1]: time constants of 1 to 1000 frames."""
        if self.A_log.is_meta:
            return
        dt = torch.exp(torch.rand(self.h) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.A_log.uniform_(1, 16).log_()

    def empty_state(self, b: int) -> MambaState:
        weight = self.conv1d.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        conv = weight.new_zeros(b, self.conv1d.kernel_size[0] - 1, self.inner + 2 * self.n)
        return MambaState(conv, weight.new_zeros(b, self.h, self.p, self.n, dtype=wide))

    def forward(self, u: Tensor, state: MambaState | None = None, mask: Tensor | None = None) -> Tensor:
        """u [b, T, d] -> [b, T, d], for any T >= 1; `state`, if given, is carried on in place.

        mask [b, T], False at padding, which must stand before all real frames of a fresh state or after them:
        it changes neither the state nor any real frame.
        """
        z, xBC, dt = self.in_proj(u).split([self.inner, self.inner + 2 * self.n, self.h], -1)
        dt = F.softplus(dt + self.dt_bias)
        if mask is not None:
            xBC, dt = xBC * mask.unsqueeze(-1), dt * mask.unsqueeze(-1)
        before = state or self.empty_state(len(u))
        window = torch.cat([before.conv.to(xBC.dtype), xBC], 1)
        # Shifted products, as in `step`: a depthwise Conv1d's backward pass takes five times as long on a CPU.
        weight, T = self.conv1d.weight.squeeze(1).T.to(window.dtype), u.shape[1]
        taps = [window[:, i : i + T] * tap for i, tap in enumerate(weight)]
        xBC = F.silu(sum(taps, self.conv1d.bias.to(window.dtype)))  # type: ignore[union-attr]
        x, B, C = xBC.split([self.inner, self.n, self.n], -1)
        x = x.unflatten(-1, (self.h, self.p))
        y, ssm = self.ssd(x, dt, -self.A_log.exp(), B, C, before.ssm, self.chunk)
        if state is not None:
            state.conv, state.ssm = self.last_inputs(window, mask), ssm
        y = y + x * self.D.to(x.dtype).unsqueeze(-1)
        return self.out_proj(self.norm(y.flatten(2), z))

    def step(self, u: Tensor, state: MambaState) -> Tensor:
        """One frame: u [b, d] -> [b, d]; `state` changes in place, tensor by tensor, as a CUDA graph needs it."""
        z, xBC, dt = self.in_proj(u).split_with_sizes([self.inner, self.inner + 2 * self.n, self.h], -1)
        dt = F.softplus(dt + self.dt_bias)
        window = torch.cat([state.conv, xBC.unsqueeze(1)], 1)
        state.conv.copy_(window.narrow(1, 1, state.conv.shape[1]))
        conv = self.conv1d
        xBC = F.silu((window * conv.weight.permute(1, 2, 0)).sum(1).add_(conv.bias))  # type: ignore[arg-type]
        x, B, C = xBC.split_with_sizes([self.inner, self.n, self.n], -1)
        x = x.view(-1, self.h, self.p)
        y = ssd_step(x, dt, -self.A_log.exp(), B, C, state.ssm).addcmul_(x, self.D.unsqueeze(-1))
        return self.out_proj(self.norm.step(y.view(u.shape[0], -1), z))

    def last_inputs(self, window: Tensor, mask: Tensor | None) -> Tensor:
        """The convolution's memory after the last real frame: window [b, conv - 1 + T, .] -> [b, conv - 1, .]."""
        keep = self.conv1d.kernel_size[0] - 1
        if mask is None:
            return window[:, window.shape[1] - keep :]
        ends = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        index = ends.unsqueeze(1) + torch.arange(keep, device=mask.device)
        return window.gather(1, index.unsqueeze(-1).expand(-1, -1, window.shape[-1]))
