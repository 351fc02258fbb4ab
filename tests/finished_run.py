"""A finished run on a dataset of colours, small enough for every test that starts from one."""

import pathlib

import color_world
import numpy as np
from etils import epath

from ilias_jax import benchmark

NUM_IMAGE_QUERIES, NUM_POSITIVES, NUM_DISTRACTORS = 5, 10, 49


def write_world(folder: pathlib.Path) -> None:
    """Five objects; positives out of alphabetical order, distractors in files of 1, 30 and 18."""
    names = ["mug_003", "été_001", "lamp_004", "bag_000", "clock_002"]
    tars = {"a.tar": range(15, 16), "b.tar": range(16, 46), "c.tar": range(46, 64)}
    color_world.write(
        folder,
        {f"{name}/query/Q_{i}.jpg": i for i, name in enumerate(names)},
        {
            f"{name}/pos/P_{j}.jpg": (5 + 2 * i + j, 0.1, 9)
            for i, name in enumerate(names)
            for j in (1, 0)
        },
        [{f"{tar}/{color:04x}": color for color in colors} for tar, colors in tars.items()],
        {f"{name}/query/T_{i}.txt": i for i, name in enumerate(names)},
    )


def finish(folder: pathlib.Path, name: str = "run", seed: int = 5, **sections) -> pathlib.Path:
    """Runs the benchmark on `folder`/data, which is written if it is not there."""
    if not (folder / "data").exists():
        write_world(folder / "data")
    table = np.random.default_rng(seed).normal(size=(64, 12)).astype(np.float32)
    config = color_world.config(
        folder / "data", embed={"storage_dtype": "float16"}, search={"k": 20}, **sections
    )
    model = color_world.model(table, f"random {seed}")
    benchmark.run(config, epath.Path(folder / name), model)
    return folder / name
