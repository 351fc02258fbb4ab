"""Runs one function over many jobs in several processes, and ends cleanly whatever happens."""

import concurrent.futures
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ilias_jax.errors import UserError

J = TypeVar("J")
R = TypeVar("R")
Outcome = tuple[J, R | UserError]


def _prepare_worker() -> None:
    """In a worker: leaves Ctrl-C to the parent, and goes when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _attempt(function: Callable[[J], R], allowed: type[UserError], job: J) -> R | UserError:
    try:
        return function(job)
    except allowed as error:
        return error


def run(
    function: Callable[[J], R],
    jobs: Sequence[J],
    num_processes: int,
    allowed: type[UserError] = UserError,
) -> Iterator[Outcome[J, R]]:
    """Yields (job, result) as jobs finish.

    Args:
        function: a function of a module, called in `num_processes` new processes, or in this one
            if that is 1.
        jobs: its arguments.
        num_processes: at least 1.
        allowed: errors of this kind take the place of the result; others end everything.

    Raises:
        UserError: a process died.
    """
    attempt = functools.partial(_attempt, function, allowed)
    if num_processes == 1 or len(jobs) <= 1:
        yield from ((job, attempt(job)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    executor = concurrent.futures.ProcessPoolExecutor(
        min(num_processes, len(jobs)), mp_context=context, initializer=_prepare_worker
    )
    try:
        futures = {executor.submit(attempt, job): job for job in jobs}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, killed or out of memory; run the same command again, perhaps "
            "with fewer --processes: what is finished stays"
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
