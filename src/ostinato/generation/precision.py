"""Number types to generate in: float32, TF32, bfloat16, float16."""

import torch
from torch import nn

from ostinato.models.mamba import Mamba2
from ostinato.utils.errors import UserError, nearest

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def pick_dtype(name: str | torch.dtype, device: str | torch.device) -> torch.dtype:
    """The type of the weights that `name` asks for, a name of `DTYPES` or a torch.dtype. tf32: float32 weights, whose
    products NVIDIA's tensor cores round to 10 bits; a setting of PyTorch, for the whole process.

    Raises UserError for another name, and for tf32 on a device that is no CUDA GPU.
    """
    name = str(name).removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}; {nearest(name, list(DTYPES))}")
    if name == "tf32":
        if torch.device(device).type != "cuda":
            raise UserError(f"dtype tf32 is of CUDA GPUs, and the device is {device}: take float32 or bfloat16")
        torch.set_float32_matmul_precision("high")
    return DTYPES[name]


def told(module: nn.Module) -> str:
    """The type of a module's weights, "" for float32: part of what tells two models apart, as one that was saved in
    float16 has the same numbers in both."""
    dtype = next(module.parameters()).dtype
    return "" if dtype == torch.float32 else str(dtype)


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Weights of a language model or a denoiser in `dtype`, in place, and in the usual order in memory (`layout`). The
    decays of Mamba-2 layers stay float32: over many frames they multiply (`ssd`)."""
    layers = [layer for layer in module.modules() if isinstance(layer, Mamba2)]
    decays = [(p, p.data) for layer in layers for p in (layer.A_log, layer.dt_bias)]
    module.to(dtype)
    for p in module.parameters():
        p.data = p.data.contiguous()
    for p, exact in decays:
        p.data = exact
