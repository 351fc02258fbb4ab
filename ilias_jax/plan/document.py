"""A plan as plain values, for a file."""

import dataclasses
from collections.abc import Sequence

from ilias_jax.plan import text
from ilias_jax.plan.constants import Calibration
from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.sizes import Sizes
from ilias_jax.plan.stages import Assumptions, Stage, total


def make(
    recipe: Recipe,
    calibration: Calibration,
    assumed: Assumptions,
    plans: Sequence[tuple[Sizes, Sequence[Stage]]],
    free_bytes: float | None,
) -> dict[str, object]:
    """Everything that the text says, bytes and seconds as numbers."""
    constants = calibration.constants
    return {
        "schema": 1,
        "recipe": recipe.describe(),
        "num_devices": assumed.num_devices,
        "plans": {
            sizes.name: {
                "sizes": dataclasses.asdict(sizes),
                "stages": {stage.name.strip(): _stage(stage) for stage in stages},
                "total": _stage(total(stages)),
            }
            for sizes, stages in plans
        },
        "does_not_fit": text.warnings(plans, constants, free_bytes),
        "free_disk_bytes": free_bytes,
        "assumed": text.describe_assumptions(recipe, constants, assumed),
        "calibration": calibration.to_dict(),
    }


def _stage(stage: Stage) -> dict[str, object]:
    values = dataclasses.asdict(stage)
    del values["name"]
    return values
