"""Groups of images: every image once and in its place, and the same vectors as all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilias_jax.towers.groups import group_size, in_groups


def test_groups_divide_the_batch_and_fit() -> None:
    assert group_size(8, 576) == 1
    assert group_size(32, 64) == 16
    assert group_size(7, 64) == 7
    assert group_size(7, 300) == 1  # three would fit, but do not divide
    assert group_size(8, 5000) == 1
    assert group_size(64, 1) == 64


@pytest.mark.parametrize("batch_size, num_tokens", [(6, 400), (8, 128), (3, 2), (1, 2000)])
def test_every_image_comes_back_in_its_place(batch_size: int, num_tokens: int) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(batch_size, num_tokens, 3)).astype(np.float32)
    grid = rng.integers(1, 9, (batch_size, 2), np.int32)
    seen = []

    def embed(tokens: jax.Array, grid: jax.Array) -> jax.Array:
        seen.append(len(tokens))
        return jnp.concatenate([tokens.max(axis=1), grid.astype(jnp.float32)], axis=1)

    found = jax.jit(lambda *arrays: in_groups(embed, *arrays))(tokens, grid)
    np.testing.assert_array_equal(found, np.concatenate([tokens.max(axis=1), grid], axis=1))
    on_cpu = jax.local_devices()[0].platform == "cpu"
    assert seen == [group_size(batch_size, num_tokens) if on_cpu else batch_size]
