"""What a benchmark ran on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def machine(threads: int = 0) -> str:
    """The CPU, its cores, PyTorch's threads (by default those it has taken), versions, and what else runs (load)."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    versions = f"torch {torch.__version__}, transformers {version('transformers')}"
    threads = threads or torch.get_num_threads()
    return f"{name}, {os.cpu_count()} cores, {threads} threads, {versions}, load {os.getloadavg()[0]:.1f}"
