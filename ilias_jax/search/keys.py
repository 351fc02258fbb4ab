"""A score and a database row in one integer whose order is the order of a ranking.

The score is in the high half, turned so that higher scores make smaller keys; the row is in the low
half. Sorting keys puts higher scores first and the lower row first among equal scores.
"""

import numpy as np

LAST = np.uint64(0xFFFFFFFFFFFFFFFF)  # stands after every pair; stands for no pair
_SIGN = np.uint32(0x80000000)


def pack(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Keys of pairs.

    Args:
        scores: float32, not NaN, without negative zeros.
        rows: integers in [0, 2**31), of the same shape.

    Returns:
        uint64 of the same shape.
    """
    bits = np.ascontiguousarray(scores, np.float32).view(np.uint32)
    # Bits of floats rise with positive values and fall with negative ones.
    falling = np.where(bits & _SIGN, bits, ~bits & ~_SIGN)
    return falling.astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64)


def scores_of(keys: np.ndarray) -> np.ndarray:
    """The float32 scores of keys; -inf for `LAST`."""
    falling = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(falling & _SIGN, falling, ~falling & ~_SIGN)
    return np.where(keys == LAST, np.float32(-np.inf), bits.view(np.float32))


def rows_of(keys: np.ndarray) -> np.ndarray:
    """The int64 rows of keys; 2**32 - 1 for `LAST`."""
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
