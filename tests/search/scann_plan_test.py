"""Parts that fit the memory, and what building one really takes."""

import json
import subprocess
import sys

import pytest

from ilias_jax.config import ScannConfig
from ilias_jax.errors import UserError
from ilias_jax.search.scann import make_plan, part_bytes


@pytest.mark.parametrize("num_rows", [1000, 1001, 65_537, 1_048_576, 100_000_000])
@pytest.mark.parametrize("memory_gb", [0.2, 1.0, 8.0])
def test_parts_cover_every_row_once_and_fit(num_rows, memory_gb):
    config = ScannConfig(memory_gb=memory_gb)
    plan = make_plan(config, num_rows, 512, 1000)
    bounds = [plan.bounds(part) for part in range(plan.num_parts)]
    assert bounds[0][0] == 0 and bounds[-1][1] == num_rows
    assert all(a[1] == b[0] for a, b in zip(bounds, bounds[1:], strict=False))
    sizes = [end - start for start, end in bounds]
    assert max(sizes) - min(sizes) <= 1
    assert part_bytes(config, max(sizes), 512) <= memory_gb * 1e9
    if plan.num_parts > 1:  # and no fewer parts would
        larger = -(-num_rows // (plan.num_parts - 1))
        assert part_bytes(config, larger, 512) > memory_gb * 1e9


def test_automatic_values_follow_the_rows():
    one = make_plan(ScannConfig(memory_gb=100), 1_048_576, 512, 1000)
    parts = make_plan(ScannConfig(memory_gb=1), 1_048_576, 512, 1000)
    assert (one.num_parts, one.num_leaves, one.num_leaves_to_search) == (1, 1024, 49)
    assert parts.num_parts > 8
    # The square root of a part's rows, of which as many are searched as of the whole.
    assert parts.num_leaves == round((1_048_576 // parts.num_parts) ** 0.5)
    assert parts.num_leaves_to_search == 49
    assert one.num_candidates == parts.num_candidates == 1500
    small = make_plan(ScannConfig(), 5450, 16, 1000)
    assert small.num_leaves_to_search == small.num_leaves == 74  # 1,000 of 5,450 rows are wanted


def test_many_leaves_take_memory_too():
    few, many = ScannConfig(num_leaves=100), ScannConfig(num_leaves=2000)
    assert part_bytes(many, 10_000, 512) > part_bytes(few, 10_000, 512) + 10**9


def test_the_users_values_are_taken():
    config = ScannConfig(num_leaves=30, num_leaves_to_search=50, reorder=2500)
    plan = make_plan(config, 5000, 16, 1000)
    assert (plan.num_leaves, plan.num_leaves_to_search, plan.num_candidates) == (30, 30, 2500)
    assert plan.fixed and not make_plan(ScannConfig(), 5000, 16, 1000).fixed
    assert make_plan(ScannConfig(reorder=10), 5000, 16, 1000).num_candidates == 1000
    assert make_plan(ScannConfig(reorder=9000), 5000, 16, 1000).num_candidates == 5000


def test_memory_for_too_few_rows_is_refused_with_what_is_needed():
    with pytest.raises(UserError, match=r"memory_gb=0.001 is too small .* at least 0\.108"):
        make_plan(ScannConfig(memory_gb=0.001), 5000, 512, 10)


def test_more_leaves_than_the_rows_of_a_part_are_refused():
    with pytest.raises(UserError, match="num_leaves=7000 exceeds 5000 rows$"):
        make_plan(ScannConfig(num_leaves=7000, memory_gb=99), 5000, 512, 10)
    with pytest.raises(UserError, match="num_leaves=3000 exceeds 2500 rows of each of 2 parts"):
        make_plan(ScannConfig(num_leaves=3000, memory_gb=0.1843), 5000, 16, 10)


_MEASURE = """
import json, re, sys
import numpy as np
from etils import epath
from ilias_jax.config import ScannConfig
from ilias_jax.search import scann
from scann.scann_ops.py import scann_ops_pybind
num_rows, dim, options = json.loads(sys.argv[1])
def status(name):
    # getrusage would count what the parent had when it started us.
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(name + r":\\s+(\\d+) kB", file.read())[1])
before = status("VmRSS")
rows = np.random.default_rng(0).standard_normal((num_rows, dim), np.float32)
searcher = scann.build_part(rows, options["num_leaves"], ScannConfig(**options))
scann.save_part(searcher, epath.Path(sys.argv[2]) / "part.zip", "mark")
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("num_rows", "dim", "options"),
    [
        (40_000, 256, {"training_sample_size": 5000, "num_leaves": 20}),
        pytest.param(
            *(20_000, 512, {"training_sample_size": 20_000, "soar_lambda": 1.5, "num_leaves": 20}),
            marks=pytest.mark.slow,
        ),
        (4000, 256, {"num_leaves": 300}),
    ],
    ids=["rows", "sample", "leaves"],
)
def test_a_part_takes_no_more_than_the_estimate_and_not_much_less(num_rows, dim, options, tmp_path):
    words = [sys.executable, "-c", _MEASURE, json.dumps([num_rows, dim, options]), str(tmp_path)]
    run = subprocess.run(words, check=True, capture_output=True)
    estimate = part_bytes(ScannConfig(**options), num_rows, dim)
    assert 0.6 * estimate < int(run.stdout) <= estimate
