"""Ids in ASCII, as the toolkit's own expression writes them."""

import pytest

from ilias_jax.errors import UserError
from ilias_jax.official.escapes import escape, unescape

# What the official extraction writes for each.
OFFICIAL = {
    "mug_012/pos/P012_03.jpg": "mug_012/pos/P012_03.jpg",
    "café/x.jpg": "caf#U00e9/x.jpg",
    "ÿĀ": "#U00ff#U0100",
    "日本": "#U65e5#U672c",
    "ı'": "#U0131'",
    "😀": r"\\U0001f600",
}


@pytest.mark.parametrize(("name", "text"), OFFICIAL.items())
def test_both_ways(name, text):
    assert escape(name) == text
    assert unescape(text) == name


@pytest.mark.parametrize("text", ["#U12", "#Uxyz0", r"\\Uffffffff", "#u00e9", "a#b", "a\\b"])
def test_what_is_no_escape_stays(text):
    assert unescape(text) == text


def test_an_id_that_looks_escaped_is_refused():
    with pytest.raises(UserError, match="'a#U00e9' cannot be written .* rename the image"):
        escape("a#U00e9")
