"""Re-ranked lists in a file: the official evaluator's numbers for the order that they are to have."""

import json

import numpy as np
import official_cases
import order_cases
import pytest
from etils import epath

from ilias_jax.dataset.ground_truth import read_ground_truth
from ilias_jax.metrics import evaluate
from ilias_jax.official.evaluate import evaluate_files
from ilias_jax.official.export import write_ranking
from ilias_jax.official.mixture import to_ranking
from ilias_jax.official.similarities import read_similarities
from ilias_jax.rerank.order import reorder
from ilias_jax.search.ranking import Ranking

OFFICIAL = json.loads(order_cases.VALUES.read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("order") / "world"
    official_cases.write_ids(folder)
    return folder


@pytest.mark.parametrize("suffix", ["json", "pkl"])
@pytest.mark.parametrize("length", order_cases.LENGTHS)
def test_the_official_evaluator_gives_our_number(world, length, suffix):
    truth = read_ground_truth(world)
    path, _ = official_cases.write_lists(order_cases.CASE, world)
    lists = read_similarities([path])
    positives = {name: row for row, name in enumerate(truth.positive_ids)}
    others = (name for name in lists.database_ids if name not in positives)
    rows = {**positives, **{name: row for row, name in enumerate(others, start=len(positives))}}
    ranking = to_ranking(lists)
    indices = np.array([rows[name] for name in lists.database_ids], np.int32)[ranking.indices]
    scores = np.array(order_cases.new_scores(length, len(indices)), np.float32)
    found = reorder(Ranking(ranking.query_ids, indices, ranking.scores), scores)
    names, output = [*rows], epath.Path(world / f"ours_{length}.{suffix}")
    write_ranking(output, found, lambda wanted: [names[row] for row in wanted])

    expected = OFFICIAL[str(length)]
    metrics = evaluate(found, truth, 1000, len(names), num_resamples=40)
    read = evaluate_files([output], world).scores["image"]
    assert read.num_ambiguous == 0 and read.metrics.map == metrics.map
    assert metrics.map == pytest.approx(expected["map"], abs=1e-12)
    aps = dict(zip(metrics.query_ids, metrics.aps.tolist(), strict=True))
    assert aps == pytest.approx(expected["aps"], abs=1e-10)


def test_every_length_has_a_number_of_its_own():
    assert len({round(values["map"], 3) for values in OFFICIAL.values()}) == 3
