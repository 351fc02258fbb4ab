"""What a user reads of a plan."""

import dataclasses
import json

import plan_case as case
import pytest

from ilias_jax.plan import document, text
from ilias_jax.plan.predict import predict
from ilias_jax.plan.sizes import sizes_of
from ilias_jax.plan.stages import Assumptions, Stage

ONE = Assumptions(1)
STAGES = [
    Stage("embed", 2e9, 1e6, 1e6, 5e8, 3e8, 7200.0),
    Stage("search exact", 1e9, 2e6, 2e6, 4e8, 6e8, 90.0),
    Stage("search scann", 1e9, 2e6, 2e6, 9e11, 0, 1e9, in_run=False),
]


def plans(constants=case.CONSTANTS, assumed=ONE, recipe=case.RECIPE):
    return [(s, predict(recipe, s, constants, assumed)) for s in sizes_of(None)]


def rendered(recipe=case.RECIPE, constants=case.CONSTANTS, assumed=ONE, free=None):
    calibration = case.make_calibration(recipe, constants)
    return text.render(recipe, calibration, assumed, plans(constants, assumed, recipe), free)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.015, "15.0 ms"),
        (0.5, "500 ms"),
        (1.3, "1.3 s"),
        (90, "90.0 s"),
        (600, "10.0 min"),
        (7_200, "2.0 h"),
        (86_400, "24.0 h"),
        (1_132_704, "13.1 days"),
        (8.64e8, "10,000 days"),
    ],
)
def test_durations(seconds, expected):
    assert text.format_seconds(seconds) == expected


def test_a_table_has_a_row_for_every_stage_and_the_total():
    lines = text.table(STAGES).splitlines()
    assert lines[0].split() == ["read", "written", "disk", "host", "a", "device", "time"]
    assert lines[1].split() == [
        "embed",
        "2.0",
        "GB",
        "1.0",
        "MB",
        "1.0",
        "MB",
        "500.0",
        "MB",
        "300.0",
        "MB",
        "2.0",
        "h",
    ]
    assert lines[3].startswith("(search scann)") and lines[3].endswith("(11,574 days)")
    assert lines[4].split() == [
        "total",
        "3.0",
        "GB",
        "3.0",
        "MB",
        "3.0",
        "MB",
        "500.0",
        "MB",
        "600.0",
        "MB",
        "2.0",
        "h",
    ]
    assert max(map(len, lines)) <= 100


def test_the_plan_names_recipe_databases_measurements_and_assumptions():
    found = rendered()
    for part in (
        "tiny: 2,842,882 parameters, 192 channels, float32",
        "padded to 48, 64 tokens, 0.2 GFLOP each; stored as float16",
        "search: exact, k=100, blocks of 1,000 rows; 10,000 resamples",
        "demo: 5,000 distractors, 450 positives, 120 image and 100 text queries",
        "mini: 5,000,000 distractors, 4,715 positives, 1,232 image and 1,000 text queries",
        "full: 100,000,000 distractors",
        "In brackets: not in this recipe's run",
        "within a factor of 2",
        "machine: platform abacus, devices 1 x cpu, jax 0.10.2",
        "measured: beads: 3 a second",
        "assumed: network: 100.0 MB/s (--network_mb_s)",
        "assumed: an image takes 63.0 kB, the published 6.3 TB over 100 M images",
        "assumed: shapes of the images, longest side by shortest: 1.00 10 %",
        "assumed: CPU: preparing images and the model share the cores",
    ):
        assert part in found, part
    tables = found.split("\n\n")[1:4]
    assert [len(table.splitlines()) for table in tables] == [10, 10, 10]


def test_more_devices_than_were_measured_are_an_assumption():
    assert "8 devices compute 8 times as much as the 1 measured" in rendered(assumed=Assumptions(8))
    assert "times as much as" not in rendered()


def test_an_accelerators_host_works_at_the_same_time():
    found = rendered(constants=case.with_constants(backend="tpu"))
    assert "the host prepares images while the devices work" in found
    assert "share the cores" not in found


def test_what_the_plan_leaves_out_is_said():
    recipe = case.make_recipe(adapter={"path": "layer.pth"}, rerank={"query_expansion": 2})
    assert "assumed: adapter: left out, although the recipe has it" in rendered(recipe)
    assert "adapter: left out" not in rendered()


def test_what_does_not_fit_is_said():
    tight = case.with_constants(memory_bytes=6e8)
    found = rendered(constants=tight, free=1e9)
    assert "! mini does not fit: disk: 633.0 GB of 1.0 GB" in found
    assert "! full does not fit: disk: 12.6 TB of 1.0 GB" in found
    assert "! full does not fit: memory of the host: " in found and " of 600.0 MB" in found
    assert "demo does not fit: disk" not in found
    assert "does not fit" not in rendered(free=1e15)
    assert "does not fit: disk" not in rendered()  # the disk of another machine


def test_memory_of_host_and_device_is_one_on_cpu():
    stages = [Stage("embed", 0, 0, 0, 600, 500, 1.0)]
    plan = [(case.SIZES, stages)]

    def found(**values):
        return text.warnings(plan, case.with_constants(**values), None)

    assert found(memory_bytes=1_000) == ["mini does not fit: memory of the host: 1.1 kB of 1.0 kB"]
    assert found(memory_bytes=1_000, backend="gpu") == []
    assert found(device_bytes=400, backend="gpu") == [
        "mini does not fit: memory of a device: 500 B of 400 B"
    ]


def test_the_document_has_every_number():
    calibration = case.make_calibration()
    made = document.make(case.RECIPE, calibration, Assumptions(1), plans(), 5e12)
    made = json.loads(json.dumps(made, allow_nan=False))
    assert list(made["plans"]) == ["demo", "mini", "full"]
    stages = made["plans"]["mini"]["stages"]
    assert list(stages) == [
        "download",
        "convert",
        "embed",
        "search exact",
        "score only",
        "search scann",
        "metrics",
    ]
    assert set(stages["embed"]) == {
        "read",
        "written",
        "disk",
        "host",
        "device",
        "seconds",
        "in_run",
    }
    (full,) = [stages for sizes, stages in plans() if sizes.name == "full"]
    embed = next(stage for stage in full if stage.name == "embed")
    assert made["plans"]["full"]["stages"]["embed"]["seconds"] == embed.seconds
    assert made["does_not_fit"] == text.warnings(plans(), case.CONSTANTS, 5e12)
    assert made["calibration"]["constants"]["photo_reads"] == 100.0
    assert made["recipe"]["k"] == 100
    assert dataclasses.asdict(case.SIZES).keys() == made["plans"]["mini"]["sizes"].keys()
