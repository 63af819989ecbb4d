"""A pool of processes that share a stage's work and end with it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

from ldae.runtime.process import die_with_parent

AHEAD = 4  # tasks a process that wait for it or are done already

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # as `map`


@contextmanager
def pool(workers: int) -> Iterator[Run]:
    """A `map` over this many processes that keeps order; over this process alone for one.

    A few tasks are under way at a time: the executor's own `map` would hold all of ImageNet's at once.

    Raises:
        ChildProcessError: where a process has ended before its task.
    """
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as executor:

        def run(task: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
            ahead: deque[Future[Any]] = deque()
            for argument in arguments:
                ahead.append(executor.submit(task, argument))
                if len(ahead) > AHEAD * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        try:
            yield run
        except BrokenProcessPool:
            raise ChildProcessError(
                "a worker process has ended all at once; was there too little memory? Started again, it goes on there"
            ) from None


def _start_worker() -> None:
    """Binds a worker's life to its parent's, which may have ended while the worker was importing."""
    die_with_parent()
    parent = parent_process()
    if parent is None or not parent.is_alive():
        os._exit(1)
