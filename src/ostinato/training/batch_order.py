"""Which clips make up which micro-batch, and with what seeds: functions of the run's seed, so that nothing is saved."""

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ostinato.training.config import Optimisation
from ostinato.utils.errors import UserError


def sample_order(size: int, batch: int, seed: int, first: int, rank: int, world: int) -> Iterator[list[int]]:
    """Endless batches of clip numbers from micro-batch `first` on: a new permutation each pass over the data."""
    position = first * batch * world
    epoch, order = -1, []
    while True:
        chosen = []
        for i in range(position, position + batch * world):
            if i // size != epoch:
                epoch = i // size
                order = torch.randperm(size, generator=torch.Generator().manual_seed(seed * 100_003 + epoch)).tolist()
            chosen.append(order[i % size])
        position += batch * world
        yield chosen[rank * batch : (rank + 1) * batch]


def seed_of(hyper: Optimisation, micro: int) -> int:
    """The seed of micro-batch `micro` of the run; the 63 numbers after it are free for processes."""
    step, micro = divmod(micro, hyper.accumulation)
    return (((hyper.seed * 1_000_003 + step) * 1009 + micro) * 64) % 2**63


class Seeded(Dataset):
    """Clips by (number, seed, place in the batch): what is random about one does not depend on who reads it, so that
    a run with worker processes resumes, too, and gives what one without them does."""

    def __init__(self, data: Any):
        self.data = data

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        i, seed, place = key
        random.seed(f"{seed}.{place}")
        try:
            return self.data[i]
        except UserError as error:  # raised in a worker, it would come out as a page of its stack
            return error


class Collate:
    """A task's `collate`, or the first UserError among the clips."""

    def __init__(self, collate: Any):
        self.collate = collate

    def __call__(self, items: list) -> Any:
        return next((item for item in items if isinstance(item, UserError)), None) or self.collate(items)


def make_loader(data: Any, collate: Any, hyper: Optimisation, step: int, rank: int, world: int) -> DataLoader:
    """Micro-batches without end for process `rank` of `world`, from optimizer step `step` on; a UserError in place of
    one that cannot be read. A clip's place, and so its seed, is counted over the batches of all processes."""
    first = step * hyper.accumulation
    order = sample_order(len(data), hyper.batch, hyper.seed, first, rank, world)
    keyed = (
        [(i, seed_of(hyper, micro), rank * hyper.batch + place) for place, i in enumerate(clips)]
        for micro, clips in enumerate(order, first)
    )
    return DataLoader(
        Seeded(data),
        batch_sampler=keyed,
        num_workers=hyper.workers,
        collate_fn=Collate(collate),
        pin_memory=torch.cuda.is_available(),
    )
