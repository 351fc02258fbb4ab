"""Puts embeddings in order that arrive in any, each exactly once."""

from collections.abc import Iterable, Sequence

import numpy as np

from ilias_jax.errors import UserError

_NAMED = 3  # items that a message names


class Rows:
    """The embeddings of one sequence of items."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._vectors: list[np.ndarray] = []
        self.count = 0

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Takes rows [n] int64 and vectors [n, D] float32."""
        self._rows.append(rows)
        self._vectors.append(vectors)
        self.count += len(rows)

    def result(self, names: Sequence[str], place: str) -> np.ndarray:
        """All vectors in order.

        Args:
            names: of the N items, for messages.
            place: where the items are from, for messages.

        Returns:
            [N, D] float32.

        Raises:
            RuntimeError: a row is missing or comes twice.
            UserError: a vector is not finite.
        """
        rows = np.concatenate(self._rows or [np.zeros(0, np.int64)])
        num_rows = len(names)
        if len(rows) != num_rows or not np.array_equal(np.sort(rows), np.arange(num_rows)):
            raise RuntimeError(
                f"{place}: {len(rows)} embeddings for {num_rows} items, or one of them twice"
            )
        if not num_rows:
            return np.zeros((0, 0), np.float32)
        vectors = np.empty((num_rows, self._vectors[0].shape[1]), np.float32)
        vectors[rows] = np.concatenate(self._vectors)
        _check_finite(vectors, names, place)
        return vectors


def _check_finite(vectors: np.ndarray, names: Sequence[str], place: str) -> None:
    """Raises UserError that names the items whose vectors are not finite."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        first = ", ".join(names[row] for row in bad[:_NAMED])
        raise UserError(
            f"{place}: the model gave NaN or infinity for {bad.size} of {len(names)} items, first "
            f"{first}; nothing of them was written. Weights that are damaged or of another model "
            "do that, and so may model.dtype=bfloat16 where float32 does not"
        )


def collect(
    results: Iterable[tuple[np.ndarray, np.ndarray]], names: Sequence[str], place: str
) -> np.ndarray:
    """All of some results in order; see `Rows`."""
    gathered = Rows()
    for rows, vectors in results:
        gathered.add(rows, vectors)
    return gathered.result(names, place)


class ViewMeans:
    """Turns embeddings of views into those of images: the normalised mean.

    Views of an image may come in any order; they are added up in their own, so that neither
    batches nor devices change a bit. Only images of which a view is still missing are kept.

    Args:
        num_views: V; view v of image i has the row i * V + v.
    """

    def __init__(self, num_views: int) -> None:
        self._num_views = num_views
        self._waiting: dict[int, dict[int, np.ndarray]] = {}

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes views and gives the images that are whole now.

        Args:
            rows: [n] int64.
            vectors: [n, D] float32 L2-normalised.

        Returns:
            Images [m] int64 and vectors [m, D] float32 L2-normalised.
        """
        whole = []
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            image, view = divmod(row, self._num_views)
            seen = self._waiting.setdefault(image, {})
            seen[view] = vector
            if len(seen) == self._num_views:
                whole.append(image)
        means = [_mean(self._waiting.pop(image)) for image in whole]
        shape = (len(means), vectors.shape[1])
        return np.array(whole, np.int64), np.array(means, np.float32).reshape(shape)


def _mean(views: dict[int, np.ndarray]) -> np.ndarray:
    """[D] float32 normalised mean of the views of one image, in the order of their numbers."""
    mean = np.mean([views[view] for view in sorted(views)], axis=0, dtype=np.float32)
    return mean / np.maximum(np.linalg.norm(mean), np.float32(1e-12))
