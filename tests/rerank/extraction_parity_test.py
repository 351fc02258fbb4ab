"""From files of pictures to local descriptors, against what the authors' extractors stored.

`tests/reference/make_local_descriptor_values.py` ran AMES's and ELViS's on towers of DINOv2, DINOv3
and SigLIP 2 with drawn weights; `local_descriptor_cases` says on what.
"""

import dataclasses
import functools
import types

import jax
import numpy as np
import pytest
from local_descriptor_cases import CASES, FULL, PICTURES, DescriptorCase, some

from ilias_jax.embeddings.extract import normalized_pixels
from ilias_jax.model import Model
from ilias_jax.models.checkpoints.torch_names import from_torch
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.layers import TransformerSize
from ilias_jax.models.load import tower_model
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.preprocessing.batching import Batch, batch_items
from ilias_jax.preprocessing.local_patches import jpeg_to_local_patches
from ilias_jax.preprocessing.resize import patch_grid
from ilias_jax.rerank import extract
from ilias_jax.rerank.descriptors import Descriptors, from_rows, to_rows
from ilias_jax.rerank.detector import Detector, read_detector
from ilias_jax.rerank.layers import l2_normalize

MAX_ERROR = 8e-6  # of unit vectors; of weights and tokens, relative to their largest
BY_NAME = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
Arrays = dict[str, np.ndarray]


def make_model(case: DescriptorCase) -> Model:
    """The row as the program builds it, of the case's size and weights."""
    row = VARIANTS[case.row]
    image = dataclasses.replace(row.architecture.image, size=TransformerSize(*case.size))
    config = DualEncoderConfig(image, None)
    parameters = from_torch(case.weights(), config, case.name, "image")
    facts = (case.name, config, parameters, None, case.resolution, "float32", {})
    return tower_model(*facts, normalization=row.normalization)


def make_detector(case: DescriptorCase, folder) -> Detector | None:
    if not case.has_detector:
        return None
    state = {f"state.{k}": v for k, v in case.weights("detector_layout").items()}
    np.savez(folder / "detector.npz", **state)
    return read_detector(str(folder / "detector.npz"), case.size[0])


def make_batch(case: DescriptorCase, model: Model) -> Batch:
    """All pictures, those of fewer tokens padded."""
    items = []
    for row, picture in enumerate(PICTURES):
        boxes = () if picture.box is None else (picture.box,)
        how = (model.preprocessing, case.filter, True)
        items.append((row, jpeg_to_local_patches(picture.file(), boxes, *how)))
    most = max(image.extent for _, image in items)
    (batch,) = batch_items(items, (most,), len(items))
    return batch


def describe(
    case: DescriptorCase, model: Model, detector: Detector | None
) -> tuple[Descriptors, np.ndarray]:
    """Descriptors of all pictures as a run stores them, and tokens [N, 8, D]."""
    is_map = case.extractor == "ames"
    reranker = types.SimpleNamespace(
        takes_detector_map=is_map,
        project=lambda _, values: values if is_map else l2_normalize(values),
    )
    extractor = extract.Extractor(model, detector, reranker, case.count, case.count, True)
    batch = make_batch(case, model).arrays
    parameters = (model.parameters, detector.parameters if detector else None, {})
    found, tokens = jax.jit(functools.partial(_both, extractor))(parameters, *batch)
    counts = (batch[1] // case.patch_size).prod(axis=1)
    picked = [some(each[:count]) for each, count in zip(tokens, counts, strict=True)]
    rows = to_rows(np.asarray(found), case.count, "float32")
    return from_rows(rows, case.count), np.stack(picked)


def _both(extractor: extract.Extractor, parameters, pixels: jax.Array, size: jax.Array):
    """Descriptors, and the tokens that they are made of; compiled once."""
    model = extractor.model
    found = extract._forward(extractor, extractor.num_query, parameters, pixels, size)
    grid = patch_grid(size, model.preprocessing.patch_size)
    pixels = normalized_pixels(model.preprocessing, pixels, size)
    return found, model.embed_patches(parameters[0], pixels, grid)


def assert_same(found: Descriptors, expected: Arrays, step: int) -> None:
    """Equal, but for the order of what has the same weight within rounding."""
    np.testing.assert_array_equal(found.counts, expected["counts"].clip(max=found.values.shape[1]))
    tolerance = MAX_ERROR * expected["weights"].max()
    np.testing.assert_allclose(found.weights, expected["weights"], rtol=0, atol=tolerance)
    gaps = -np.diff(expected["weights"], axis=1) > 2 * tolerance
    ends = np.ones((len(gaps), 1), bool)
    clear = np.hstack([ends, gaps]) & np.hstack([gaps, ~ends]) & found.mask
    assert clear.sum() > 0.8 * found.mask.sum()
    np.testing.assert_allclose(found.locations[clear], expected["locations"][clear], atol=1e-6)
    size = np.linalg.norm(expected["values"], axis=-1).max()
    values, clear = found.values[:, ::step], clear[:, ::step]
    np.testing.assert_allclose(
        values[clear], expected["values"][clear], rtol=0, atol=MAX_ERROR * size
    )
    for array in (found.values, found.locations, found.weights):
        assert not array[~found.mask].any()


def assert_authors(case: DescriptorCase, folder) -> None:
    found, tokens = describe(case, make_model(case), make_detector(case, folder))
    expected = case.stored()
    assert_same(found, expected, case.step)
    size = np.linalg.norm(expected["tokens"], axis=-1).max()
    np.testing.assert_allclose(tokens, expected["tokens"], rtol=0, atol=MAX_ERROR * size)


@BY_NAME
def test_descriptors_are_those_of_the_authors(case, tmp_path):
    assert_authors(case, tmp_path)


@pytest.mark.slow
def test_descriptors_of_the_whole_tower_are_those_of_the_authors(tmp_path):
    assert_authors(FULL, tmp_path)
