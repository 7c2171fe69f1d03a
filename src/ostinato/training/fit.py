"""Does a model fit into memory? Asked before any of it is allocated."""

import os

import torch

from ostinato.training.config import CodecRun, LMRun, Run
from ostinato.training.distributed import launched
from ostinato.training.plan import parameters
from ostinato.utils.errors import UserError


def check_fits(run: Run, device: torch.device) -> None:
    """Raise UserError for a model whose weights, gradients and optimizer cannot fit, before any of it is allocated."""
    if isinstance(run, CodecRun) or (isinstance(run, LMRun) and run.lora):
        return
    if run.model.blocks > 10_000:
        raise UserError(f"model.blocks {run.model.blocks} is more than 10000: ask for fewer")
    needed = 16 * sum(parameters(run.model).values())
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > there * max(1, launched() if run.train.shard else 1):
        raise UserError(
            f"the model has {needed / 16e9:.1f} billion weights and needs {needed / 2**30:.0f} GiB to train, more than "
            f"the {there / 2**30:.0f} GiB of {device.type}: lower model.width or model.blocks (--plan has the parts)"
        )
