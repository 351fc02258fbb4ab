"""Scores of rankings and of lists against the slow oracle, what is refused, and what is compiled."""

import json
import types
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from list_builder import lists_of
from metrics_oracle import oracle_report, random_ranking, random_world

from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.metrics import Metrics, evaluate
from ilias_jax.metrics.groups import CLUTTER_BOUNDS, SCALE_BOUNDS, bounds_keys
from ilias_jax.metrics.lists import SimilarityLists
from ilias_jax.metrics.scores import GROUPINGS, ListScores, score_lists
from ilias_jax.search.ranking import Ranking

SCALE_KEYS = [
    "0-0.06880213760855043",
    "0.06880213760855043-0.13526567164179104",
    "0.13526567164179104-0.2729876723163842",
    "0.2729876723163842-inf",
]
CLUTTER_KEYS = ["0-18", "18-33", "33-53", "53-inf"]
# One world, image queries or text queries: tests that share it share a compiled program.
WORLD, TEXTS = (
    random_world(np.random.default_rng(0), 8, 25, num_positives=50, kind=kind)
    for kind in ("image", "text")
)
IMAGE_QUERIES = ("a/query/Q0.jpg", "a/query/Q1.jpg", "b/query/Q0.jpg")


def small_truth(image_queries: tuple[str, ...] = IMAGE_QUERIES) -> GroundTruth:
    """Objects a (positives 0, 1) and b (positive 2), each in a group of its own."""
    return GroundTruth(
        image_query_ids=image_queries,
        text_query_ids=("a/query/T0.txt", "b/query/T1.txt"),
        positive_ids=("a/pos/P0.jpg", "a/pos/P1.jpg", "b/pos/P0.jpg"),
        scale=np.array([0.05, 0.5, 0.06880213760855043]),
        clutter=np.array([17, 18, 53], np.int32),
        taxonomy={"a": ("art", "vase", "x"), "b": ("toy", "bear", "y"), "z": ("toy", "dog", "z")},
    )


def small_ranking(queries: tuple[str, ...] = IMAGE_QUERIES) -> Ranking:
    """Database of 5: positives 0..2 and distractors 3, 4. APs 5/6, 1/2 * 1/3, 1."""
    indices = np.array([[0, 2, 1, 3], [3, 4, 1, 2], [2, 0, 1, 3]], np.int32)
    scores = np.array([[4, 3, 2, 1]] * 3, np.float32)
    return Ranking(queries, indices[: len(queries)], scores[: len(queries)])


def test_by_hand() -> None:
    metrics = evaluate(small_ranking(), small_truth(), k=4, num_database=5, num_resamples=40)
    assert metrics.query_ids == IMAGE_QUERIES
    assert metrics.aps == pytest.approx([100 * 5 / 6, 100 / 6, 100.0])
    assert metrics.map == pytest.approx(100 * (5 / 6 + 1 / 6 + 1) / 3)
    assert metrics.oracle == pytest.approx(100 * (1 + 1 / 2 + 1) / 3)
    # Small objects: only positive 0, found first by Q0 and not at all by Q1. Large ones: only
    # positive 1; without positive 0 it has rank 2 for Q0, and rank 3 as before for Q1.
    low, on_bound, _, large = SCALE_KEYS
    assert metrics.scale == pytest.approx(
        {low: 50.0, on_bound: 100.0, large: 100 * (1 / 2 + 1 / 3) / 2}
    )
    assert metrics.clutter == pytest.approx(
        {"0-18": 50.0, "18-33": 100 * (1 / 2 + 1 / 3) / 2, "53-inf": 100.0}
    )
    # Categories average objects: a's mean is 1/2 from two queries.
    assert metrics.categories == pytest.approx({"art": 50.0, "toy": 100.0})
    assert metrics.subcategories == pytest.approx({"art-vase": 50.0, "toy-bear": 100.0})
    assert metrics.counts == {
        "scale": {low: 2, on_bound: 1, large: 2},
        "clutter": {"0-18": 2, "18-33": 2, "53-inf": 1},
        "categories": {"art": 1, "toy": 1},
        "subcategories": {"art-vase": 1, "toy-bear": 1},
    }


def assert_equals_the_oracle(found: Metrics, wanted: dict, tolerance: float) -> None:
    np.testing.assert_allclose(found.aps, wanted["aps"], rtol=0, atol=tolerance)
    for key in ("map", "oracle", *GROUPINGS):
        assert getattr(found, key) == pytest.approx(wanted[key], abs=tolerance)
    for section, groups in found.group_aps.items():
        means = {key: np.nanmean(aps) for key, aps in groups.items()}
        assert means == pytest.approx(wanted[section], abs=tolerance)


@pytest.mark.parametrize(
    ("num_database", "length", "k", "levels", "kind"),
    [
        (60, 60, 1000, 10_000, "image"),  # whole lists, k beyond them
        (60, 40, 40, 4, "text"),  # ties everywhere; groups shorten the lists below k
        (60, 40, 3, 12, "image"),  # k below the number of positives
        (60, 40, 20, 1, "image"),  # one tie, divided by k
        (600, 40, 40, 50, "text"),  # mostly nothing found
        (60, 40, 1, 50, "image"),
    ],
)
def test_rankings_equal_the_oracle(
    num_database: int, length: int, k: int, levels: int, kind: str
) -> None:
    rng = np.random.default_rng(length + k)
    truth = WORLD if kind == "image" else TEXTS
    queries = rng.permutation(truth.image_query_ids + truth.text_query_ids).tolist()
    ranking = random_ranking(rng, queries, num_database, length, levels)
    metrics = evaluate(ranking, truth, k, num_database, num_resamples=40)
    assert_equals_the_oracle(metrics, oracle_report(ranking, truth, k), 1e-9)


def test_keys_are_the_official_ones() -> None:
    assert bounds_keys(SCALE_BOUNDS) == SCALE_KEYS
    assert bounds_keys(CLUTTER_BOUNDS) == CLUTTER_KEYS


def test_to_dict_is_json_with_the_agreed_keys() -> None:
    document = evaluate(
        small_ranking(), small_truth(), k=4, num_database=5, num_resamples=40
    ).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document) == {
        *("map@4", "ci95", "oracle", "num_queries", "intervals", "counts", "aps", "group_aps"),
        *GROUPINGS,
    }
    assert document["num_queries"] == 3
    assert document["aps"]["b/query/Q0.jpg"] == 100.0
    assert document["group_aps"]["scale"][SCALE_KEYS[0]] == [100.0, 0.0, None]
    assert set(document["intervals"]) == {"oracle", *GROUPINGS}
    for name in GROUPINGS:
        assert document[name].keys() == document["intervals"][name].keys()
        assert document[name].keys() == document["counts"][name].keys()


def test_intervals_contain_their_values_and_follow_the_seed() -> None:
    rng = np.random.default_rng(6)
    ranking = random_ranking(rng, WORLD.image_query_ids, 80, 80, 1000)
    first, again, other = (
        evaluate(ranking, WORLD, 80, 80, num_resamples=600, seed=seed) for seed in (0, 0, 1)
    )
    assert first.ci95[0] < first.map < first.ci95[1]
    for name in GROUPINGS:
        for key, value in getattr(first, name).items():
            low, high = first.intervals[name][key]
            assert low < value < high or first.counts[name][key] == 1
    assert again.to_dict() == first.to_dict()
    assert other.ci95 != first.ci95 and other.map == first.map


def test_queries_of_one_object_are_no_independent_evidence() -> None:
    # The same result three times an object must not narrow the interval (by sqrt(3) if queries
    # were drawn).
    once = WORLD
    ranking = random_ranking(np.random.default_rng(7), once.image_query_ids, 60, 40, 1000)
    copies = tuple(f"{query}.{n}" for n in range(3) for query in ranking.query_ids)
    thrice = GroundTruth(**{**vars(once), "image_query_ids": copies})
    copied = Ranking(copies, np.tile(ranking.indices, (3, 1)), np.tile(ranking.scores, (3, 1)))
    first = evaluate(ranking, once, 40, 60, num_resamples=40)
    second = evaluate(copied, thrice, 40, 60, num_resamples=40)
    assert second.map == pytest.approx(first.map)
    assert second.ci95 == pytest.approx(first.ci95)


def test_one_object_gives_its_own_value_as_interval() -> None:
    metrics = evaluate(small_ranking(), small_truth(), k=4, num_database=5, num_resamples=40)
    art = metrics.categories["art"]
    assert metrics.intervals["categories"]["art"] == (art, art)
    assert metrics.ci95[0] < metrics.ci95[1]


REFUSED = {
    "mixed": (("a/query/Q0.jpg", "a/query/T0.txt", "b/query/Q0.jpg"), {}, "3 queries; expected"),
    "unknown": (("a/query/Q0.jpg", "a/query/Q7.jpg", "b/query/Q0.jpg"), {}, "expected all 3 image"),
    "repeated": (("a/query/Q0.jpg", "a/query/Q0.jpg", "b/query/Q0.jpg"), {}, "each once"),
    "missing": (("a/query/Q1.jpg",), {}, "ranking of 1 queries"),
    "none": ((), {}, "or all 2 text queries"),
    "short lists": (IMAGE_QUERIES, {"k": 5}, "lists of 4 entries of 5 cannot be cut at k = 5"),
    "no cut": (IMAGE_QUERIES, {"k": 0}, "k = 0"),
    "other database": (IMAGE_QUERIES, {"k": 3, "num_database": 4}, "4 database images, fewer"),
    "few images": (IMAGE_QUERIES, {"k": 2, "num_database": 2}, "fewer than the 3 positives"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_scores_of_another_benchmark_are_refused(case: str) -> None:
    queries, arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        evaluate(small_ranking(queries), small_truth(), **{"k": 4, "num_database": 5, **arguments})


def test_lists_of_the_whole_database_may_be_shorter_than_k() -> None:
    whole = Ranking(
        ("a/query/T0.txt", "b/query/T1.txt"),
        np.array([[0, 1, 2, 3], [2, 1, 0, 3]], np.int32),
        np.array([[4, 3, 2, 1]] * 2, np.float32),
    )
    metrics = evaluate(whole, small_truth(), k=1000, num_database=4)
    assert (metrics.map, metrics.oracle, metrics.k) == (100.0, 100.0, 1000)


@pytest.fixture
def compiles() -> Iterator[list[str]]:
    """A list that grows by an entry with each program that XLA compiles."""
    events: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_one_program_scores_rankings_and_lists_whatever_k_and_seed(compiles: list[str]) -> None:
    rng = np.random.default_rng(9)
    truth = random_world(rng, num_objects=7, num_queries=13, num_positives=23)
    first, second = (random_ranking(rng, truth.image_query_ids, 31, 29, 9) for _ in range(2))
    evaluate(first, truth, 29, 31, num_resamples=50)
    assert len(compiles) == 1
    evaluate(second, truth, 17, 31, num_resamples=50, seed=4)
    score_lists(as_lists(second, truth, rng), truth, 10**12, num_resamples=50)
    assert len(compiles) == 1


def test_image_and_text_queries_of_the_same_objects_share_a_program(compiles: list[str]) -> None:
    rng = np.random.default_rng(10)
    truth = random_world(rng, num_objects=6, num_queries=11, num_positives=19)
    objects = dict.fromkeys(query.split("/")[0] for query in truth.image_query_ids)
    texts = tuple(f"{obj}/query/T0.txt" for obj in objects)
    truth = GroundTruth(**{**vars(truth), "text_query_ids": texts})
    for queries in (truth.image_query_ids, texts):
        evaluate(random_ranking(rng, queries, 30, 30, 9), truth, 30, 30, num_resamples=60)
    assert len(compiles) == 1


def test_transfers_are_explicit_and_the_configuration_is_left_alone() -> None:
    with jax.transfer_guard("disallow"):
        metrics = evaluate(small_ranking(), small_truth(), k=4, num_database=5, num_resamples=40)
    assert isinstance(metrics.aps, np.ndarray) and metrics.aps.dtype == np.float64
    assert type(metrics.map) is type(metrics.ci95[0]) is float
    assert jnp.zeros(1).dtype == jnp.float32


def named(truth: GroundTruth, index: int) -> str:
    positives = truth.positive_ids
    return positives[index] if index < len(positives) else f"0.tar/{index}"


def as_lists(ranking: Ranking, truth: GroundTruth, rng: np.random.Generator) -> SimilarityLists:
    """The lists of a ranking; equal scores keep their order, else entries are mixed."""
    queries = []
    for query, row, scores in zip(ranking.query_ids, ranking.indices, ranking.scores, strict=True):
        pairs = [(named(truth, i), float(s)) for i, s in zip(row, scores, strict=True)]
        place = {score: rng.random() for _, score in pairs}
        queries.append((query, sorted(pairs, key=lambda pair: place[pair[1]])))
    return lists_of(*queries)


@pytest.mark.parametrize("seed", range(8))
def test_lists_equal_the_oracle(seed: int) -> None:
    """Ragged lists, float64 scores, many ties, k below and above the lengths."""
    rng = np.random.default_rng(seed)
    truth = (WORLD, TEXTS)[seed % 2]
    queries = truth.image_query_ids + truth.text_query_ids
    rows, scores = [], []
    for _ in queries:
        length = int(rng.integers(0, 81))
        rows.append(rng.permutation(80)[:length])
        levels = int(rng.choice([1, 3, 20, 10**9]))
        values = rng.integers(0, levels, length) / levels
        # Differences that float32 does not know.
        scores.append(-np.sort(-(1 + values * 1e-9)) if seed % 3 else -np.sort(-values))
    k = int(rng.choice([1, 5, 20, 1000]))
    lists = lists_of(
        *(
            (query, [(named(truth, i), s) for i, s in zip(row, values, strict=True)])
            for query, row, values in zip(queries, rows, scores, strict=True)
        )
    )
    fake = types.SimpleNamespace(query_ids=queries, indices=rows, scores=scores)
    found = score_lists(lists, truth, k, num_resamples=40)
    assert_equals_the_oracle(found.metrics, oracle_report(fake, truth, k), 1e-11)
    assert found.shortest == min(map(len, rows))


def test_a_list_in_any_order_scores_as_its_ranking() -> None:
    rng = np.random.default_rng(1)
    ranking = random_ranking(rng, WORLD.image_query_ids, 70, 25, 3)
    wanted = evaluate(ranking, WORLD, 25, 70, num_resamples=40, seed=3).to_dict()
    lists = as_lists(ranking, WORLD, rng)
    assert score_lists(lists, WORLD, 25, num_resamples=40, seed=3).metrics.to_dict() == wanted


def one_query(num_positives: int) -> GroundTruth:
    return GroundTruth(
        image_query_ids=("a/q",),
        text_query_ids=(),
        positive_ids=tuple(f"a/pos/{n}" for n in range(num_positives)),
        scale=np.linspace(0.0, 0.1, num_positives),  # two groups
        clutter=np.zeros(num_positives, np.int32),
        taxonomy={"a": ("art", "vase", "red")},
    )


def score(pairs: str, truth: GroundTruth, k: int) -> ListScores:
    """Scores "p0=3 x=2 ...": p are positives, other letters distractors."""
    entries = [pair.split("=") for pair in pairs.split()]
    named = [(n.replace("p", "a/pos/"), float(value)) for n, value in entries]
    return score_lists(lists_of(("a/q", named)), truth, k, num_resamples=40)


def test_small_cases_by_hand() -> None:
    truth = one_query(4)
    found = score("x=5 p0=4 y=3 p1=2 z=1", truth, 5)
    assert found.metrics.map == pytest.approx(100 / 4 * (1 / 2 + 2 / 4))
    assert found.official_oracle == found.metrics.oracle == 50
    # A tie counts as a whole: both its positives are seen at its end.
    assert score("p0=2 x=2 p1=2 y=1", truth, 9).metrics.map == pytest.approx(100 / 4 * (2 * 2 / 3))
    # k below the number of positives.
    assert score("p0=3 p1=2 p2=1 x=0", truth, 2).metrics.map == 100
    # p3 is of the second scale group; it leaves the list before the cut, so p0 moves up to rank 2.
    scale = score("p3=9 x=8 p0=7", truth, 2).metrics.scale
    assert list(scale.values()) == [100 / 2 * (1 / 2), 100]


def test_the_official_oracle_of_a_short_list_is_too_high() -> None:
    found = score("p0=2 x=1", one_query(4), 1000)
    assert found.official_oracle == pytest.approx(100 * 0.5 * 1000 / 4)
    assert found.metrics.oracle == 25 and found.shortest == 2
    assert score("", one_query(4), 1000).official_oracle == 0
    # That of a list longer than k is not.
    assert score("p0=3 x=2 y=1 p1=0", one_query(4), 2).official_oracle == pytest.approx(100 * 2 / 8)


@pytest.mark.parametrize(
    ("pairs", "ambiguous"),
    [
        ("p0=3 x=2 y=1", 0),
        ("x=3 p0=2 y=2", 1),  # cut at 2 through a tie with a positive in it
        ("x=3 y=2 p0=2", 1),
        ("x=3 y=2 z=2 p0=1", 0),  # no positive in the tie
        ("x=3 p0=2 p1=2", 0),  # nothing else in it: any order finds one positive
        ("p0=2 x=2 y=1", 0),  # the tie ends at the cut
        ("p0=9 x=5 p3=3 y=3", 1),  # in a group alone: without p0, y and p3 straddle
        ("p0=9 x=5 y=3 z=3 p0=1", 0),
    ],
)
def test_ties_across_the_cut_are_counted(pairs: str, ambiguous: int) -> None:
    assert score(pairs, one_query(4), 2).num_ambiguous == ambiguous


def test_minus_zero_equals_zero() -> None:
    assert score("x=0 p0=-0.0 y=-1", one_query(1), 9).metrics.map == 50
