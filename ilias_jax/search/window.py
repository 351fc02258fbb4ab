"""Database rows that are in the host's memory together."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """Neighbouring rows of a database.

    Attributes:
        first_row: database index of the first.
        vectors: [n, D] float16 or float32.
    """

    first_row: int
    vectors: np.ndarray
