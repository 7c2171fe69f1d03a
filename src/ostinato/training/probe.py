"""How fast the machine at hand trains: one block of a run's model, forward and backward, for about ten seconds."""

import time
from dataclasses import replace

import torch

from ostinato.training.config import FineRun, LMRun
from ostinato.training.flops import step_flops
from ostinato.training.memory import fine_loss, lm_loss

SECONDS = 10.0


def measured_rates(run: LMRun | FineRun, frames: int, text: int, bf16: bool) -> list[float]:
    """Model FLOP/s of each of the passes that fit in `SECONDS` (one at least, and a first, not counted), slowest first:
    the run's model, of one block; on a GPU with its batch, on a CPU with one clip. The kinds of work are those of the
    whole, recomputation included where the run has it; compiling is not.

    Empty where the device has no room for it.
    """
    gpu = torch.cuda.is_available()
    device, batch = torch.device("cuda" if gpu else "cpu"), run.train.batch if gpu else 1
    config = replace(run.model, blocks=1)
    rates: list[float] = []
    try:
        with torch.device(device):
            make = lm_loss if isinstance(run, LMRun) else fine_loss
            model, loss = make(config, batch, frames, text, bf16)  # type: ignore[arg-type]
        model.train().checkpointing = run.train.checkpointing
        until = time.perf_counter() + SECONDS
        while len(rates) < 2 or time.perf_counter() < until:
            began = time.perf_counter()
            with torch.device(device):
                loss().backward()
            float(next(p.grad for p in model.parameters() if p.grad is not None).flatten()[0])  # waits for a GPU
            model.zero_grad(set_to_none=True)
            rates.append(step_flops(config, batch, frames, text) / (time.perf_counter() - began))
    except torch.OutOfMemoryError:
        return []
    return sorted(rates[1:])
