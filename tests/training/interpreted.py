"""fla's Triton kernels in Triton's interpreter, on a CPU: how far off they are from `ssd`, as JSON.

A process of its own: Triton reads TRITON_INTERPRET=1 while it is imported.
"""

import builtins
import json
import sys

import torch
from fla.ops.common import chunk_h
from triton.runtime import interpreter
from triton.runtime.autotuner import Autotuner

from ostinato.models.mamba import Mamba2
from ostinato.models.ssd import ssd
from ostinato.training import ssd_backend


def scalars(*bounds):
    """`range` of a kernel: compiled, its numbers are tensors; for the interpreter they would be Python's own."""
    return map(interpreter._implicit_cvt, builtins.range(*bounds))


chunk_h.range = scalars
# No card, so nothing to time: the first of a kernel's configurations is as good as another.
Autotuner._bench = lambda self, *given, config, **more: [1.0, 1.0, 1.0]

cpu, found = torch.device("cpu"), []
for sizes in json.loads(sys.argv[1]):
    layer = Mamba2(**sizes)
    # Of float32: the interpreter multiplies bfloat16 as whole numbers.
    right, kernels = (
        ssd_backend.outcome(way, ssd_backend.inputs(layer, cpu, torch.float32), layer.chunk)
        for way in (ssd, ssd_backend.fla)
    )
    found.append({what: float((kernels[what] - y).abs().max() / y.abs().max()) for what, y in right.items()})
print(json.dumps(found))
