import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilias_jax.errors import UserError
from ilias_jax.plugins import file_sha256, parameters_sha256

TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.ones(3, np.float32)}}


@pytest.mark.parametrize(
    "other",
    [
        {**TREE, "a": TREE["a"] + np.float32(1e-6)},
        {**TREE, "a": TREE["a"].reshape(3, 2)},
        {**TREE, "a": TREE["a"].view(np.int32)},
        {"a": TREE["a"]},
        {**TREE, "d": np.zeros(0, np.float32)},
        {"a": TREE["b"]["c"], "b": TREE["a"]},
    ],
    ids=["value", "shape", "dtype", "fewer", "empty array more", "order"],
)
def test_other_weights_have_another_hash(other):
    assert parameters_sha256(other) != parameters_sha256(TREE)


def test_the_same_weights_have_one_hash_wherever_they_are():
    usual = parameters_sha256(TREE)
    assert len(usual) == 64
    assert parameters_sha256(jax.tree.map(jnp.asarray, TREE)) == usual
    turned = {**TREE, "a": np.asfortranarray(TREE["a"])}
    assert parameters_sha256(turned) == usual
    assert parameters_sha256({"kernel": TREE["a"], "scale": TREE["b"]}) == usual  # names may change


def test_states_of_nnx_with_random_keys_and_half_precision_are_hashed():
    def state(seed, dtype=jnp.float32):
        return nnx.state(nnx.Dropout(0.5, rngs=nnx.Rngs(seed))), jnp.ones(3, dtype)

    assert parameters_sha256(state(0)) == parameters_sha256(state(0))
    assert parameters_sha256(state(0)) != parameters_sha256(state(1))
    assert parameters_sha256(state(0)) != parameters_sha256(state(0, jnp.bfloat16))


def test_a_scalar_is_hashed():
    assert parameters_sha256(np.float32(1)) != parameters_sha256(np.ones(1, np.float32))


def test_no_weights_at_all_identify_nothing():
    with pytest.raises(UserError, match="hold no arrays, so they identify no model"):
        parameters_sha256({"layers": []})


def test_a_file_is_hashed(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file").startswith("ba7816bf")
    assert file_sha256(str(tmp_path / "file")) == file_sha256(tmp_path / "file")
