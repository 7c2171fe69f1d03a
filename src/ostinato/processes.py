"""One model on several processes: the same command under `torchrun` or `accelerate launch`, replicated or sharded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from ostinato.lm import MusicLM


def launched() -> int:
    """The number of processes that the launcher started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def make_accelerator(precision: str, **options: Any) -> Accelerator:
    """An Accelerator for the processes launched. On CPUs they speak gloo, which accelerate has to be told."""
    # Sharding is `shard`'s: accelerate's own works on GPUs only, and wraps models so that nothing else fits.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    cpu = launched() > 1 and not torch.cuda.is_available()
    return Accelerator(mixed_precision=precision, cpu=cpu, step_scheduler_with_optimizer=False, **options)


def shard(module: nn.Module, device: torch.device) -> None:
    """Spread weights, gradients and optimizer states over all processes (FSDP2), in place; a sub-layer's are gathered
    while it is computed. Make the optimizer after it."""
    mesh = init_device_mesh(device.type, (launched(),))
    for layer in module.layers if isinstance(module, MusicLM) else ():
        if layer.kind != "cross-attention":  # its text is read before its turn
            fully_shard(layer, mesh=mesh)
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
