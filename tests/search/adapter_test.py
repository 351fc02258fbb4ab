"""The adapter against plain numpy, and its files."""

import pathlib
import shutil

import jax
import numpy as np
import pytest
import rerank_oracle as oracle
import safetensors.numpy

from ilias_jax.errors import UserError
from ilias_jax.files import sha256
from ilias_jax.search.adapter import Adapter, read_adapter

FILES = pathlib.Path(__file__).parents[1] / "data" / "torch_files"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("count", [0, 1, 4096, 4100])
def test_equals_numpy(count, dtype):
    adapter = oracle.random_adapter()
    rows = np.random.default_rng(1).normal(size=(count, 20)).astype(dtype)
    found = adapter.apply(rows)
    assert found.shape == (count, 12) and found.dtype == np.float32
    np.testing.assert_allclose(found, oracle.adapted(adapter, rows), atol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours():
    adapter = oracle.random_adapter(48, 64)
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(5000, 64)).astype(np.float16)
    whole, order = adapter.apply(rows), rng.permutation(5000)
    np.testing.assert_array_equal(adapter.apply(rows[order]), whole[order])
    np.testing.assert_array_equal(adapter.apply(rows[4321:]), whole[4321:])


def test_any_number_of_rows_compiles_once_and_transfers_nothing_unasked():
    adapter = oracle.random_adapter(6, 9)
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiles.append(event) if "backend_compile" in event else None
    )
    with jax.transfer_guard("disallow"):
        for count in (1, 5, 4096, 9000):
            adapter.apply(np.ones((count, 9), np.float32))
    assert len(compiles) <= 1


def test_a_vector_that_is_mapped_to_zero_stays_finite():
    adapter = Adapter(np.ones((2, 3), np.float32), np.zeros(2, np.float32))
    np.testing.assert_array_equal(adapter.apply(np.zeros((1, 3), np.float32)), [[0, 0]])


def test_the_official_form_is_read():
    adapter = read_adapter(FILES / "adapter.pth")
    np.testing.assert_array_equal(adapter.weight, np.arange(15).reshape(3, 5) - 7)
    np.testing.assert_array_equal(adapter.bias, np.array([0.5, -1, 2], np.float32))
    assert adapter.weight.dtype == adapter.bias.dtype == np.float32
    assert (adapter.dim, adapter.input_dim) == (3, 5)
    digest = sha256(FILES / "adapter.pth")
    assert adapter.fingerprint == {"file": "adapter.pth", "sha256": digest}


def test_saved_and_read_again(tmp_path):
    adapter = oracle.random_adapter()
    for name in ("a", "b"):
        adapter.save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    again = read_adapter(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(again.weight, adapter.weight)
    np.testing.assert_array_equal(again.bias, adapter.bias)
    assert again.fingerprint == {"made": "by hand"}
    # The names of the official state dicts, so that a torch module loads the file as it is.
    assert set(safetensors.numpy.load_file(tmp_path / "a.safetensors")) == {
        "layer.weight",
        "layer.bias",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors"}


def test_safetensors_of_another_program_are_read(tmp_path):
    adapter = oracle.random_adapter()
    tensors = {"layer.weight": adapter.weight, "layer.bias": adapter.bias.astype(np.float16)}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    again = read_adapter(tmp_path / "a.safetensors")
    assert again.fingerprint == {} and again.bias.dtype == np.float32


def test_files_that_are_no_adapters_are_named(tmp_path):
    def write(**tensors):
        names = {name.replace("_", "."): array for name, array in tensors.items()}
        safetensors.numpy.save_file(names, tmp_path / "a.safetensors")
        return tmp_path / "a.safetensors"

    good = {"layer_weight": np.ones((2, 3), np.float32), "layer_bias": np.ones(2, np.float32)}
    cases = [
        ({"layer_bias": np.ones(3, np.float32)}, r"weight has shape \(2, 3\) and bias \(3,\)"),
        ({"layer_weight": np.ones(2, np.float32)}, r"weight has shape \(2,\)"),
        ({"layer_bias": np.array([1, np.nan], "f4")}, "layer.bias holds values that are not fin"),
        ({"more": np.ones(1, np.float32)}, "holds layer.bias, layer.weight, more; an adapter has"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=f"a.safetensors .*{message}"):
            read_adapter(write(**{**good, **changes}))
    with pytest.raises(UserError, match="a.safetensors holds layer.weight; an adapter has"):
        read_adapter(write(layer_weight=np.ones((2, 3), np.float32)))
    with pytest.raises(UserError, match="types.pth holds bfloat16, bool, empty, float16; an ad"):
        read_adapter(FILES / "types.pth")
    with pytest.raises(UserError, match="missing.pth: no such file"):
        read_adapter(tmp_path / "missing.pth")
    with pytest.raises(UserError, match="missing.safetensors: no such file"):
        read_adapter(tmp_path / "missing.safetensors")
    shutil.copy(FILES / "adapter.pth", tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="x.safetensors is damaged or of another kind"):
        read_adapter(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x.bin is no adapter: its name must end in .safetensors"):
        read_adapter(tmp_path / "x.bin")


def test_truncated_safetensors_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    oracle.random_adapter().save(path)
    data = path.read_bytes()
    for length in (0, 7, 40, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=f"{path} is damaged"):
            read_adapter(path)


def test_embeddings_of_another_model_are_refused():
    with pytest.raises(UserError, match="takes embeddings of 20 channels, these have 19; it bel"):
        oracle.random_adapter().apply(np.ones((2, 19), np.float32))
