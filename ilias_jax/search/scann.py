"""Approximate search in ScaNN's partitioned index (Guo et al., 2020).

An index has as many parts as the memory needs, a file each. It holds codes alone; the candidates of
all parts are merged by approximate scores, then scored exactly from the database's own rows.
"""

import bisect
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from etils import epath

from ilias_jax import files
from ilias_jax.config import ScannConfig, SearchConfig
from ilias_jax.embeddings.file import short_hash
from ilias_jax.embeddings.sources import VectorSource
from ilias_jax.errors import UserError
from ilias_jax.progress import track
from ilias_jax.search import topk

MIN_ROWS = 1000  # with fewer an index is no faster, and its training needs more than there are
# Measured on 1,048,576 clustered rows with k=1000: see benchmarks/scann.py.
_VISITED_ROWS_PER_RESULT = 50
_CANDIDATES_PER_RESULT = 1.5
_QUERIES_AT_ONCE = 128  # a thread of ScaNN takes; more leave threads idle at the end
_BLOCK_ROWS = 8192
_FORMAT = "ilias-jax scann index 1"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a database is cut into parts, and the parameters of the index.

    Attributes:
        num_rows, dim: N and D of the database.
        num_parts: runs of rows that differ by one in length.
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
        return part * self.num_rows // self.num_parts, (part + 1) * self.num_rows // self.num_parts


def make_plan(config: ScannConfig, num_rows: int, dim: int, k: int) -> Plan:
    """Cuts rows of `dim` channels for lists of `k`; a UserError if leaves or memory do not fit."""
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
    enough = math.ceil(_VISITED_ROWS_PER_RESULT * k / num_rows * _num_leaves(config, num_rows))
    visited = min(config.num_leaves_to_search or enough, leaves)
    fixed = config.num_leaves_to_search > 0
    return Plan(num_rows, dim, num_parts, leaves, visited, fixed, candidates)


def _num_leaves(config: ScannConfig, num_rows: int) -> int:
    return config.num_leaves or round(math.sqrt(num_rows))


def _count_parts(config: ScannConfig, num_rows: int, dim: int) -> int:
    sizes = range(min(num_rows, MIN_ROWS), num_rows + 1)
    budget = config.memory_gb * 1e9
    num_fit = bisect.bisect_right(sizes, budget, key=lambda rows: part_bytes(config, rows, dim))
    if not num_fit:
        least = part_bytes(config, sizes[0], dim) / 1e9
        raise UserError(
            f"search.scann.memory_gb={config.memory_gb} is too small to index {sizes[0]} rows of "
            f"{dim} channels; it must be at least {least:.3f}"
        )
    return math.ceil(num_rows / sizes[num_fit - 1])


def part_bytes(config: ScannConfig, num_rows: int, dim: int) -> int:
    """Bytes that building and saving a part adds to a process at its peak, at most; measured.

    While it is built, float32 rows are there three times: ours, ScaNN's copy, and the copy less the
    centres of the leaves; the training sample takes 10 bytes a channel beside them. While it is
    saved, ScaNN takes 2,500 bytes for every channel of every leaf's centre. Codes take half a byte
    in memory and a byte on their way to the disk, twice with SOAR.
    """
    sample = min(num_rows, config.training_sample_size)
    codes = num_rows * math.ceil(dim / config.dimensions_per_block)
    built = (12 * num_rows + 10 * sample) * dim
    saved = (4 * num_rows + 2500 * _num_leaves(config, num_rows)) * dim
    return max(built, saved) + (4 if config.soar_lambda else 2) * codes + 64_000_000


def build_part(rows: np.ndarray, num_leaves: int, config: ScannConfig) -> Any:
    """ScaNN's object, trained on and filled with rows [n, D] float32; it keeps codes alone."""
    from scann.scann_ops.py import scann_ops_pybind  # loads a large library: only when needed

    sample = min(len(rows), config.training_sample_size)
    names = ("soar_lambda", "overretrieve_factor") if config.soar_lambda else ()
    soar = {name: getattr(config, name) for name in names}
    # The numbers of neighbours and of leaves to search are given again with every search.
    return (
        scann_ops_pybind.builder(rows, 1, "dot_product")
        .tree(num_leaves, 1, training_sample_size=sample, **soar)
        .score_ah(
            config.dimensions_per_block,
            anisotropic_quantization_threshold=config.anisotropic_threshold,
            training_sample_size=sample,
        )
        .build()
    )


def save_part(searcher: Any, path: epath.Path, mark: str) -> None:
    """Writes ScaNN's object as one file, a zip whose comment is the mark, whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:  # ScaNN itself writes to no bucket
        try:
            searcher.serialize(folder, True)
        except RuntimeError as error:
            raise UserError(
                f"the temporary folder {folder} cannot be written ({error}); make room there or "
                "name another in TMPDIR"
            ) from error
        with (
            files.replacing(path) as temporary,
            temporary.open("wb") as file,
            zipfile.ZipFile(file, "w") as archive,
        ):
            archive.comment = mark.encode()
            for name in sorted(os.listdir(folder)):
                archive.write(os.path.join(folder, name), name)


def load_part(path: epath.Path, mark: str) -> Any:
    """Reads what `save_part` wrote; a UserError if it is damaged or of another index."""
    from scann.scann_ops.py import scann_ops_pybind

    with tempfile.TemporaryDirectory() as folder:
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                found = archive.comment.decode(errors="replace")
                if found != mark:
                    raise UserError(
                        f"{path} is a part of another index ({found!r}, not {mark!r}); remove it "
                        "and run again"
                    )
                archive.extractall(folder)
        except (zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{path} is damaged ({error}); remove it and run again") from error
        return scann_ops_pybind.load_searcher(folder)


def _open_folder(parent: epath.Path, config: ScannConfig, plan: Plan, origin: str) -> epath.Path:
    """The folder of an index, with a manifest; a UserError if that is of another index."""
    # All that the content depends on; what a search may choose is not among it.
    built = ("dimensions_per_block", "anisotropic_threshold", "soar_lambda", "training_sample_size")
    fingerprint = {
        "format": _FORMAT,
        "scann": importlib.metadata.version("scann"),
        "origin": origin,
        **{name: getattr(plan, name) for name in ("num_rows", "dim", "num_parts", "num_leaves")},
        **{name: getattr(config, name) for name in built},
        "overretrieve_factor": config.overretrieve_factor if config.soar_lambda else None,
    }
    folder = parent / short_hash(fingerprint)
    manifest = folder / "index.json"
    if not manifest.exists():
        text = json.dumps(fingerprint, indent=2, sort_keys=True) + "\n"
        files.write_bytes(manifest, text.encode())
    with contextlib.suppress(ValueError, RecursionError):
        if json.loads(manifest.read_text()) == fingerprint:
            return folder
    raise UserError(
        f"{manifest} is not the manifest of the index that is asked for; remove the folder "
        f"{folder} and run again"
    )


@dataclasses.dataclass(frozen=True)
class ScannSearch:
    """Approximate search in a partitioned index.

    The folder keeps indexes for later runs; None for a temporary one that goes with the index.
    With a folder, `origin` is a text that no other database has.
    """

    is_exact: ClassVar[bool] = False
    can_share: ClassVar[bool] = False

    config: ScannConfig
    folder: epath.Path | None = None
    origin: str = ""

    @classmethod
    def create(
        cls, config: SearchConfig, *, folder: epath.Path | None, origin: str, **_: Any
    ) -> "ScannSearch":
        """The backend as configured; see `backends.Backend`."""
        return cls(config.scann, folder, origin)

    def open(self, database: VectorSource, k: int) -> "ScannIndex":
        """Builds the index of a database for lists of k, or what is not there yet.

        Raises:
            UserError: as `make_plan`, a row is not finite, or the folder holds another index.
        """
        num_rows, dim = database.num_rows(), database.rows(np.zeros(1, np.int64)).shape[1]
        k = min(k, num_rows)
        plan = make_plan(self.config, num_rows, dim, k)
        if num_rows < MIN_ROWS:
            return ScannIndex(database, plan, k, None)
        parent = self.folder or epath.Path(tempfile.mkdtemp())
        folder = _open_folder(parent, self.config, plan, self.origin)
        index = ScannIndex(database, plan, k, folder)
        if self.folder is None:
            weakref.finalize(index, shutil.rmtree, parent)  # the folder goes with the index
        index.build(self.config)
        if index.num_bytes() <= self.config.memory_gb * 1e9:
            index.held = [load_part(*index._file(part)) for part in range(plan.num_parts)]
        return index


@dataclasses.dataclass
class ScannIndex:
    """An index and its database.

    Attributes:
        plan: a search that finds too few rows raises its leaves to search, unless they are fixed.
        k: length of the lists, at most N.
        folder: has a file a part; None for a database so small that all rows are looked at.
        held: the parts; empty if not all fit into the memory: each is loaded for every search.
    """

    database: VectorSource
    plan: Plan
    k: int
    folder: epath.Path | None
    held: Sequence[Any] = ()

    def build(self, config: ScannConfig) -> None:
        """Builds the parts that are missing; the rows of one are in memory at a time."""
        missing = [part for part in range(self.plan.num_parts) if not self._file(part)[0].exists()]
        if missing:
            with track("scann index", len(missing)) as advance:
                for part in missing:
                    searcher = build_part(self._rows(part), self.plan.num_leaves, config)
                    save_part(searcher, *self._file(part))
                    advance(1)

    def _rows(self, part: int) -> np.ndarray:
        """The rows of a part, [n, D] float32; a UserError if one is not finite."""
        start, end = self.plan.bounds(part)
        rows = np.empty((end - start, self.plan.dim), np.float32)
        for at in range(start, end, _BLOCK_ROWS):
            block = self.database.rows(np.arange(at, min(at + _BLOCK_ROWS, end)))
            if (bad := np.flatnonzero(~np.isfinite(block).all(axis=1))).size:
                where = self.database.place_of(at + int(bad[0]))
                raise UserError(f"{where} is not finite; ScaNN cannot index it: embed it again")
            rows[at - start : at - start + len(block)] = block
        return rows

    def num_bytes(self) -> int:
        """Size of all parts on the disk."""
        parts = range(self.plan.num_parts if self.folder else 0)
        return sum(self._file(part)[0].stat().length for part in parts)

    def facts(self) -> dict[str, int]:
        """What was really built and searched, for the report."""
        names = ("num_parts", "num_leaves", "num_leaves_to_search", "num_candidates")
        built = {name: getattr(self.plan, name) for name in names}
        return {**built, "index_bytes": self.num_bytes()}

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds about the k rows of largest inner product with every query; see `backends.Index`.

        Scores are exact for the rows that were found. A list is never filled up with others.

        Raises:
            UserError: the leaves that the user lets it visit hold fewer than k rows for a query.
        """
        while True:
            visited, leaves = self.plan.num_leaves_to_search, self.plan.num_leaves
            rows = self.candidates(queries, visited)
            found = (rows >= 0).sum(axis=1).min(initial=self.k)
            if found == self.k:
                return topk.best_of_lists(queries, rows, self.database, self.k)
            if self.plan.fixed or visited == leaves:
                raise UserError(
                    f"search.scann.num_leaves_to_search={visited} of {leaves} leaves gives {found} "
                    f"rows for some query, fewer than k={self.k}; raise it or leave it 0"
                )
            more = min(2 * visited, leaves)
            self.plan = dataclasses.replace(self.plan, num_leaves_to_search=more)

    def candidates(self, queries: np.ndarray, visited: int) -> np.ndarray:
        """Rows [Q, n] of so many leaves of every part, in no order; -1 where a list is shorter."""
        plan = self.plan
        if self.folder is None:
            return np.broadcast_to(np.arange(plan.num_rows), (len(queries), plan.num_rows))
        queries = np.ascontiguousarray(queries, np.float32)
        best = np.empty((len(queries), 0), np.uint64)
        for part in range(plan.num_parts):
            start, end = plan.bounds(part)
            searcher = self.held[part] if self.held else load_part(*self._file(part))
            rows, scores = searcher.search_batched_parallel(
                queries,
                final_num_neighbors=min(plan.num_candidates, end - start),
                leaves_to_search=visited,
                batch_size=_QUERIES_AT_ONCE,
            )
            # ScaNN pads short lists with NaN scores, and all lists to the longest one.
            keys = topk.pack(scores, rows.astype(np.int64) + start)
            best = np.concatenate([best, np.where(np.isnan(scores), topk.LAST, keys)], axis=1)
            if (most := plan.num_candidates) < best.shape[1]:
                best = np.partition(best, most - 1, axis=1)[:, :most]
        return np.where(best == topk.LAST, -1, topk.rows_of(best))

    def _file(self, part: int) -> tuple[epath.Path, str]:
        assert self.folder is not None
        name = f"part-{part:05d}-of-{self.plan.num_parts:05d}.zip"
        return self.folder / name, f"{self.folder.name} part {part}"
