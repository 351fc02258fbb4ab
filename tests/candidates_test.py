"""Keys of candidates against a sort by score and index."""

import numpy as np

from ilias_jax.search import candidates


def _case():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(7, 50)).astype(np.float32)
    scores[:, ::3] = 0.25  # ties
    scores[2] = 0
    scores[3, :4] = [np.float32(1e-45), -np.float32(1e-45), 3e38, -3e38]
    rows = np.stack([rng.choice(2**31 - 1, 50, replace=False) for _ in range(7)])
    return scores, rows


def test_keys_rise_from_best_to_worst_and_lower_index_first():
    scores, rows = _case()
    order = np.lexsort((rows, -scores), axis=1)
    found, indices = candidates.unpack(np.sort(candidates.pack(scores, rows), axis=1))
    np.testing.assert_array_equal(found, np.take_along_axis(scores, order, 1))
    np.testing.assert_array_equal(indices, np.take_along_axis(rows, order, 1))


def test_nan_is_no_candidate_and_sorts_last():
    scores = np.array([[np.nan, -3e38, 0.5]], np.float32)
    keys = np.sort(candidates.pack(scores, np.array([[1, 2, 3]])), axis=1)
    found, indices = candidates.unpack(keys)
    np.testing.assert_array_equal(indices, [[3, 2, -1]])
    np.testing.assert_array_equal(found, np.array([[0.5, -3e38, -np.inf]], np.float32))


def test_the_best_keys_of_two_lists_are_those_of_the_whole():
    scores, rows = _case()
    keys = candidates.pack(scores, rows)
    merged = candidates.best(keys[:, :20], 30)
    assert merged.shape == (7, 20)
    merged = candidates.best(np.concatenate([merged, keys[:, 20:]], axis=1), 30)
    np.testing.assert_array_equal(np.sort(merged, axis=1), np.sort(keys, axis=1)[:, :30])
