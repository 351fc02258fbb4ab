"""`ilias-jax adapt` from files to an adapter, and what a user reads when it cannot be."""

import re

import h5py
import numpy as np
import pytest
from etils import epath

from ilias_jax import cli
from ilias_jax.embeddings.file import Embeddings, write
from ilias_jax.search.adapter import read_adapter

NUM_CLASSES, INPUT_DIM = 12, 40


def _data() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows whose first half of channels tells the class and whose second half is loud noise."""
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(NUM_CLASSES), 60)
    centres = rng.normal(size=(NUM_CLASSES, INPUT_DIM))
    rows = centres[classes] + rng.normal(size=(len(classes), INPUT_DIM))
    rows[:, INPUT_DIM // 2 :] = 4 * rng.normal(size=(len(classes), INPUT_DIM // 2))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16), classes, [f"pict/é{i}.jpg" for i in range(len(classes))]


def _escaped(ids: list[str]) -> list[str]:
    return [name.replace("é", "#U00e9") for name in ids]


def _hdf5(path, rows, ids) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("index", data=ids, dtype=h5py.string_dtype("ascii"))
        file.create_dataset("features", data=rows, compression="gzip", compression_opts=0)


@pytest.fixture
def files(tmp_path):
    rows, classes, ids = _data()
    # Half of the pairs (class, domain) share their class number.
    lines = [f"{name},{c // 2},{c % 2}\n" for name, c in zip(ids, classes, strict=True)]
    (tmp_path / "info.txt").write_text("".join(lines), encoding="utf-8")
    _hdf5(tmp_path / "u.hdf5", rows, _escaped(ids))
    return tmp_path


def _adapt(folder, features=("u.hdf5",), output="out/a.safetensors", **flags) -> None:
    values = {"epochs": 4, "batch_size": 32, "dim": 16, "lr": 0.01, **flags}
    words = [f"--{name}={value}" for name, value in values.items()]
    names = [str(folder / name) for name in features]
    info = ["--info", str(folder / "info.txt"), "--output", str(folder / output)]
    cli.main(["adapt", "--features", *names, *info, *words])


def _same_class_cosine(rows: np.ndarray, classes: np.ndarray) -> float:
    """Mean cosine of two rows of a class less that of two rows of different classes."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines, same = unit @ unit.T, classes[:, None] == classes[None]
    return float(cosines[same].mean() - cosines[~same].mean())


def test_it_learns_and_says_so(files, capsys):
    _adapt(files)
    text = capsys.readouterr().out
    assert "720 embeddings of 40 channels, 12 classes" in text
    assert "compiled in" in text and "epoch 4 of 4: loss" in text and "images/s" in text
    assert text.count("epoch") == 4
    adapter = read_adapter(files / "out" / "a.safetensors")
    assert adapter.weight.shape == (16, 40)
    losses = adapter.fingerprint["losses"]
    assert len(losses) == 4 and losses[-1] < losses[0] / 2
    assert adapter.fingerprint["recipe"]["dim"] == 16
    assert adapter.fingerprint["files"] == ["u.hdf5", "info.txt"]
    rows, classes, _ = _data()
    before = _same_class_cosine(rows.astype(np.float32), classes)
    assert _same_class_cosine(adapter.apply(rows), classes) > 3 * before


def test_the_same_input_gives_the_same_bytes_and_another_seed_others(files):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        _adapt(files, output=f"{name}.safetensors", seed=seed)
    contents = [(files / f"{name}.safetensors").read_bytes() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]


def test_our_own_embeddings_in_several_files_train_the_same_layer(files):
    rows, _, ids = _data()
    for number, part in enumerate((slice(0, 300), slice(300, 720))):
        embeddings = Embeddings(tuple(ids[part]), rows[part], np.arange(len(ids[part])), {})
        write(epath.Path(files) / f"{number}.safetensors", embeddings)
    _adapt(files, output="a.safetensors")
    _adapt(files, features=("0.safetensors", "1.safetensors"), output="b.safetensors")
    first, second = (read_adapter(files / f"{name}.safetensors") for name in "ab")
    np.testing.assert_array_equal(first.weight, second.weight)
    assert first.fingerprint["features"] == second.fingerprint["features"]


def _break_ids(folder):
    rows, _, ids = _data()
    _hdf5(folder / "u.hdf5", rows, ["swapped.jpg", *_escaped(ids)[1:]])


def _break_values(folder):
    rows, _, ids = _data()
    rows[5, 3] = np.nan
    _hdf5(folder / "u.hdf5", rows, _escaped(ids))


def _break_lengths(folder):
    rows, _, ids = _data()
    _hdf5(folder / "u.hdf5", rows[:-1], _escaped(ids))


def _break_names(folder):
    with h5py.File(folder / "u.hdf5", "w") as file:
        file.create_dataset("x", data=[1])


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (None, {"output": "a.pth"}, "a.pth must end in .safetensors"),
        (None, {"features": ("none.hdf5",)}, "none.hdf5: no such file"),
        (None, {"features": ("info.txt",)}, "info.txt is no HDF5 file"),
        (None, {"epochs": 0}, "--epochs 0; 1 to 1,000,000 are allowed"),
        (None, {"dim": 0}, "--dim 0; 1 to 65,536 are allowed"),
        (None, {"dim": 10**8}, "--dim 100000000; 1 to 65,536 are allowed"),
        (None, {"lr": 0}, "--lr 0.0 must be a number above 0"),
        (None, {"lr": "nan"}, "--lr nan must be a number above 0"),
        (None, {"seed": -1}, "--seed -1; 0 to 4,294,967,295 are allowed"),
        (None, {"batch_size": 721}, "720 embeddings are fewer than --batch_size 721"),
        (_break_ids, {}, "1 of 720 ids are not in .*, first row 0: 'swapped.jpg'; line 1 of the"),
        (_break_values, {}, "1 rows are not finite, first 'pict/#U00e95.jpg'"),
        (_break_lengths, {}, "u.hdf5: features has 719 rows and index 720 ids"),
        (_break_names, {}, "u.hdf5: no dataset features and no index, only x"),
    ],
)
def test_what_a_user_did_wrong_is_said(files, capsys, change, flags, message):
    if change is not None:
        change(files)
    with pytest.raises(SystemExit) as exit_:
        _adapt(files, **flags)
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (files / "out" / "a.safetensors").exists()


def test_training_that_diverges_leaves_no_file(files, capsys):
    with pytest.raises(SystemExit):
        _adapt(files, lr=1e38)
    assert "the loss of epoch 1 is nan; lower --lr" in capsys.readouterr().err
    assert not (files / "out" / "a.safetensors").exists()
