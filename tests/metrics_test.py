"""The whole evaluation against the slow oracle, its intervals, refusals and device manners."""

import json
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counts_oracle import counts_of
from metrics_oracle import oracle_report, random_ranking, random_world

from ilias_jax.errors import UserError
from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics import evaluate, evaluate_counts
from ilias_jax.metrics.bootstrap import cluster_intervals, draw_objects
from ilias_jax.metrics.groups import CLUTTER_BOUNDS, SCALE_BOUNDS, bounds_keys
from ilias_jax.ranking import Ranking

SCALE_KEYS = [
    "0-0.06880213760855043",
    "0.06880213760855043-0.13526567164179104",
    "0.13526567164179104-0.2729876723163842",
    "0.2729876723163842-inf",
]
CLUTTER_KEYS = ["0-18", "18-33", "33-53", "53-inf"]
GROUPINGS = ("scale", "clutter", "categories", "subcategories")


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
    metrics = evaluate(small_ranking(), small_truth(), k=4, num_database=5)
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


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize(
    ("num_database", "length", "k", "levels"),
    [
        (60, 60, 1000, 10_000),  # whole lists, k beyond them
        (60, 40, 40, 4),  # ties everywhere; groups shorten the lists below k
        (60, 40, 3, 12),  # k below the number of positives
        (600, 40, 40, 50),  # mostly nothing found
        (60, 40, 1, 50),
    ],
)
def test_equals_the_oracle(kind: str, num_database: int, length: int, k: int, levels: int) -> None:
    rng = np.random.default_rng(length + k)
    truth = random_world(rng, num_objects=8, num_queries=25, num_positives=50, kind=kind)
    queries = rng.permutation(truth.image_query_ids + truth.text_query_ids).tolist()
    ranking = random_ranking(rng, queries, num_database, length, levels)
    metrics = evaluate(ranking, truth, k, num_database, num_resamples=40)
    expected = oracle_report(ranking, truth, k)
    assert metrics.aps == pytest.approx(expected["aps"], abs=1e-9)
    assert metrics.map == pytest.approx(expected["map"], abs=1e-9)
    assert metrics.oracle == pytest.approx(expected["oracle"], abs=1e-9)
    for name in GROUPINGS:
        assert getattr(metrics, name) == pytest.approx(expected[name], abs=1e-9)
    for name, groups in metrics.group_aps.items():
        means = {key: np.nanmean(aps) for key, aps in groups.items()}
        assert means == pytest.approx(expected[name], abs=1e-9)


def test_keys_are_the_official_ones() -> None:
    assert bounds_keys(SCALE_BOUNDS) == SCALE_KEYS
    assert bounds_keys(CLUTTER_BOUNDS) == CLUTTER_KEYS


def test_to_dict_is_json_with_the_agreed_keys() -> None:
    document = evaluate(small_ranking(), small_truth(), k=4, num_database=5).to_dict()
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


def plain_bootstrap(
    seed: int, aps: np.ndarray, objects: list[str], num_resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of the mean over queries and of the mean over object means."""
    names = sorted(set(objects))
    own = [[ap for ap, obj in zip(aps, objects, strict=True) if obj == name] for name in names]
    over_queries, over_objects = [], []
    key = jax.random.key(seed, impl="threefry2x32")
    for resample in range(num_resamples):
        with jax.enable_x64(True):
            drawn = np.asarray(draw_objects(key, jnp.uint32(resample), len(names)))
        over_queries.append(np.mean(np.concatenate([own[n] for n in drawn])))
        over_objects.append(np.mean([np.mean(own[n]) for n in drawn]))
    return np.percentile(over_queries, [2.5, 97.5]), np.percentile(over_objects, [2.5, 97.5])


def test_intervals_equal_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(5)
    truth = random_world(rng, num_objects=12, num_queries=30, num_positives=60)
    truth = GroundTruth(
        **{**vars(truth), "taxonomy": dict.fromkeys(truth.taxonomy, ("c", "m", "f"))}
    )
    ranking = random_ranking(rng, truth.image_query_ids, 80, 60, 1000)
    metrics = evaluate(ranking, truth, 60, 80, num_resamples=150, seed=3)
    objects = [query.split("/")[0] for query in ranking.query_ids]
    over_queries, over_objects = plain_bootstrap(3, metrics.aps, objects, 150)
    assert metrics.ci95 == pytest.approx(tuple(over_queries), abs=1e-9)
    assert metrics.intervals["categories"]["c"] == pytest.approx(tuple(over_objects), abs=1e-9)
    assert over_queries != pytest.approx(over_objects, abs=1e-3)


def test_intervals_contain_their_values_and_follow_the_seed() -> None:
    rng = np.random.default_rng(6)
    truth = random_world(rng, num_objects=30, num_queries=60, num_positives=150)
    ranking = random_ranking(rng, truth.image_query_ids, 200, 150, 1000)
    metrics = evaluate(ranking, truth, 150, 200, num_resamples=1000)
    assert metrics.ci95[0] < metrics.map < metrics.ci95[1]
    assert metrics.intervals["oracle"]["oracle"][0] < metrics.oracle
    assert metrics.oracle < metrics.intervals["oracle"]["oracle"][1]
    for name in GROUPINGS:
        for key, value in getattr(metrics, name).items():
            low, high = metrics.intervals[name][key]
            assert low < value < high
    again = evaluate(ranking, truth, 150, 200, num_resamples=1000)
    other = evaluate(ranking, truth, 150, 200, num_resamples=1000, seed=1)
    assert again.ci95 == metrics.ci95
    assert other.ci95 != metrics.ci95
    assert other.map == metrics.map


def test_queries_of_one_object_are_no_independent_evidence() -> None:
    # The same result three times an object must not narrow the interval (by sqrt(3) if queries
    # were drawn).
    rng = np.random.default_rng(7)
    once = random_world(rng, num_objects=15, num_queries=14, num_positives=40)
    ranking = random_ranking(rng, once.image_query_ids, 50, 40, 1000)
    copies = tuple(f"{query}.{n}" for n in range(3) for query in ranking.query_ids)
    thrice = GroundTruth(**{**vars(once), "image_query_ids": copies})
    copied = Ranking(copies, np.tile(ranking.indices, (3, 1)), np.tile(ranking.scores, (3, 1)))
    first = evaluate(ranking, once, 40, 50, num_resamples=200)
    second = evaluate(copied, thrice, 40, 50, num_resamples=200)
    assert second.map == pytest.approx(first.map)
    assert second.ci95 == pytest.approx(first.ci95)


def test_one_object_gives_its_own_value_as_interval() -> None:
    metrics = evaluate(small_ranking(), small_truth(), k=4, num_database=5)
    art = metrics.categories["art"]
    assert metrics.intervals["categories"]["art"] == (art, art)
    assert metrics.ci95[0] < metrics.ci95[1]
    # To the last bit, though 3 x / 3 is not x for some of these.
    with jax.enable_x64(True):
        numerators = jnp.zeros((4, 50)).at[1].set(np.random.default_rng(2).random(50))
        denominators = jnp.zeros((4, 50)).at[1].set(7.0)
        interval = cluster_intervals(jax.random.key(0), numerators, denominators, 100)
    for bound in interval:
        assert np.array_equal(bound, np.asarray(numerators[1]) / 7)


def test_resamples_without_a_group_do_not_count_for_it() -> None:
    # Two of forty objects are in the group: about 13 % of the resamples have neither.
    with jax.enable_x64(True):
        numerators = jnp.zeros((40, 1)).at[:2, 0].set(jnp.array([10.0, 20.0]))
        denominators = jnp.zeros((40, 1)).at[:2, 0].set(1.0)
        interval = cluster_intervals(jax.random.key(0), numerators, denominators, 2000)
    assert np.ravel(interval).tolist() == [10.0, 20.0]


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    # 60 objects with 1 to 3 queries that share the object's own mean; the true mean is 0.
    rng = np.random.default_rng(8)
    intervals = jax.jit(cluster_intervals, static_argnums=3)
    covered = 0
    with jax.enable_x64(True):
        for trial in range(300):
            sizes = rng.integers(1, 4, 60).astype(np.float64)
            sums = sizes * rng.normal(size=60) + np.sqrt(sizes) * 0.3 * rng.normal(size=60)
            key = jax.random.key(trial)
            low, high = intervals(key, sums[:, None], sizes[:, None], 400)
            covered += bool(low[0] <= 0 <= high[0])
    # Drawing queries instead of objects covers about 78 %.
    assert 0.90 * 300 <= covered <= 0.985 * 300


def test_drawn_objects_are_uniform() -> None:
    with jax.enable_x64(True):
        drawn = np.asarray(draw_objects(jax.random.key(1), jnp.uint32(0), 60_000))
    assert drawn.min() >= 0 and drawn.max() < 60_000
    counts = np.histogram(drawn, bins=10, range=(0, 60_000))[0]
    assert np.abs(counts - 6000).max() < 4 * np.sqrt(6000)
    assert np.unique(drawn).size / 60_000 == pytest.approx(1 - np.exp(-1), abs=0.01)


def refusal(
    ranking: Ranking | None = None,
    truth: GroundTruth | None = None,
    error: type[Exception] = UserError,
    **arguments: int,
) -> str:
    """The message with which `evaluate` refuses."""
    arguments = {"k": 4, "num_database": 5, **arguments}
    with pytest.raises(error) as caught:
        evaluate(ranking or small_ranking(), truth or small_truth(), **arguments)
    return str(caught.value)


def test_image_and_text_queries_cannot_be_mixed() -> None:
    mixed = small_ranking(("a/query/Q0.jpg", "a/query/T0.txt", "b/query/Q0.jpg"))
    assert "2 image queries and 1 text queries" in refusal(mixed)


def test_unknown_repeated_and_missing_queries_are_refused() -> None:
    unknown = small_ranking(("a/query/Q0.jpg", "a/query/Q7.jpg", "b/query/Q0.jpg"))
    assert "1 query ids ('a/query/Q7.jpg') not in the ground truth" in refusal(unknown)
    repeated = small_ranking(("a/query/Q0.jpg", "a/query/Q0.jpg", "b/query/Q0.jpg"))
    assert "1 query ids ('a/query/Q0.jpg') given more than once" in refusal(repeated)
    message = refusal(small_ranking(("a/query/Q1.jpg",)))
    assert (
        "2 query ids ('a/query/Q0.jpg', 'b/query/Q0.jpg') missing; expected all 3 image" in message
    )
    assert "expected all 2 text queries" in refusal(small_ranking(("a/query/T0.txt",)))
    assert "expected all 3 image queries" in refusal(small_ranking(()))


def test_long_lists_of_ids_are_cut() -> None:
    queries = tuple(f"a/query/Q{n}.jpg" for n in range(9))
    message = refusal(small_ranking(("a/query/T0.txt",)), small_truth(queries), k=1)
    assert "1 query ids ('b/query/T1.txt')" in message
    message = refusal(small_ranking(queries[:1]), small_truth(queries))
    assert message.count("query/Q") == 3 and "8 query ids" in message and ", ...)" in message


def test_lists_shorter_than_k_are_refused_unless_they_hold_the_database() -> None:
    message = refusal(k=5)
    assert "lists of 4 entries, but k = 5 of a database of 5 needs 5" in message
    assert "lists of 4" in refusal(k=1000)
    whole = Ranking(
        ("a/query/T0.txt", "b/query/T1.txt"),
        np.array([[0, 1, 2, 3], [2, 1, 0, 3]], np.int32),
        np.array([[4, 3, 2, 1]] * 2, np.float32),
    )
    metrics = evaluate(whole, small_truth(), k=1000, num_database=4)
    assert (metrics.map, metrics.oracle, metrics.k) == (100.0, 100.0, 1000)


def test_another_database_is_refused() -> None:
    assert "database index 4, but the database has 3 images" in refusal(k=3, num_database=3)
    assert "smaller than the 3 positives" in refusal(k=2, num_database=2)


def test_arguments_out_of_range_are_refused() -> None:
    assert "k = 0" in refusal(error=ValueError, k=0)
    assert "num_resamples = 39" in refusal(error=ValueError, num_resamples=39)
    assert "seed = -1" in refusal(error=ValueError, seed=-1)


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


def test_one_program_is_compiled_once_whatever_k_and_seed(compiles: list[str]) -> None:
    rng = np.random.default_rng(9)
    truth = random_world(rng, num_objects=7, num_queries=13, num_positives=23)
    first, second = (random_ranking(rng, truth.image_query_ids, 31, 29, 9) for _ in range(2))
    evaluate(first, truth, 29, 31, num_resamples=50)
    assert len(compiles) == 1
    evaluate(second, truth, 17, 31, num_resamples=50, seed=4)
    scores = rng.random((13, 31), np.float32)
    counts = counts_of(truth.image_query_ids, scores, truth, 8)  # the same program scores these
    evaluate_counts(counts, truth, 8, num_resamples=50)
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
        metrics = evaluate(small_ranking(), small_truth(), k=4, num_database=5)
    assert isinstance(metrics.aps, np.ndarray) and metrics.aps.dtype == np.float64
    assert type(metrics.map) is type(metrics.ci95[0]) is float
    assert jnp.zeros(1).dtype == jnp.float32
