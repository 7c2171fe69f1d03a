"""The card and what drives it, in a few lines."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

print(platform.platform(), "python", platform.python_version())
for name in ("torch", "triton", "transformers", "fla-core", "mamba-ssm", "ostinato"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        print(name, "is not installed")
for i in range(torch.cuda.device_count()):
    card = torch.cuda.get_device_properties(i)
    print(f"{card.name}, {card.total_memory >> 30} GiB, {card.multi_processor_count} SMs, {card.major}.{card.minor}")
print("CUDA", torch.version.cuda, "available" if torch.cuda.is_available() else "not available")
