"""Runs one function over many jobs in several processes, and ends cleanly whatever happens.

Ctrl-C reaches all processes of a terminal at once; only this one is to hear it. New processes begin
with the signals blocked that are blocked where they are started, whatever they import first.
"""

import concurrent.futures
import contextlib
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


def _prepare_worker() -> None:
    """In a worker: goes when the parent is gone, however it went."""

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_jobs(
    function: Callable[[J], R], jobs: Sequence[J], num_processes: int
) -> Iterator[tuple[J, R]]:
    """Yields (job, result) as jobs finish; an error of a job ends everything.

    The function is one of a module; it is called in new processes, or in this one if there is one
    process or job. A process that dies is a UserError.
    """
    if num_processes == 1 or len(jobs) <= 1:
        yield from ((job, function(job)) for job in jobs)
        return
    others = set(multiprocessing.active_children())
    executor = concurrent.futures.ProcessPoolExecutor(
        min(num_processes, len(jobs)), multiprocessing.get_context("spawn"), _prepare_worker
    )
    try:
        with _without_interrupts():  # processes are started as jobs are submitted
            futures = {executor.submit(function, job): job for job in jobs}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, killed or out of memory; run the same command again, perhaps "
            "with fewer --processes"
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
