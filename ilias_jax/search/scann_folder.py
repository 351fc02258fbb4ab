"""The folder of a ScaNN index: a manifest and a file a part, built once and loaded ever after."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from ilias_jax import atomic
from ilias_jax.config import ScannConfig
from ilias_jax.embeddings import Fingerprint, canonical_json, short_hash
from ilias_jax.errors import UserError
from ilias_jax.progress import track
from ilias_jax.search import scann_part
from ilias_jax.search.scann_plan import Plan
from ilias_jax.vectors import VectorSource

_FORMAT = "ilias-jax scann index 1"
_BLOCK_ROWS = 8192


def fingerprint(config: ScannConfig, plan: Plan, origin: str) -> Fingerprint:
    """All that the content of an index depends on; what a search may choose is not among it.

    Args:
        config: of the index.
        plan: made from it.
        origin: text that no other database has.
    """
    return {
        "format": _FORMAT,
        "scann": importlib.metadata.version("scann"),
        "origin": origin,
        "num_rows": plan.num_rows,
        "dim": plan.dim,
        "num_parts": plan.num_parts,
        "num_leaves": plan.num_leaves,
        "dimensions_per_block": config.dimensions_per_block,
        "anisotropic_threshold": config.anisotropic_threshold,
        "soar_lambda": config.soar_lambda,
        "overretrieve_factor": config.overretrieve_factor if config.soar_lambda else None,
        "training_sample_size": config.training_sample_size,
    }


@dataclasses.dataclass(frozen=True)
class IndexFolder:
    """The parts of one index.

    Attributes:
        path: the folder; it is named by the fingerprint, so that no index meets another.
        plan: of the index.
        mark: hash of the fingerprint.
    """

    path: epath.Path
    plan: Plan
    mark: str

    def load(self, part: int) -> Any:
        """ScaNN's object of a part.

        Raises:
            UserError: the file is damaged or of another index.
        """
        return scann_part.load(self._file(part), self._mark(part))

    def num_bytes(self) -> int:
        """Size of all parts on the disk."""
        return sum(self._file(part).stat().length for part in range(self.plan.num_parts))

    def build(self, database: VectorSource, config: ScannConfig) -> None:
        """Builds the parts that are not there yet, one at a time, each saved and let go.

        Raises:
            UserError: a row is not finite.
        """
        missing = [part for part in range(self.plan.num_parts) if not self._file(part).exists()]
        for part, rows in _read_parts(database, self.plan, missing):
            searcher = scann_part.build(rows, self.plan.num_leaves, config)
            scann_part.save(searcher, self._file(part), self._mark(part))

    def _file(self, part: int) -> epath.Path:
        return self.path / f"part-{part:05d}-of-{self.plan.num_parts:05d}.zip"

    def _mark(self, part: int) -> str:
        return f"{self.mark} part {part}"


def open_folder(parent: epath.Path, config: ScannConfig, plan: Plan, origin: str) -> IndexFolder:
    """The folder of an index below `parent`, with its manifest.

    Raises:
        UserError: the manifest there is of another index.
    """
    wanted = fingerprint(config, plan, origin)
    folder = IndexFolder(parent / short_hash(wanted), plan, short_hash(wanted))
    manifest = folder.path / "index.json"
    if not manifest.exists():
        atomic.write_bytes(manifest, (json.dumps(wanted, indent=2, sort_keys=True) + "\n").encode())
    elif not _is(manifest, wanted):
        raise UserError(
            f"{manifest} is not the manifest of the index that is asked for; remove the folder "
            f"{folder.path} and run again"
        )
    return folder


def _is(manifest: epath.Path, wanted: Fingerprint) -> bool:
    try:
        return canonical_json(json.loads(manifest.read_text())) == canonical_json(wanted)
    except ValueError:
        return False


def _read_parts(
    database: VectorSource, plan: Plan, parts: list[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields some parts with their rows [n, D] float32, in one array that every part overwrites."""
    if not parts:
        return
    longest = max(end - start for start, end in map(plan.bounds, parts))
    array = np.empty((longest, plan.dim), np.float32)
    wanted, row = iter(parts), 0
    part = next(wanted, None)
    with track("scann index", plan.num_rows) as advance:
        for block in database.blocks(_BLOCK_ROWS):
            _check_finite(block, row, database)
            row += len(block)
            while part is not None:
                start, end = plan.bounds(part)
                # Of the part, the rows that this block has.
                low, high = max(start, row - len(block)), min(end, row)
                if low < high:
                    array[low - start : high - start] = block[
                        low - row + len(block) : high - row + len(block)
                    ]
                if row < end:
                    break
                yield part, array[: end - start]
                part = next(wanted, None)
            advance(len(block))
            if part is None:
                return


def _check_finite(block: np.ndarray, first: int, database: VectorSource) -> None:
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if bad.size:
        place = database.place_of(first + int(bad[0]))
        raise UserError(f"{place} is not finite; ScaNN cannot index it: embed it again")
