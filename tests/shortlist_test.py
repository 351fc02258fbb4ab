"""Lists of distractors: full ids, keys, both."""

import pytest
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.official.shortlist import read_shortlist


def _read(folder, text):
    path = epath.Path(folder) / "list.txt"
    path.write_text(text)
    return read_shortlist(path)


def test_full_ids_and_keys(tmp_path):
    shortlist = _read(tmp_path, "a.tar/1\n\n00ff \r\nx/y\na.tar/1\n")
    assert len(shortlist) == 3
    found = shortlist.find(
        ["a.tar/1", "b.tar/1", "b.tar/00ff", "c.tar/00ff", "00ff/1", "a.tar/x/y"]
    )
    assert found.tolist() == [0, -1, 1, 1, -1, 2]


def test_messages(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: no such file; --selected_ids names a list"):
        read_shortlist(epath.Path(tmp_path) / "none.txt")
    with pytest.raises(UserError, match=r"list\.txt: no id in the file; expected a distractor"):
        _read(tmp_path, "\n  \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"binary\.txt: not UTF-8 text"):
        read_shortlist(epath.Path(tmp_path) / "binary.txt")
