"""How a database is cut into the parts of a ScaNN index, and the values that are left to us."""

import dataclasses
import math

from ilias_jax.config import ScannConfig
from ilias_jax.errors import UserError

# Below this many rows the index would be no faster than looking at all of them, and its training
# needs more rows than there are.
MIN_ROWS = 1000
# Measured on 1,048,576 clustered rows with k=1000: see benchmarks/scann.py.
_VISITED_ROWS_PER_RESULT = 50
_CANDIDATES_PER_RESULT = 1.5


@dataclasses.dataclass(frozen=True)
class Plan:
    """Parts and parameters of an index.

    Attributes:
        num_rows: N.
        dim: D.
        num_parts: the database is cut into so many runs of rows that differ by one in length.
        num_leaves: of every part; 1 for a database so small that all rows are looked at.
        num_leaves_to_search: of every part, at most `num_leaves`.
        fixed: whether that number is the user's, so that a search may not raise it.
        num_candidates: rows that are scored exactly for a query, at most N.
    """

    num_rows: int
    dim: int
    num_parts: int
    num_leaves: int
    num_leaves_to_search: int
    fixed: bool
    num_candidates: int

    def bounds(self, part: int) -> tuple[int, int]:
        """First row of a part, and the row after its last."""
        return tuple((part + i) * self.num_rows // self.num_parts for i in range(2))  # type: ignore[return-value]


def make_plan(config: ScannConfig, num_rows: int, dim: int, k: int) -> Plan:
    """Cuts `num_rows` rows of `dim` channels for lists of `k`.

    Raises:
        UserError: `num_leaves` exceeds the rows of a part, or the memory is too small.
    """
    num_parts = _count_parts(config, num_rows, dim)
    rows = num_rows // num_parts
    if config.num_leaves > rows:
        of_part = f" of each of {num_parts} parts" if num_parts > 1 else ""
        raise UserError(f"search.scann.num_leaves={config.num_leaves} exceeds {rows} rows{of_part}")
    candidates = min(num_rows, max(k, config.reorder or math.ceil(_CANDIDATES_PER_RESULT * k)))
    if num_rows < MIN_ROWS:
        return Plan(num_rows, dim, 1, 1, 1, True, num_rows)
    leaves = _num_leaves(config, rows)
    # As many as in one index of all rows: a query has as many clusters near it in every part.
    share = _VISITED_ROWS_PER_RESULT * k / num_rows
    enough = math.ceil(share * _num_leaves(config, num_rows))
    visited = min(config.num_leaves_to_search or enough, leaves)
    fixed = config.num_leaves_to_search > 0
    return Plan(num_rows, dim, num_parts, leaves, visited, fixed, candidates)


def _num_leaves(config: ScannConfig, num_rows: int) -> int:
    """Of a part."""
    return config.num_leaves or round(math.sqrt(num_rows))


def _count_parts(config: ScannConfig, num_rows: int, dim: int) -> int:
    """The fewest parts that fit the memory."""
    least = min(num_rows, MIN_ROWS)
    budget = config.memory_gb * 1e9
    if part_bytes(config, least, dim) > budget:
        raise UserError(
            f"search.scann.memory_gb={config.memory_gb} is too small to index {least} rows of "
            f"{dim} channels; it must be at least {part_bytes(config, least, dim) / 1e9:.3f}"
        )
    low, high = least, num_rows  # rows that fit, and rows that are enough
    while low < high:
        middle = (low + high + 1) // 2
        fits = part_bytes(config, middle, dim) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return math.ceil(num_rows / low)


def part_bytes(config: ScannConfig, num_rows: int, dim: int) -> int:
    """What building and saving a part adds to a process at its peak; an upper estimate, measured.

    While it is built, float32 rows are there three times: ours, ScaNN's copy, and what is left of
    the copy when the centres of the leaves are taken away; and the training sample takes 10 bytes a
    channel beside them. While it is saved, ScaNN takes 2,500 bytes for every channel of every
    leaf's centre. Codes take half a byte in memory and a byte on their way to the disk, twice
    with SOAR.
    """
    sample = min(num_rows, config.training_sample_size)
    codes = (
        num_rows * math.ceil(dim / config.dimensions_per_block) * (2 if config.soar_lambda else 1)
    )
    built = (12 * num_rows + 10 * sample) * dim
    saved = (4 * num_rows + 2500 * _num_leaves(config, num_rows)) * dim
    return max(built, saved) + 2 * codes + 64_000_000
