"""Many tasks in several processes, of which one may die of a task without the others noticing."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from ostinato.utils.errors import UserError

T = TypeVar("T")
AHEAD = 3  # tasks handed out by process: few, so that an interruption is quick


def _ready() -> None:
    """Nothing: it returns once a process has started."""


def _begin(start: Callable[..., None], given: tuple) -> None:
    """What a process does first."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*given)


def _end_with_parent() -> None:
    """A run that is killed tells its processes nothing: without this they would wait for ever, and keep a card's
    memory."""
    parent: Any = multiprocessing.parent_process()
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


class Died:
    """The result of a task that ended its process, alone in it."""


def each_in_pool(
    do: Callable[[T], Any], tasks: Iterable[T], start: Callable[..., None], given: tuple, workers: int
) -> Iterator[tuple[T, Any]]:
    """Each task with what `do` makes of it, as they come; `start(*given)` is called once in each process.

    A task during which a process dies (a decoder that crashes, memory that runs out) is done again alone; where that
    dies, too, its result is a `Died`. Exceptions of `do` come through. workers 0: in this process, in order.
    """
    if workers == 0:
        start(*given)
        for task in tasks:
            yield task, do(task)
        return
    rest = iter(tasks)
    while True:
        suspects = yield from _until_broken(do, rest, start, given, workers, workers * AHEAD)
        if suspects is None:
            return
        alone = iter(suspects)
        while culprit := (yield from _until_broken(do, alone, start, given, 1, 1)):
            yield culprit[0], Died()


def _until_broken(
    do: Callable[[T], Any], rest: Iterator[T], start: Callable[..., None], given: tuple, workers: int, handed: int
) -> Generator[tuple[T, Any], None, list[T] | None]:
    """As `each_in_pool`, `handed` tasks out at a time, until a process dies; then returns those out and not done, else
    None."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (start, given))
    flying: dict[Future, T] = {}
    try:
        pool.submit(_ready).result()
    except BrokenProcessPool as error:
        pool.shutdown(wait=False)
        raise UserError(
            "the processes of the pool cannot start (above is why): --workers 0 works in this one"
        ) from error
    try:
        while True:
            for task in islice(rest, handed - len(flying)):
                try:
                    flying[pool.submit(do, task)] = task
                except BrokenProcessPool:
                    return [*flying.values(), task]
            if not flying:
                return None
            finished, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in finished:
                result = future.result()
                yield flying.pop(future), result
    except BrokenProcessPool:
        return list(flying.values())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
