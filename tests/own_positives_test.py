"""The pairs that a search without lists counts."""

import numpy as np
from metrics_oracle import random_world

from ilias_jax.metrics.own_positives import own_positives


def test_equals_two_loops():
    rng = np.random.default_rng(0)
    truth = random_world(rng, num_objects=9, num_queries=20, num_positives=60)
    queries = rng.permutation(truth.image_query_ids).tolist()
    expected = [
        (q, p)
        for q, query in enumerate(queries)
        for p, positive in enumerate(truth.positive_ids)
        if query.split("/")[0] == positive.split("/")[0]
    ]
    query, positive = own_positives(queries, truth)
    assert query.dtype == positive.dtype == np.int32
    assert list(zip(query.tolist(), positive.tolist(), strict=True)) == expected


def test_a_query_of_an_unknown_object_has_none():
    truth = random_world(np.random.default_rng(1), 3, 3, 6)
    known = truth.image_query_ids[0]
    query, positive = own_positives(["zebra/query/Q0.jpg", known], truth)
    assert set(query) == {1}
    np.testing.assert_array_equal(positive, own_positives([known], truth)[1])
