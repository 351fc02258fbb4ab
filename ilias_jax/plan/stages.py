"""The stages of a run with what they take, and what a plan assumes."""

import dataclasses
import math
from collections.abc import Sequence

from ilias_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What is taken for granted and not measured.

    Attributes:
        num_devices: of the run; batches and scores are shared out among them without loss.
        network: bytes a second of the download.
        score_only: time of the search without lists over that of the bare product of the filter's
            precision, as `benchmarks/search.py` measured it on a CPU.
    """

    num_devices: int
    network: float = 100e6
    score_only: float = 1.3


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: as in the table.
        read: bytes read, from the network for a download.
        written: bytes written to the disk.
        disk: bytes of it that stay.
        host: peak bytes of the host's memory.
        device: peak bytes of one device.
        seconds: without compilation.
        in_run: whether the recipe's run has this stage, or the table shows it for comparison.
    """

    name: str
    read: float
    written: float
    disk: float
    host: float
    device: float
    seconds: float
    in_run: bool = True


def check_devices(num_devices: int, model_partitions: int) -> None:
    """Raises UserError for a number of devices that no run can have."""
    if num_devices < 1:
        raise UserError(f"--devices {num_devices} must be at least 1")
    if num_devices % model_partitions:
        raise UserError(
            f"--devices {num_devices} must be a multiple of mesh.model_partitions="
            f"{model_partitions}, the devices that share one copy of the parameters"
        )


def total(stages: Sequence[Stage]) -> Stage:
    """What the run needs: bytes, disk and seconds added up, memory at its peak."""
    run = [stage for stage in stages if stage.in_run]
    return Stage(
        "total",
        math.fsum(stage.read for stage in run),
        math.fsum(stage.written for stage in run),
        math.fsum(stage.disk for stage in run),
        max(stage.host for stage in run),
        max(stage.device for stage in run),
        math.fsum(stage.seconds for stage in run),
    )
