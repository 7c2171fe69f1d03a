"""A worker that one track kills, importable by the processes of a pool."""

import os

from ostinato.curate import curate


def work_one(pair):
    if pair[0].id == "song 2.flac":
        os._exit(139)  # as a segmentation fault would end it
    return float(curate._here["worker"].do(*pair))
