"""The ways to search, by name. A new one is a module with a class like `Backend`, and its line."""

from typing import ClassVar, Protocol

import jax
import numpy as np
from etils import epath

from ilias_jax.config import SearchConfig
from ilias_jax.embeddings.sources import VectorSource
from ilias_jax.errors import UserError
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.scann import ScannSearch


class Index(Protocol):
    """A database of N rows that is ready to be searched for lists of k."""

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the rows of largest inner product with queries [Q, D] float16 or float32.

        Returns scores [Q, min(k, N)] float32, falling, and database indices, int32 of the same
        shape; equal scores keep the lower index first.
        """
        ...

    def facts(self) -> dict[str, int]:
        """What was built and searched, for the report; nothing if the configuration says it all."""
        ...


class Backend(Protocol):
    """A way to search."""

    # Whether it finds the best rows for certain; others are measured against it.
    is_exact: ClassVar[bool]
    # Whether all processes of a distributed program search together, each a part of the rows; if
    # not, the first one searches alone.
    can_share: ClassVar[bool]

    @classmethod
    def create(
        cls,
        config: SearchConfig,
        *,
        mesh: jax.sharding.Mesh,
        folder: epath.Path | None,
        origin: str,
        shared: bool,
        any_length: bool,
    ) -> "Backend":
        """A backend with its own options of the configuration.

        It may keep files in the folder for later searches of the database that alone has this
        origin. `shared` says whether all processes search together, `any_length` whether rows need
        only be finite and not L2-normalised.
        """
        ...

    def open(self, database: VectorSource, k: int) -> Index:
        """Makes a database of N rows of D channels searchable for lists of k."""
        ...


BACKENDS: dict[str, type[Backend]] = {
    "exact": ExactSearch,
    "scann": ScannSearch,
}


def check_backend(name: str) -> None:
    """Raises UserError unless `search.backend` names one of `BACKENDS`."""
    if name not in BACKENDS:
        allowed = ", ".join(map(repr, BACKENDS))
        raise UserError(f"search.backend={name!r} is not allowed; it must be one of {allowed}")


def backends_of(config: SearchConfig) -> list[str]:
    """The backends of a run: the configured one, or to measure ANN recall exact and approximate."""
    if not config.measure_ann_recall:
        return [config.backend]
    exact, *_ = (name for name, backend in BACKENDS.items() if backend.is_exact)
    approximate, *_ = (name for name, backend in BACKENDS.items() if not backend.is_exact)
    return [exact, approximate if config.backend == exact else config.backend]


def shares_search(config: SearchConfig) -> bool:
    """Whether all processes of a distributed program search; else the first one alone."""
    return all(BACKENDS[name].can_share for name in backends_of(config))
