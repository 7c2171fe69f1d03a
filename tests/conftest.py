import os
import sys

# Tensors here are tiny: a second thread only waits, on a busy machine a thousand times longer than the work takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from browser import browser, page  # here once: a second browser in a process finds the first one's event loop running
from hypothesis import settings

__all__ = ["browser", "page"]

settings.register_profile("patient", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("patient")


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """See `runs.make_stores`."""
    from runs import make_stores  # here, for tests that need no torch

    return make_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(autouse=True)
def threads_stay():
    """Sums depend on the number of threads: what changes it for its own work has to put it back."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield
    assert not torch or torch.get_num_threads() == before
