"""`--tars`: places, ranges and names, and what names no tar."""

import pytest

from ilias_jax.errors import UserError
from ilias_jax.tar_range import select

TARS = [f"{letter}.tar" for letter in "abcdef"]


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("0:2", "ab"),
        (":", "abcdef"),
        ("0:6", "abcdef"),
        ("4:", "ef"),
        (":1", "a"),
        ("5", "f"),
        ("d.tar", "d"),
        ("3, 0:2, b.tar, 3", "abd"),
    ],
)
def test_tars_are_taken_once_and_in_order(text, letters):
    assert [TARS[number][0] for number in select(TARS, text)] == list(letters)


@pytest.mark.parametrize(
    "text", ["", "x", "2:1", "-1", "1-3", "1:2:3", "g.tar", "1,,2", "1.0", "¹", "3,", "3:3", "9:"]
)
def test_what_names_no_tar_is_refused(text):
    with pytest.raises(UserError, match=r"names no tar; allowed are, separated by commas"):
        select(TARS, text)


@pytest.mark.parametrize("text", ["6", "2:9"])
def test_a_number_beyond_the_last_is_refused(text):
    with pytest.raises(UserError, match="the 6 tars have the numbers 0 to 5"):
        select(TARS, text)
