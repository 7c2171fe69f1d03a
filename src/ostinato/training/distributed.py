"""One model on several processes: the same command under `torchrun` or `accelerate launch`, replicated or sharded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from ostinato.training.compilation import parts_of
from ostinato.training.config import Optimisation
from ostinato.utils.errors import UserError, nearest


def launched() -> int:
    """The number of processes that the launcher started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this is the process that speaks for all that the launcher started."""
    return int(os.environ.get("RANK", 0)) == 0


def leave() -> None:
    """End what this process has with the others: after its last run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def make_accelerator(hyper: Optimisation, output: Path) -> Accelerator:
    """An Accelerator for the processes launched. On CPUs they speak gloo, which accelerate has to be told.
    Raises UserError as `tracker` does."""
    # Sharding is `shard`'s: accelerate's own works on GPUs only, and wraps models so that nothing else fits.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    cpu = launched() > 1 and not torch.cuda.is_available()
    log = {"log_with": tracker(hyper.tracker), "project_dir": output}
    return Accelerator(mixed_precision=precision(hyper), cpu=cpu, step_scheduler_with_optimizer=False, **log)


def precision(hyper: Optimisation) -> str:
    """Accelerate's name. auto: bf16 where the GPU itself has it; T4 and V100 emulate it, which is slow."""
    if hyper.precision == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(False) else "no"
    return {"fp32": "no", "bf16": "bf16"}[hyper.precision]


def deterministic() -> None:
    """Of PyTorch: operators that give the same bits each time, with a warning for one that has no such form."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def tracker(name: str) -> str | None:
    """Raises UserError for a tracker that accelerate does not know, or that is not installed."""
    known = [str(entry) for entry in LoggerType.list() if str(entry) != "all"]
    if name == "none":
        return None
    if name not in known:
        raise UserError(f"train.tracker {name!r} is not known; {nearest(name, ['none', *known])}")
    if name not in [str(entry) for entry in get_available_trackers()]:
        raise UserError(f"train.tracker {name} is not installed: run pip install {name}, or take tensorboard or none")
    return name


def shard(module: nn.Module, device: torch.device) -> None:
    """Spread weights, gradients and optimizer states over all processes (FSDP2), in place; a sub-layer's, or those of a
    block of a fine stage, are gathered while it is computed. Make the optimizer after it."""
    mesh = init_device_mesh(device.type, (launched(),))
    for part in parts_of(module):
        if getattr(part, "kind", "") != "cross-attention":  # its text is read before its turn
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)  # else validation leaves the outer ones whole


def whole(tree: Any) -> Any:
    """Nested dicts and lists of tensors with every sharded one gathered. All processes have to call it."""
    return tree_map_only(DTensor, lambda t: t.full_tensor(), tree)


def like(value: Tensor, model: Tensor) -> Tensor:
    """`value` sharded as `model` is, if that is sharded and it is not."""
    if isinstance(model, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value, model.device_mesh, model.placements)
    return value


@contextmanager
def without_sync(accelerator: Accelerator, module: nn.Module) -> Iterator[None]:
    """Gradients add up on each process alone: for all micro-batches of a step but the last."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
        yield
        module.set_requires_gradient_sync(True)
    else:
        with accelerator.no_sync(module):
            yield
