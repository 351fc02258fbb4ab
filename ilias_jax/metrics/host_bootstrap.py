"""The cluster bootstrap of `bootstrap` on the host, with the same draws.

For a command that reads a file and prints numbers, starting a device and compiling would take far
longer than the work. The random bits are JAX's own threefry2x32 (Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3", 2011), so that the intervals are those of a run's report.
"""

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_DRAWS_AT_ONCE = 2**16  # of uint32: they stay in the cache
_COUNTS_AT_ONCE = 2**20  # of float64: few large products, as threads wait for each other after each


def draw_objects(seed: int, resamples: np.ndarray, num_objects: int) -> np.ndarray:
    """Draws objects with replacement, as `bootstrap.draw_objects` for `jax.random.key(seed)` does.

    Args:
        seed: of the key, in [0, 2**32).
        resamples: [R] numbers of the resamples.
        num_objects: how many there are, and how many each resample draws.

    Returns:
        [R, num_objects] int64.
    """
    number = resamples.astype(np.uint32)
    keys = _threefry((np.uint32(0), np.uint32(seed)), np.zeros_like(number), number)
    counter = np.arange(num_objects, dtype=np.uint32) + np.zeros((len(number), 1), np.uint32)
    high, low = _threefry((keys[0][:, None], keys[1][:, None]), np.zeros_like(counter), counter)
    return (((high ^ low).astype(np.uint64) * np.uint64(num_objects)) >> np.uint64(32)).astype(
        np.int64
    )


def cluster_intervals(
    seed: int, numerators: np.ndarray, denominators: np.ndarray, num_resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals of sum(numerators) / sum(denominators) over resampled objects.

    The same numbers as those of `bootstrap.cluster_intervals`, see there.

    Args:
        seed: in [0, 2**32).
        numerators: [O, S] float64, what object o adds to the numerator of statistic s.
        denominators: [O, S] float64, the same for the denominator.
        num_resamples: number of resamples.

    Returns:
        (low, high), both [S] float64; NaN for a statistic whose denominators are all 0.
    """
    num_statistics = numerators.shape[1]
    sums = np.concatenate([numerators, denominators], axis=1)
    step = max(1, _COUNTS_AT_ONCE // len(sums))
    resampled = np.concatenate(
        [
            _counts(seed, np.arange(start, min(start + step, num_resamples)), len(sums)) @ sums
            for start in range(0, num_resamples, step)
        ]
    )
    low, high = np.full((2, num_statistics), np.nan)
    for column in np.flatnonzero(denominators.any(axis=0)):
        above, below = resampled[:, column], resampled[:, num_statistics + column]
        ratios = above[below > 0] / below[below > 0]
        if (denominators[:, column] > 0).sum() == 1:
            value = numerators[:, column].sum() / denominators[:, column].sum()
            low[column] = high[column] = value
        elif ratios.size:
            low[column], high[column] = np.percentile(ratios, [2.5, 97.5])
    return low, high


def _counts(seed: int, resamples: np.ndarray, num_objects: int) -> np.ndarray:
    """[R, num_objects] float64: how often each resample drew each object."""
    counts = np.empty((len(resamples), num_objects))
    step = max(1, _DRAWS_AT_ONCE // num_objects)
    for start in range(0, len(resamples), step):
        drawn = draw_objects(seed, resamples[start : start + step], num_objects)
        places = drawn + num_objects * np.arange(len(drawn))[:, None]
        flat = np.bincount(places.ravel(), minlength=drawn.size)
        counts[start : start + step] = flat.reshape(drawn.shape)
    return counts


def _threefry(
    key: tuple[np.ndarray | np.uint32, np.ndarray | np.uint32], x0: np.ndarray, x1: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """20 rounds of threefry2x32; x0 and x1 (uint32) are overwritten."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x0 += schedule[0]
    x1 += schedule[1]
    turned = np.empty_like(x1)
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 += x1
            np.left_shift(x1, np.uint32(rotation), out=turned)
            x1 >>= np.uint32(32 - rotation)
            x1 |= turned
            x1 ^= x0
        x0 += schedule[(group + 1) % 3]
        x1 += schedule[(group + 2) % 3]
        x1 += np.uint32(group + 1)
    return x0, x1
