"""Timings: compilation apart from steady work, each charged to its own stage."""

import time

import jax
import jax.numpy as jnp
import pytest

from ilias_jax.profiling import Timings


def fresh(factor: float):
    """A jitted function that JAX has not compiled before."""
    return jax.jit(lambda x: jnp.sin(x * factor) @ x.T)


def test_compilations_are_counted_in_their_stage() -> None:
    timings = Timings()
    x = jax.block_until_ready(jax.device_put(jnp.ones((8, 8))))
    y = jax.block_until_ready(jax.device_put(jnp.ones((4, 8))))
    step = fresh(1.25)
    with timings.stage("first") as first:
        for _ in range(3):
            jax.block_until_ready(step(x))
        first.items = 3
    with timings.stage("second") as second:
        jax.block_until_ready(step(x))
    jax.block_until_ready(fresh(1.75)(x))  # outside of any stage
    with timings.stage("third"):
        jax.block_until_ready(step(y))
    stages = timings.stages
    assert [stage.compiles for stage in stages.values()] == [1, 0, 1]
    assert second.compile_s == 0
    for name in ("first", "third"):
        assert 0 < stages[name].compile_s <= stages[name].total_s


def test_steady_time_and_rate_leave_compilation_out() -> None:
    timings = Timings()
    with timings.stage("embed") as stage:
        time.sleep(0.05)
        stage.items, stage.skipped, stage.compile_s = 7, 2, 0.02
    report = timings.to_dict()
    row = report["stages"]["embed"]
    assert row["steady_s"] == stage.total_s - 0.02
    assert row["items_per_s"] == 7 / row["steady_s"]
    assert (row["items"], row["skipped"], row["compile_s"], row["compiles"]) == (7, 2, 0.02, 0)
    assert 0.05 <= stage.total_s < 5 and report["total_s"] >= stage.total_s


def test_a_stage_without_items_has_no_rate() -> None:
    timings = Timings()
    with timings.stage("report"):
        pass
    assert timings.to_dict()["stages"]["report"]["items_per_s"] is None


def test_a_name_used_again_adds_up_and_order_is_kept() -> None:
    timings = Timings()
    for name in ("b", "a", "b"):
        with timings.stage(name) as stage:
            time.sleep(0.01)
            stage.items += 2
    assert list(timings.stages) == ["b", "a"]
    assert timings.stages["b"].items == 4 and timings.stages["b"].total_s >= 0.02


def test_a_stage_that_fails_is_closed() -> None:
    timings = Timings()
    with pytest.raises(ZeroDivisionError), timings.stage("broken"):
        time.sleep(0.01)
        raise ZeroDivisionError
    assert timings.stages["broken"].total_s >= 0.01
    jax.block_until_ready(fresh(2.25)(jnp.ones((8, 8))))
    assert timings.stages["broken"].compiles == 0


def test_a_compilation_goes_to_the_innermost_stage() -> None:
    """Two stages that look the same are still two."""
    timings = Timings()
    x = jax.block_until_ready(jnp.ones((8, 8)))
    with timings.stage("outer"):
        with timings.stage("inner"):
            pass
        jax.block_until_ready(fresh(2.75)(x))
    assert [timings.stages[name].compiles for name in ("outer", "inner")] == [1, 0]
