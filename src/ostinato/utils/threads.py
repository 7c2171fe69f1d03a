"""How many threads PyTorch computes with on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed within is computed by one thread, so in the same order everywhere; afterwards there are as many
    as before. Of other threads of this process only one that first uses PyTorch meanwhile is affected: it stays at one.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
