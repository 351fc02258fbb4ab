"""A database in memory, for tests of searches."""

import numpy as np


class MemoryVectors:
    """Rows that note how they are asked for."""

    def __init__(self, array):
        self.array = array
        self.num_rows_read = 0

    def num_rows(self):
        return len(self.array)

    def ids(self):
        return list(map(str, range(len(self.array))))

    def vectors(self):
        raise AssertionError("nobody may ask for all vectors at once")

    def rows(self, indices):
        self.num_rows_read += np.size(indices)
        return self.array[indices]

    def blocks(self, num_rows):
        for start in range(0, len(self.array), num_rows):
            yield self.array[start : start + num_rows]

    def place_of(self, row):
        return f"memory row {row}"


def clustered(rng, num_rows, dim=32, num_clusters=20):
    """Normalised rows around a few centres, float32."""
    centers = rng.normal(size=(num_clusters, dim))
    x = centers[rng.integers(num_clusters, size=num_rows)] + 0.5 * rng.normal(size=(num_rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
