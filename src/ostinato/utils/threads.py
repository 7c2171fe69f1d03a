"""How many threads PyTorch computes with on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed within is computed by one thread, so in the same order everywhere. What else this process
    computes has its threads back afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
