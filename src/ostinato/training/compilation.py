"""What makes a module faster in training: a backend of SSD, and torch.compile, part by part."""

import dataclasses
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ostinato.models.denoisers import SimbaBlock, UNetBlock
from ostinato.models.lm import MusicLM
from ostinato.training.settings import Optimisation
from ostinato.training.ssd_backend import use_backend

LENGTH = 64  # compiled for each length anew, texts are padded to a multiple of this, and clips to their full length
LIMIT = 32  # shapes of one function, in training and in validation; Dynamo's own, 8, would run the rest uncompiled


def parts_of(module: nn.Module) -> list[nn.Module]:
    """What is compiled, or sharded, one at a time: sub-layers of a language model, blocks of a denoiser; else all."""
    if isinstance(module, MusicLM):
        return list(module.layers)
    return [part for part in module.modules() if isinstance(part, UNetBlock | SimbaBlock)] or [module]


def make_fast(module: nn.Module, hyper: Optimisation, device: torch.device, say: Callable[[str], object]) -> None:
    """The backend of SSD, and torch.compile where it is asked for, of a module that will be trained on `device`. Says
    which backend runs."""
    name = "torch" if hyper.deterministic and hyper.ssd == "auto" else hyper.ssd
    if told := use_backend(module, name, device):
        say(told)
    if hyper.compile:
        compile_parts(module)


def compile_parts(module: nn.Module, backend: str | Callable = "inductor") -> None:
    """Compile the forward pass of every part of `module`, in place; before it is sharded or copied to processes.

    Parts of one class whose parameters have the same shapes share one function. Dynamo counts recompilations by code,
    so each function has its own: with one for all kinds, a handful of shapes would end in eager mode.
    """
    torch._dynamo.config.recompile_limit = max(LIMIT, torch._dynamo.config.recompile_limit)
    functions: dict[Any, Callable] = {}
    for part in parts_of(module):
        alike = type(part), *(p.shape for p in part.parameters())
        if alike not in functions:
            function = type(part).forward
            own = FunctionType(
                function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__
            )
            functions[alike] = torch.compile(own, backend=backend, dynamic=False)
        part.forward = partial(run, functions[alike], part)  # hooks, those of sharding too, stay outside


def run(function: Callable, part: nn.Module, *inputs: Any) -> Any:
    """The batch is a dynamic dimension: a last, smaller one compiles nothing anew (one of a single clip does)."""
    for tensor in tree_leaves([vars(x) if dataclasses.is_dataclass(x) else x for x in inputs]):
        if isinstance(tensor, Tensor) and tensor.ndim and len(tensor) > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return function(part, *inputs)
