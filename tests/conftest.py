import os

# Tensors here are tiny: a second thread only waits, on a busy machine a thousand times longer than the work takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
