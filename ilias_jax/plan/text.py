"""A plan as text: the recipe, a table for each database, what was measured and what assumed."""

from collections.abc import Sequence

from ilias_jax.plan.constants import Calibration, Constants
from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.sizes import FULL_TAR_BYTES, MINI_TARS, Sizes
from ilias_jax.plan.stages import Assumptions, Stage, total
from ilias_jax.plan.tokens import PHOTO_ASPECTS, Aspects
from ilias_jax.progress import format_bytes
from ilias_jax.records import OFFICIAL_DISTRACTORS

ACCURACY = (
    "What to expect: on the machine that was measured, embed and search within a factor of 2; "
    "search scann, generate and other machines or numbers of devices within a factor of 3 to 4. "
    "Hours leave compilation (a few minutes a run at most), the check of the data, pictures and "
    "report out."
)
_HEADER = ("", "read", "written", "disk", "host", "a device", "time")
# A unit, its seconds, and from how many seconds on it is used.
_UNITS = (
    ("days", 86_400.0, 172_800.0),
    ("h", 3_600.0, 7_200.0),
    ("min", 60.0, 120.0),
    ("s", 1.0, 1.0),
    ("ms", 1e-3, 0.0),
)


def format_seconds(seconds: float) -> str:
    """A duration in a unit that suits it: 13.1 days, 17.5 h, 90.0 s, 15.0 ms."""
    unit, size, _ = next(row for row in _UNITS if seconds >= row[2])
    value = seconds / size
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:,.1f} {unit}"


def table(stages: Sequence[Stage]) -> str:
    """Rows of stages under a header, and their total; a row in brackets is not in the run."""
    rows = [_HEADER, *map(_cells, stages), _cells(total(stages))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    )


def _cells(stage: Stage) -> tuple[str, ...]:
    sizes = (stage.read, stage.written, stage.disk, stage.host, stage.device)
    bytes_ = (format_bytes(size) if size else "-" for size in sizes)
    name, seconds = stage.name, format_seconds(stage.seconds)
    return (name, *bytes_, seconds) if stage.in_run else (f"({name})", *bytes_, f"({seconds})")


def describe_sizes(sizes: Sizes) -> str:
    """The line above a table."""
    return (
        f"{sizes.name}: {sizes.num_distractors:,} distractors, {sizes.num_positives:,} positives, "
        f"{sizes.num_image_queries:,} image and {sizes.num_text_queries:,} text queries"
    )


def describe_recipe(recipe: Recipe, num_devices: int, backend: str) -> list[str]:
    """What the recipe says."""
    facts = recipe.describe()
    lengths = ", ".join(map(str, recipe.lengths))
    return [
        f"{facts['model']}: {facts['parameters']:,} parameters, {facts['embedding_dim']} channels, "
        f"{facts['dtype']}",
        f"images of {facts['resolution']} pixels, views: {facts['views']}, padded to {lengths} "
        f"tokens, {facts['gflop_per_image']:,.1f} GFLOP each; stored as {facts['storage_dtype']}",
        f"search: {facts['backend']}, k={facts['k']}, blocks of {facts['block_rows']:,} rows; "
        f"{facts['num_resamples']:,} resamples",
        f"mesh: {num_devices} x {backend}, model_partitions={recipe.config.mesh.model_partitions}, "
        f"{facts['batch_size_per_device']} images a device at a time",
    ]


def describe_assumptions(recipe: Recipe, constants: Constants, assumed: Assumptions) -> list[str]:
    """What was not measured."""
    mean = FULL_TAR_BYTES / OFFICIAL_DISTRACTORS["full"]
    lines = [
        f"network: {format_bytes(assumed.network)}/s (--network_mb_s)",
        f"an image takes {format_bytes(mean)}, the published 6.3 TB over 100 M images; a shard is "
        "as large as its tar; tars are kept (they may be removed once converted)",
        f"mini comes from the Hugging Face copy ({MINI_TARS} tars of these 5 M images alone); from "
        "the official server it takes the download and conversion of full",
        f"shapes of the images, longest side by shortest: {_describe_aspects(PHOTO_ASPECTS)}",
        f"score only: {assumed.score_only:g} times the bare product",
        "the time for a database row does not depend on the number of rows; ScaNN's grows as its "
        "products do, and its parameters stay those of the recipe",
        "ScaNN's index holds all vectors in memory at once, as stored and as float32",
        "embeddings are read at the measured rate of the disk, once for image and once for text "
        "queries, while the device works; a network disk or bucket may be slower",
        "memory is that of the largest arrays, by formula; of the embedding step, as the compiler "
        "plans it",
    ]
    if assumed.num_devices != constants.num_devices:
        lines.insert(
            0,
            f"{assumed.num_devices} devices compute "
            f"{assumed.num_devices / constants.num_devices:g} times as much as the "
            f"{constants.num_devices} measured; one host feeds them all",
        )
    if constants.backend == "cpu":
        lines.append("CPU: preparing images and the model share the cores, so that times add up")
    else:
        lines.append("the host prepares images while the devices work: the slower one counts")
    if recipe.config.adapter.path:
        lines.append("adapter: left out, although the recipe has it")
    return lines


def _describe_aspects(aspects: Aspects) -> str:
    return ", ".join(f"{ratio:.2f} {100 * share:.0f} %" for ratio, share in aspects.items())


def warnings(
    plans: Sequence[tuple[Sizes, Sequence[Stage]]], constants: Constants, free_bytes: float | None
) -> list[str]:
    """What does not fit the machine that was measured, or the disk at hand.

    Args:
        plans: every database with its stages.
        constants: of the machine.
        free_bytes: of the disk; None to leave it out.
    """
    lines = []
    for sizes, stages in plans:
        needed = total(stages)
        shared = constants.backend == "cpu"
        host = max(s.host + shared * s.device for s in stages if s.in_run)
        for what, need, there in (
            ("disk", needed.disk, free_bytes),
            ("memory of the host", host, constants.memory_bytes),
            ("memory of a device", 0 if shared else needed.device, constants.device_bytes),
        ):
            if there is not None and need > there:
                lines.append(
                    f"{sizes.name} does not fit: {what}: {format_bytes(need)} of "
                    f"{format_bytes(there)}"
                )
    return lines


def render(
    recipe: Recipe,
    calibration: Calibration,
    assumed: Assumptions,
    plans: Sequence[tuple[Sizes, Sequence[Stage]]],
    free_bytes: float | None,
) -> str:
    """The whole plan."""
    constants = calibration.constants
    parts = ["\n".join(describe_recipe(recipe, assumed.num_devices, constants.backend))]
    parts += [f"{describe_sizes(sizes)}\n{table(stages)}" for sizes, stages in plans]
    lines = [f"! {line}" for line in warnings(plans, constants, free_bytes)]
    if any(not stage.in_run for _, stages in plans for stage in stages):
        lines.append("In brackets: not in this recipe's run, nor in the total.")
    machine = ", ".join(f"{key} {value}" for key, value in calibration.machine.items())
    lines += [
        f"{ACCURACY}",
        f"machine: {machine}",
        *(f"measured: {line}" for line in calibration.how),
        *(f"assumed: {line}" for line in describe_assumptions(recipe, constants, assumed)),
    ]
    return "\n\n".join([*parts, "\n".join(lines)])
