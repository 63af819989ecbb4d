"""A pool of worker processes that ends with the stage that uses it."""

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

AHEAD = 4  # queued or finished tasks per worker

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@contextmanager
def pool(workers: int) -> Iterator[Map]:
    """An ordered `map` over several worker processes; with one worker, the built-in `map`.

    Only a few tasks are queued at a time; the executor's own `map` would queue all of ImageNet at once. A worker that
    ends before its task is a `ChildProcessError`.
    """
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as executor:

        def ordered_map(task: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
            ahead: deque[Future[Any]] = deque()
            for argument in arguments:
                ahead.append(executor.submit(task, argument))
                if len(ahead) > AHEAD * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        try:
            yield ordered_map
        except BrokenProcessPool:
            raise ChildProcessError(
                "a worker process was killed, perhaps for memory; start again to continue"
            ) from None


def _start_worker() -> None:
    """Makes a worker end with its parent, also if the parent ended while the worker was importing."""
    die_with_parent()
    if (parent := parent_process()) is None or not parent.is_alive():
        os._exit(1)
