"""The device mesh: the only file that names mesh axes.

Two axes: "data" partitions batches and database rows, "model" partitions parameters (size 1, that
is replicated parameters, unless asked otherwise).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ilias_jax.errors import UserError

DATA, MODEL = "data", "model"


def make_mesh(model_partitions: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over this process's devices.

    Args:
        model_partitions: devices over which parameters are partitioned; must divide their number.
        devices: those to use, by default all local ones.

    Raises:
        UserError: `model_partitions` does not divide the number of devices.
    """
    devices = jax.local_devices() if devices is None else devices
    if model_partitions < 1 or len(devices) % model_partitions:
        raise UserError(
            f"mesh.model_partitions={model_partitions} must divide the {len(devices)} devices"
        )
    grid = np.asarray(devices).reshape(-1, model_partitions)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def num_data_partitions(mesh: Mesh) -> int:
    """Number of partitions of a batch."""
    return mesh.shape[DATA]


def num_model_partitions(mesh: Mesh) -> int:
    """Number of devices that share one copy of the parameters."""
    return mesh.shape[MODEL]


def partitioned(mesh: Mesh) -> NamedSharding:
    """Sharding of an array whose first axis is partitioned over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def per_partition(
    mesh: Mesh, function: Callable[..., Any], is_partitioned: Sequence[bool], check: bool = True
) -> Callable[..., Any]:
    """A function that runs on every data partition by itself, without communication.

    Args:
        mesh: whose data axis partitions the arguments.
        function: what a device runs. It gets its own part of partitioned arguments.
        is_partitioned: for each argument, an array or a tree of arrays, whether the first axis is
            partitioned over the data axis; the others are replicated.
        check: whether JAX may refuse the function because it cannot tell for every value within
            whether all devices have the same.

    Returns:
        The function of whole arrays; the first axis of all its results is partitioned.
    """
    specs = tuple(PartitionSpec(DATA) if split else PartitionSpec() for split in is_partitioned)
    return jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(DATA), check_vma=check
    )


def parameter_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Sharding of a parameter: its largest axis that the model axis divides, or replicated."""
    parts = mesh.shape[MODEL]
    axes = [axis for axis, size in enumerate(shape) if parts > 1 and size % parts == 0]
    if not axes or len(shape) < 2:
        return replicated(mesh)
    largest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * largest, MODEL))
