"""GPUs by name: what they compute at best, and what they hold."""

import math
import re
import time
from typing import NamedTuple

import torch


class GPU(NamedTuple):
    tflops: float  # dense bfloat16 products with float32 sums on tensor cores, 10^12 a second
    memory: int  # GiB


# NVIDIA's architecture whitepapers (GA102, Ada, RTX Blackwell, A100, H100) and datasheets, sparsity left out. A GeForce
# adds in float32 at half the rate of its professional sister.
GPUS = {
    "RTX 3060": GPU(25.5, 12),
    "RTX 3080": GPU(59.5, 10),
    "RTX 3090": GPU(71.2, 24),
    "RTX 3090 Ti": GPU(80.0, 24),
    "RTX 4060 Ti": GPU(44.1, 16),
    "RTX 4070 Ti": GPU(80.2, 12),
    "RTX 4080": GPU(97.5, 16),
    "RTX 4090": GPU(165.2, 24),
    "RTX 5080": GPU(112.6, 16),
    "RTX 5090": GPU(209.5, 32),
    "RTX A6000": GPU(154.8, 48),
    "RTX 6000 Ada": GPU(364.2, 48),
    "A10": GPU(125.0, 24),
    "L4": GPU(121.0, 24),
    "L40S": GPU(362.0, 48),
    "A100 40GB": GPU(312.0, 40),
    "A100 80GB": GPU(312.0, 80),
    "H100": GPU(989.4, 80),
    "H100 PCIe": GPU(756.0, 80),
    "H200": GPU(989.4, 141),
    "B200": GPU(2250.0, 180),
}


def find_gpu(name: str) -> str | None:
    """The entry of `GPUS` that a name means, be it a user's ("4090") or the driver's ("NVIDIA A100-SXM4-80GB")."""
    words = set(re.findall(r"[a-z0-9]+", name.lower())) - {"nvidia", "geforce"}
    entries = {key: set(key.lower().split()) for key in GPUS}
    # Another card than the one without it: a 3090 Ti, a 4080 Super, a laptop's 4090.
    marks = words & {"ti", "super", "laptop"}
    within = [key for key, entry in entries.items() if entry <= words and marks <= entry]
    if within:
        return max(within, key=lambda key: len(entries[key]))
    around = [key for key, entry in entries.items() if words and words <= entry]
    return min(around, key=len) if around else None


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 FLOP/s of a CUDA device by `GPUS`; None for any other device, and for a GPU not listed."""
    name = find_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return GPUS[name].tflops * 1e12 if name else None


def timed_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """FLOP/s of products of 1024 x 1024 matrices (8192 x 8192 on a GPU) on `device`, the best of as many as fit in
    `seconds`: what can be had, with whatever else runs there now."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.ones(n, n, device=device, dtype=dtype)
    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        float((a @ a)[0, 0])  # reading a number waits for the GPU
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best
