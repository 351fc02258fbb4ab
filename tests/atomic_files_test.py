"""The file of arrays that rankings and counts share."""

import numpy as np
import pytest

from ilias_jax.files import open_arrays, origin_of, save_arrays
from ilias_jax.errors import UserError


def test_arrays_and_their_origin_come_back(tmp_path):
    path = tmp_path / "folder" / "a.npz"
    save_arrays(path, {"x": np.arange(3, dtype=np.int32), "k": 7}, "from é")
    with open_arrays(path, "kind", "x and k") as arrays:
        assert arrays["x"].dtype == np.int32 and arrays["x"].tolist() == [0, 1, 2]
        assert int(arrays["k"]) == 7
        assert origin_of(arrays) == "from é"


def test_same_arrays_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_arrays(tmp_path / name, {"x": np.ones(3)}, "origin")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_goes_wrong_inside_the_block_names_the_file(tmp_path):
    path = tmp_path / "a.npz"
    save_arrays(path, {"x": np.ones(3)}, "")
    expected = r"a\.npz: not a kind file \(.*y.*\); expected an \.npz with x and y: delete it"
    with pytest.raises(UserError, match=expected), open_arrays(path, "kind", "x and y") as arrays:
        arrays["y"]


def test_files_that_hold_objects_are_not_opened(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([print], object))
    with pytest.raises(UserError, match="not a kind file"), open_arrays(path, "kind", "x") as file:
        file["x"]
