"""A step of generation as a CUDA graph: hundreds of small kernels started at once, each of which runs for less time
than it takes to start. The tests marked `cuda` hold it equal to the step itself."""

from collections.abc import Callable

import torch
from torch import Tensor

from ostinato.models.attention import KVState
from ostinato.models.lm import LMState

Step = Callable[[Tensor, Tensor], Tensor]  # the last codes [b, K], noise [b, K, V] -> codes [b, K]


def graphed(step: Step, state: LMState, codes: Tensor, noise: Tensor) -> Step:
    """`step`, which carries `state` on in place, captured with inputs of these shapes. On a CPU, and for states that
    grow (a Transformer's), it is `step` itself."""
    if codes.device.type != "cuda" or any(isinstance(layer, KVState) for layer in state.layers):
        return step
    kept, own = state.clone().tensors(), state.tensors()
    codes, noise = codes.clone(), noise.clone()
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # a first run chooses kernels and allocates, which a capture must not
        for _ in range(2):
            step(codes, noise)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step(codes, noise)
    for name, before in kept.items():
        own[name].copy_(before)

    def replay(new_codes: Tensor, new_noise: Tensor) -> Tensor:
        codes.copy_(new_codes)
        noise.copy_(new_noise)
        graph.replay()
        return out.clone()

    return replay
