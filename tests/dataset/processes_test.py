"""Jobs over processes: all results, and a message where a process dies."""

import os
import signal
import time

import pytest

from ilias_jax.dataset.processes import run_jobs
from ilias_jax.errors import UserError


def square(number: int) -> int:
    if number == 14:
        raise UserError("fourteen cannot be written")
    if number == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 16:
        time.sleep(600)
    return number * number


def outcomes(jobs, num_processes):
    return dict(run_jobs(square, jobs, num_processes))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_all_results_come(num_processes):
    assert outcomes([1, 2, 4], num_processes) == {1: 1, 2: 4, 4: 16}


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_error_ends_everything_at_once(num_processes):
    jobs = [14, 16] if num_processes == 2 else [14]
    start = time.monotonic()
    with pytest.raises(UserError, match="fourteen cannot be written"):
        outcomes(jobs, num_processes)
    assert time.monotonic() - start < 300  # the sleeping worker was stopped


def test_a_process_that_dies_is_a_message():
    with pytest.raises(UserError, match="a worker process died.*perhaps with fewer --processes"):
        outcomes([1, 15, 2], 2)


def test_no_jobs_are_no_work():
    assert outcomes([], 2) == {}
