"""Tasks for a pool of processes, some of which end the process that works on them."""

import os
import time

KILLERS = {3, 4}
_here = []


def start(given):
    _here.append(given)


def work(task):
    if task in KILLERS:
        os._exit(139)  # as a segmentation fault would end it
    return _here[0], task


def sleep(task):
    """Tell who works, and never be done."""
    print(os.getpid(), flush=True)
    time.sleep(600)
