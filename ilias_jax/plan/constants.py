"""What a machine was measured to do, and the file that carries it to another machine."""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

from etils import epath

from ilias_jax import atomic
from ilias_jax.config import BenchmarkConfig
from ilias_jax.errors import UserError

_FORMAT = "ilias-jax plan constants 1"
# What the measured seconds depend on; a file measured with other values is refused.
_KEYS = (
    "model.name",
    "model.resolution",
    "model.activation",
    "model.dtype",
    "views.scales",
    "views.rotations",
    "views.mask_outside_box",
    "mesh.model_partitions",
    "embed.batch_size_per_device",
    "embed.num_buckets",
    "embed.storage_dtype",
    "dataset.read_threads",
    "search.k",
    "search.block_rows",
    "search.scann",
    "metrics.num_resamples",
)


@dataclasses.dataclass(frozen=True)
class Linear:
    """Seconds of `fixed + each * count`; neither is negative."""

    fixed: float
    each: float

    def seconds(self, count: float) -> float:
        """Seconds of `count` items."""
        return self.fixed + self.each * count


@dataclasses.dataclass(frozen=True)
class SearchCost:
    """Seconds of one exact search of N rows for Q queries: fixed + N * (row + pair * Q)."""

    fixed: float
    row: float
    pair: float

    def seconds(self, num_rows: int, num_queries: int, speedup: float = 1.0) -> float:
        """Seconds; `speedup` divides what devices share, the scores of pairs."""
        return self.fixed + num_rows * (self.row + self.pair * num_queries / speedup)


@dataclasses.dataclass(frozen=True)
class Constants:
    """The measured values.

    Attributes:
        backend: of JAX, such as "cpu".
        num_devices: that were measured together.
        num_cpus: of the host.
        memory_bytes: of the host.
        device_bytes: memory of one device; of the host where the device has none of its own.
        process_bytes: memory of a process that has loaded the libraries.
        compiled_bytes: of one that has compiled and run a small model, too.
        batch_seconds: token length -> seconds of one batch of the configured size on all devices.
        batch_temporary_bytes: of the largest batch on one device, beside parameters and inputs.
        text_flops_per_second: of the devices together, by the image tower's products.
        photo_reads: photographs (500 x 375) a second through reading, decoding, resizing, batching.
        world_reads: the same for the miniature world's pictures.
        world_draws: pictures a second that one process draws for the world.
        world_bytes: mean bytes of a picture of the world.
        disk_write: bytes a second, reached the disk.
        disk_read: bytes a second, from the disk.
        convert: bytes a second of a tar that one process makes a shard of.
        search: of the exact ranking.
        product: seconds of a bare product of one query and one row with its group maximum.
        scann_build: seconds for a unit of `scann_work.build_work`.
        scann_search: seconds for a unit of `scann_work.search_work`.
        metrics: by number of queries, for one section.
    """

    backend: str
    num_devices: int
    num_cpus: int
    memory_bytes: float
    device_bytes: float
    process_bytes: float
    compiled_bytes: float
    batch_seconds: dict[int, float]
    batch_temporary_bytes: float
    text_flops_per_second: float
    photo_reads: float
    world_reads: float
    world_draws: float
    world_bytes: float
    disk_write: float
    disk_read: float
    convert: float
    search: SearchCost
    product: float
    scann_build: float
    scann_search: float
    metrics: Linear


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Constants and where they come from.

    Attributes:
        constants: the values.
        machine: as `manifest.machine` describes it, with versions and date.
        config: configuration key -> value, of all that the constants depend on.
        how: a line for every measurement, in its order.
    """

    constants: Constants
    machine: Mapping[str, object]
    config: Mapping[str, object]
    how: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """JSON form."""
        return {
            "format": _FORMAT,
            "machine": dict(self.machine),
            "config": dict(self.config),
            "how": list(self.how),
            "constants": dataclasses.asdict(self.constants),
        }

    def save(self, path: epath.Path) -> None:
        """Writes the file."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        atomic.write_bytes(path, text.encode())


def config_keys(config: BenchmarkConfig) -> dict[str, object]:
    """The values of `_KEYS` in a configuration, as they come back from JSON."""
    plain = dataclasses.asdict(config)
    found: dict[str, object] = {}
    for key in _KEYS:
        section, name = key.split(".")
        found[key] = plain[section][name]
    return json.loads(json.dumps(found))


def load(path: epath.Path, config: BenchmarkConfig) -> Calibration:
    """Reads what `Calibration.save` wrote.

    Args:
        path: of the file.
        config: that the constants must have been measured with.

    Raises:
        UserError: there is no such file, it is damaged, or it was measured with another model or
            configuration.
    """
    try:
        document = json.loads(path.read_text())
        if document["format"] != _FORMAT:
            raise ValueError(f"its format is {document['format']!r}, not {_FORMAT!r}")
        constants = _constants(document["constants"])
        found, machine, how = document["config"], document["machine"], tuple(document["how"])
        wanted = config_keys(config)
        wrong = [key for key in _KEYS if found[key] != wanted[key]]
    except OSError as error:
        raise UserError(f"--constants {path} cannot be read ({error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--constants {path} is no file of --save_constants, or a damaged one ({error}); "
            "measure again with --save_constants"
        ) from error
    if wrong:
        lines = "\n".join(
            f"  {key}: measured with {found[key]!r}, asked for {wanted[key]!r}" for key in wrong
        )
        raise UserError(
            f"--constants {path} was measured with another model or configuration:\n{lines}\n"
            "Measure again with --save_constants, or ask for what was measured"
        )
    return Calibration(constants, machine, found, how)


def _constants(values: Mapping[str, Any]) -> Constants:
    """Constants from JSON; ValueError, KeyError or TypeError for anything else."""
    hints = typing.get_type_hints(Constants)
    return Constants(**{name: _value(name, hint, values[name]) for name, hint in hints.items()})


def _value(name: str, hint: Any, value: Any) -> Any:
    """One value as its annotation has it; numbers are finite and positive."""
    if hint is str:
        return str(value)
    if dataclasses.is_dataclass(hint):
        fields = typing.get_type_hints(hint)
        return typing.cast(type, hint)(
            **{key: _number(f"{name}.{key}", value[key], least=0.0) for key in fields}
        )
    if typing.get_origin(hint) is dict:
        if not value:
            raise ValueError(f"{name} is empty")
        return {int(key): _number(f"{name}[{key}]", one) for key, one in value.items()}
    return hint(_number(name, value, least=0.0 if name == "batch_temporary_bytes" else None))


def _number(name: str, value: Any, least: float | None = None) -> float:
    """A finite number, positive or at least `least`."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (value <= 0 if least is None else value < least):
        raise ValueError(f"{name} is {value!r}")
    return value
