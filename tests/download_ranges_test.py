"""`--tars`."""

import pytest

from ilias_jax.download.files import RemoteFile
from ilias_jax.download.ranges import select
from ilias_jax.errors import UserError

TARS = [RemoteFile(f"yfcc100m/t{number}.tar", "u") for number in range(10)]


def chosen(text):
    return [TARS.index(file) for file in select(TARS, text)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0:3", [0, 1, 2]),
        ("8:", [8, 9]),
        (":2", [0, 1]),
        (":", list(range(10))),
        ("7", [7]),
        ("t4.tar", [4]),
        ("5, 2:4,t2.tar,5", [2, 3, 5]),
        ("0:10", list(range(10))),
    ],
)
def test_what_is_meant(text, numbers):
    assert chosen(text) == numbers


@pytest.mark.parametrize(
    "text", ["", "3,", "a.tar", "-1", "1-3", "3:3", "4:2", "1:2:3", "²", "1.0"]
)
def test_what_is_not(text):
    with pytest.raises(UserError, match="names no tar; allowed are") as caught:
        chosen(text)
    assert str(caught.value).startswith(f"--tars {text}: ")


@pytest.mark.parametrize("text", ["10", "5:11", "99:"])
def test_numbers_beyond_the_end(text):
    with pytest.raises(UserError) as caught:
        chosen(text)
    words = "names no tar" if text == "99:" else "the 10 tars have the numbers 0 to 9"
    assert words in str(caught.value)
