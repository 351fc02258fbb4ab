"""The sweep: what it asks for, and that its recall is against exact search."""

import numpy as np

from ilias_jax.search.sweep import sweep

EXACT = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])


def _search_noting(asked):
    found = {2: [[0, -1, -1, -1], [5, 4, -1, -1]], 8: [[3, 2, 1, 9], [7, 6, 5, 4]]}

    def search(visited):
        asked.append(visited)
        return np.zeros((2, 4)), np.array(found[visited])

    return search


def test_points_have_the_recall_of_their_lists_in_the_order_given():
    asked = []
    points = sweep(_search_noting(asked), EXACT, [8, 2])
    assert [point.num_leaves_to_search for point in points] == [8, 2]
    assert [point.ann_recall for point in points] == [7 / 8, 3 / 8]
    assert all(point.queries_per_s > 0 for point in points)
    assert asked == [8, *[8, 2] * 3]  # one that is not timed, then in turn


def test_a_number_that_comes_twice_is_searched_once():
    points = sweep(_search_noting([]), EXACT, [2, 2])
    assert len(points) == 1


def test_no_numbers_search_nothing():
    asked = []
    assert sweep(_search_noting(asked), EXACT, []) == [] and not asked
