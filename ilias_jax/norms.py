"""The length of vectors: scores mean nothing unless every vector is finite and L2-normalised."""

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.vectors import VectorSource

# One tolerance for every dtype: vectors normalised in bfloat16 differ from length 1 by up to 0.004
# (the norm and the quotient are each rounded by 2^-9), in float16 by 0.001, and neither is seen
# from the dtype that they are stored in. Vectors that nobody has normalised are far off.
LENGTH_TOLERANCE = 0.01


def check_norms(squared_norms: np.ndarray, first_row: int, source: VectorSource) -> None:
    """Refuses rows that no search may see.

    Args:
        squared_norms: [n] float32 sums of squares of neighbouring rows; NaN or infinite where the
            row holds such a value.
        first_row: of the source, to which the first norm belongs.
        source: says where a row is kept.

    Raises:
        UserError: a row is not finite, or its length is not within `LENGTH_TOLERANCE` of 1.
    """
    norms = np.sqrt(squared_norms)
    # Written so that NaN is not good.
    good = np.abs(norms - 1) <= LENGTH_TOLERANCE
    if good.all():
        return
    at = int(np.argmin(good))
    place, norm = source.place_of(first_row + at), norms[at]
    if not np.isfinite(norm):
        raise UserError(f"{place} holds NaN or infinity; extract it again")
    raise UserError(
        f"{place} has length {norm:.4g} and not 1 ({1 - LENGTH_TOLERANCE:g} to "
        f"{1 + LENGTH_TOLERANCE:g} is allowed); scores are of L2-normalised vectors: extract it "
        "again, or, for official feature files, let `ilias-jax search --normalize` divide every "
        "row by its norm"
    )


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """Sums of squares of rows [n, D] float16 or float32, as [n] float32, on the host."""
    wide = np.asarray(rows, np.float32)
    with np.errstate(over="ignore"):
        return np.einsum("nd,nd->n", wide, wide)


def check_rows(rows: np.ndarray, first_row: int, source: VectorSource) -> None:
    """`check_norms` of neighbouring rows [n, D] that are on the host."""
    check_norms(squared_norms(rows), first_row, source)
