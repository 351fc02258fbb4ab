"""From pictures to scores of networks within a run, beside the same steps one by one in numpy."""

import local_oracle as oracle
import local_pairs
import numpy as np
import patch_model
import pytest
from etils import epath

from ilias_jax.dataset.layout import follows_exif
from ilias_jax.preprocessing.local_patches import jpeg_to_local_patches
from ilias_jax.preprocessing.views import normalize
from ilias_jax.rerank import ames, elvis
from ilias_jax.rerank.layers import Remap
from ilias_jax.rerank.reranker import RERANKERS
from ilias_jax.search.ranking import Ranking

DIM, COUNT, LENGTH = patch_model.DIM, 8, 3
HALF = (0.5,) * (3 * patch_model.PATCH**2)


def _detector() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"conv1.weight": (DIM, DIM, 1, 1), "conv1.bias": (DIM,), "conv2.bias": (1,)}
    shapes |= {f"bn.{name}": (DIM,) for name in ("weight", "bias", "running_mean")}
    shapes |= {"conv2.weight": (1, DIM, 1, 1)}
    found = {name: rng.standard_normal(shape) * 0.5 for name, shape in shapes.items()}
    return found | {"bn.running_var": rng.random(DIM) + 0.5, "bn.num_batches_tracked": np.array(3)}


def _tokens(data, filter: str) -> dict[str, np.ndarray]:
    """Image id -> the tokens of its patches."""
    dataset, preprocessing = patch_model.open_dataset(data), patch_model.model().preprocessing
    found = {}
    for split in ("image_query", "positive", "distractor"):
        for shard in dataset.shards(split):
            for record in dataset.read(shard, lambda record: record, 1):
                turned = follows_exif(split)
                patches = jpeg_to_local_patches(record.jpeg, (), preprocessing, filter, turned)
                pixels = patches.pixels
                if pixels.dtype == np.uint8:
                    pixels = normalize(pixels, HALF, HALF)
                found[record.image_id] = np.tanh(pixels.astype(np.float64) @ patch_model.KERNEL)
    return found


def _strongest(tokens: np.ndarray, weights: dict[str, np.ndarray], takes_map: bool) -> np.ndarray:
    """The detector's formula, and the descriptors of largest attention."""
    y = tokens @ weights["conv1.weight"][:, :, 0, 0].T + weights["conv1.bias"]
    y = (y - weights["bn.running_mean"]) / np.sqrt(weights["bn.running_var"] + 1e-5)
    y = y * weights["bn.weight"] + weights["bn.bias"]
    logits = np.maximum(y, 0) @ weights["conv2.weight"][0, :, 0, 0] + weights["conv2.bias"]
    order = np.argsort(-np.logaddexp(0, logits), kind="stable")[:COUNT]
    return y[order] if takes_map else local_pairs.unit(tokens[order])


@pytest.mark.parametrize(
    ("method", "binary"),
    [
        ("ames", True),
        pytest.param("ames", False, marks=pytest.mark.slow),
        pytest.param("elvis", False, marks=pytest.mark.slow),
    ],
)
def test_a_run_gives_the_scores_of_its_pictures(small_world, tmp_path, method, binary):
    shapes = {"ames": ames.shapes, "elvis": elvis.shapes}[method](Remap(binary, DIM))
    weights = local_pairs.draw({name: list(shape) for name, shape in shapes.items()})
    detector = _detector()
    for name, arrays in (("weights", weights), ("detector", detector)):
        np.savez(tmp_path / f"{name}.npz", **{f"state.{k}": v for k, v in arrays.items()})
    options = {"weights": str(tmp_path / "weights.npz"), "shortlist": LENGTH}
    options |= {"detector": str(tmp_path / "detector.npz"), "model": {"name": "own"}}
    options |= {"resolution": patch_model.RESOLUTION}
    patch_model.run(
        small_world,
        tmp_path / "work",
        method=method,
        query_descriptors=COUNT,
        database_descriptors=COUNT,
        **options,
    )
    with np.load(tmp_path / "work" / "rerank" / "scores.npz") as stored:
        found = stored["scores"]
    before = Ranking.load(epath.Path(tmp_path) / "work" / "rankings" / "image_to_image.npz")
    tokens = _tokens(small_world, RERANKERS[method].usual.filter)
    names = patch_model.database_ids(small_world)
    double = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    expected = np.zeros_like(found)
    for row, query in enumerate(before.query_ids):
        for column, index in enumerate(before.indices[row, :LENGTH]):
            sides = (
                _strongest(tokens[name], detector, method == "ames")
                for name in (query, names[index])
            )
            expected[row, column] = getattr(oracle, method)(double, *sides, (COUNT, COUNT))
    spread = expected.std()
    np.testing.assert_allclose(found, expected, atol=max(1e-2 * spread, 2e-3))
    assert spread > 0.02
