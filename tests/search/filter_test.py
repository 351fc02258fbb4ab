"""The bound of the filter's error, and what it is there for."""

import jax
import numpy as np
import pytest

from ilias_jax.mesh import make_mesh
from ilias_jax.search.filter import GROUP, Product, check_margin, choose_precision

DRAWS = {
    "unit": lambda rng, shape: rng.normal(size=shape) / np.sqrt(shape[1]),
    "heavy tails": lambda rng, shape: rng.standard_cauchy(shape) * 1e-2,
    "one sign": lambda rng, shape: np.abs(rng.normal(size=shape)),
    "halfway": lambda rng, shape: np.full(shape, 1 + 2.0**-8),
    "tiny": lambda rng, shape: rng.normal(size=shape) * 1e-15,
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("draw", DRAWS)
def test_no_score_is_further_off_than_the_margin(draw, num_devices, precision):
    rng = np.random.default_rng(0)
    for dim in (1, 24, 1000):
        queries = DRAWS[draw](rng, (17, dim)).astype(np.float32)
        rows = DRAWS[draw](rng, (100, dim)).astype(np.float32)
        mesh = make_mesh(devices=jax.devices()[:num_devices])
        product = Product.open(mesh, 40, queries, precision)
        rows = rows[: product.rows_at_once]
        on_device = product.multiply(rows)
        answer, parts = jax.device_get((on_device, on_device.scores_by_partition()))
        scores = np.concatenate(parts, axis=1)[:, : len(rows)]
        exact = queries.astype(np.float64) @ rows.astype(np.float64).T
        margin = product.margin(float(np.sqrt(answer.squares.max())), float(answer.rounding.max()))
        assert (np.abs(scores - exact) <= margin[:, None]).all()
        if precision == "bfloat16" and draw == "unit" and dim > 1:
            assert (np.abs(scores - exact) > 1e-5).any()  # it rounds at all
        groups = np.concatenate(parts, axis=1).reshape(17, -1, GROUP)
        np.testing.assert_array_equal(np.concatenate(answer.maxima, axis=1), groups.max(axis=2))
        squares = np.concatenate(answer.squares)[: len(rows)]
        np.testing.assert_allclose(squares, (rows.astype(np.float64) ** 2).sum(axis=1), rtol=1e-5)


def test_padding_has_no_score():
    product = Product.open(
        make_mesh(devices=jax.devices()[:2]), 32, np.ones((3, 4), "f4"), "float32"
    )
    answer = product.multiply(np.ones((40, 4), np.float32))
    scores = np.concatenate(jax.device_get(answer.scores_by_partition()), axis=1)
    assert (scores[:, :40] == 4).all()
    assert np.isneginf(scores[:, 40:]).all()


def test_a_device_that_keeps_no_promise_is_found_out():
    exact, margin = np.array([0.5, 0.25], np.float32), np.array([1e-3, 1e-3], np.float32)
    check_margin(exact, exact + np.float32(9e-4), margin)
    check_margin(exact[:0], exact[:0], margin[:0])
    with pytest.raises(RuntimeError, match="computed 0.2599.* for a score of 0.25.*filter=float32"):
        check_margin(exact, exact + np.array([0, 0.01], np.float32), margin)


def test_small_searches_are_not_measured(monkeypatch):
    mesh = make_mesh()
    measured = []
    monkeypatch.setattr(
        "ilias_jax.search.filter._faster", lambda *arguments: measured.append(1) or "bfloat16"
    )
    assert choose_precision(mesh, "auto", (100, 1000, 64)) == "float32"
    assert not measured
    assert choose_precision(mesh, "auto", (2000, 10**6, 512)) == "bfloat16"
    assert measured
    assert choose_precision(mesh, "float32", (2000, 10**6, 512)) == "float32"
