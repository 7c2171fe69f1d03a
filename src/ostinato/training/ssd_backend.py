"""Which code computes SSD in training: PyTorch's (`models.ssd`), or Triton kernels of others where they are installed.

Kernels have been wrong on one card and right on the next (flash-linear-attention issue 640): before any is taken, it
has to give the reference's outputs and gradients on the card at hand, about as exactly as PyTorch's own bfloat16 does.
"""

from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ostinato.models.mamba import Mamba2
from ostinato.models.ssd import SSD, ssd
from ostinato.utils.errors import UserError, nearest

FRAMES = 200  # of the comparison: several chunks, and no whole number of them
ALLOWED = 4.0  # times the error of PyTorch's bfloat16


def fla(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """flash-linear-attention's (package fla-core), which has no groups: B and C are repeated for each head, and the
    chunk length is its own."""
    from fla.ops.simple_gla import chunk_simple_gla

    q, k = (v.unsqueeze(2).expand(-1, -1, x.shape[2], -1).contiguous() for v in (C, B))
    xdt, before = x * dt.to(x.dtype).unsqueeze(-1), state.mT.contiguous()
    y, last = chunk_simple_gla(q, k, xdt, dt * A, scale=1.0, initial_state=before, output_final_state=True)
    return y, last.mT


def mamba_ssm(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The kernels of Mamba-2's authors."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    B, C = B.unsqueeze(2), C.unsqueeze(2)
    return mamba_chunk_scan_combined(x, dt, A, B, C, chunk, initial_states=state, return_final_states=True)


BACKENDS: dict[str, tuple[SSD, str]] = {"fla": (fla, "fla"), "mamba-ssm": (mamba_ssm, "mamba_ssm")}  # and package
NAMES = ("auto", "torch", *BACKENDS)


def check_name(name: str) -> None:
    """Raise UserError unless `name` is one of `NAMES`."""
    if name not in NAMES:
        raise UserError(f"unknown train.ssd {name!r}; {nearest(name, list(NAMES))}")


def use_backend(module: nn.Module, name: str, device: torch.device) -> str:
    """Have all Mamba-2 layers of `module` compute SSD by `name`; "auto": the first installed one that is right here.
    Returns a line that says which runs, and why another does not; empty where there is no such layer."""
    layers = [layer for layer in module.modules() if isinstance(layer, Mamba2)]
    if not layers:
        return ""
    chosen, told = choose(name, device, layers[0])
    for layer in layers:
        layer.ssd = chosen
    return told


def choose(name: str, device: torch.device, layer: Mamba2) -> tuple[SSD, str]:
    """The function, and the line of `use_backend`. Errors: `check_name`."""
    check_name(name)
    reasons = []
    for each in BACKENDS if name == "auto" else [name] if name in BACKENDS else []:
        way, package = BACKENDS[each]
        if device.type != "cuda":
            reasons += [f"{each} needs a GPU"] if name == each else []
        elif not find_spec(package):
            reasons.append(f"{each} is not installed")
        elif reason := refused(way, layer, device):
            reasons.append(f"{each} {reason}")
        else:
            return way, f"SSD by {each}, equal to PyTorch's here"
    return ssd, "SSD by PyTorch" + (f" ({'; '.join(reasons)})" if reasons else "")


def refused(way: SSD, layer: Mamba2, device: torch.device) -> str:
    """Why `way` is not to be taken for layers like this one; empty where it is."""
    try:
        right = outcome(ssd, inputs(layer, device, torch.float32), layer.chunk)
        usual = outcome(ssd, inputs(layer, device, torch.bfloat16), layer.chunk)
        found = outcome(way, inputs(layer, device, torch.bfloat16), layer.chunk)
    except Exception as error:  # of a kernel or its compiler: whatever it is, there is another way
        return f"fails here ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]})"
    for what, wanted in right.items():
        size = float(wanted.abs().max())
        off, own = (float((some[what].float() - wanted).abs().max()) / size for some in (found, usual))
        if not off <= ALLOWED * own + 1e-3:  # not a number is refused, too
            return f"is wrong here (its {what} is off by {off:.1%}, PyTorch's bfloat16 by {own:.1%})"
    return ""


def inputs(layer: Mamba2, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """x, dt, A, B, C and a first state as such a layer has them at its beginning; float32 where a layer has float32."""
    g = torch.Generator().manual_seed(0)
    x, B, C = (torch.randn(2, FRAMES, *last, generator=g) for last in ((layer.h, layer.p), (layer.n,), (layer.n,)))
    dt = torch.exp(torch.empty(2, FRAMES, layer.h).uniform_(-6.9, -2.3, generator=g))  # 0.001 to 0.1
    A = -torch.empty(layer.h).uniform_(1, 16, generator=g)
    state = torch.randn(2, layer.h, layer.p, layer.n, generator=g)
    given = [x.to(dtype), dt, A, B.to(dtype), (C / layer.n**0.5).to(dtype), state]
    return [v.to(device).requires_grad_() for v in given]


def outcome(way: SSD, given: list[Tensor], chunk: int) -> dict[str, Tensor]:
    """y, the last state, and the gradients of a fixed random sum of both."""
    y, last = way(*given, chunk)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(v.shape, generator=g).to(v) for v in (y, last)]
    (y * weights[0]).sum().add((last * weights[1]).sum()).backward()
    names = (f"gradient of {name}" for name in ("x", "dt", "A", "B", "C", "the state"))
    gradients = (torch.zeros_like(v) if v.grad is None else v.grad for v in given)
    return {"output": y.detach(), "last state": last.detach()} | dict(zip(names, gradients, strict=True))
