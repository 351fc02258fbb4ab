"""Looking distractors up in the official list."""

import gzip
import pathlib

import pytest

from ilias_jax.errors import UserError
from ilias_jax.official import distractor_ids
from ilias_jax.official.distractor_ids import absent_distractors


@pytest.mark.parametrize("block", [1, 7, 2**24])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_finds_what_is_not_there_and_counts_lines(
    block: int, end: str, last: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distractor_ids, "_BLOCK", block)
    path = tmp_path / "ids.txt.gz"
    lines = [f"{n % 3}.tar/é{n}" for n in range(50)]
    path.write_bytes(gzip.compress((end.join(lines) + end * last).encode()))
    wanted = {"0.tar/é0", "1.tar/é49", "2.tar/é1", "0.tar", "x/\ud800"}
    assert absent_distractors(path, wanted) == ({"2.tar/é1", "0.tar", "x/\ud800"}, 50)


def test_a_missing_or_damaged_file_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "ids.txt.gz"
    with pytest.raises(UserError, match="ids.txt.gz: no such file; checking distractors needs it"):
        absent_distractors(path, set())
    whole = gzip.compress(b"0.tar/1\n" * 1000)
    for data in (whole[:-9], b"0.tar/1\n", whole[:15] + b"\xff" * 9 + whole[24:]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="ids.txt.gz: not a whole gzip file"):
            absent_distractors(path, set())
