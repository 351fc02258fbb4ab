"""Candidates of a search as sortable keys: one integer holds a score and a database index."""

import numpy as np

# Stands where a list has no candidate: sorts behind every key.
NONE = np.uint64(2**64 - 1)
_SIGN = np.uint32(2**31)


def pack(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Keys that rise from best to worst: higher score first, then lower database index.

    The bits of a float32 of one sign are ordered as its absolute value (IEEE 754), so that they
    need only be turned around for one sign. Sorting one array of integers is several times faster
    than sorting by two arrays.

    Args:
        scores: float32 of any shape; NaN where there is no candidate. Zeros must not be negative.
        rows: integers in [0, 2**32) of the same shape.

    Returns:
        uint64 of the same shape; `NONE` where there is no candidate.
    """
    bits = np.ascontiguousarray(scores, np.float32).view(np.uint32)
    falling = np.where(bits & _SIGN, bits, ~(bits | _SIGN))
    keys = falling.astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64)
    return np.where(np.isnan(scores), NONE, keys)


def unpack(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 and database indices int64 of keys; -inf and -1 where there is none."""
    falling = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(falling & _SIGN, falling, ~falling & ~_SIGN)
    scores = bits.view(np.float32)
    rows = (keys & np.uint64(2**32 - 1)).astype(np.int64)
    absent = keys == NONE
    return np.where(absent, np.float32(-np.inf), scores), np.where(absent, -1, rows)


def best(keys: np.ndarray, count: int) -> np.ndarray:
    """The `count` best keys of every list, in no order; all of a shorter list."""
    if keys.shape[1] <= count:
        return keys
    return np.partition(keys, count - 1, axis=1)[:, :count]
