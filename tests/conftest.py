import os

# Tensors here are tiny: a second thread only waits, on a busy machine a thousand times longer than the work takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("patient", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("patient")
