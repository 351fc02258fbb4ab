import json
import pathlib
import re

import numpy as np
import pytest
import tiny_tokenizer

from ilias_jax.errors import UserError
from ilias_jax.models.tokenizers import EOS_ID, Tokenizer, canonicalize, lower

PAIRS = pathlib.Path(__file__).parents[1] / "data" / "parity_canonicalize.json"
LENGTH = 8


def tokenizer(**options) -> Tokenizer:
    return Tokenizer(tiny_tokenizer.train(), LENGTH, **options)


def pieces(text: str) -> list[int]:
    """The bare SentencePiece ids."""
    return tokenizer().processor().encode(text)


def test_canonicalize_equals_open_clips():
    pairs = json.loads(PAIRS.read_text())["pairs"]
    assert len(pairs) > 150
    wrong = [(text, canonicalize(text), want) for text, want in pairs if canonicalize(text) != want]
    assert wrong == []
    assert sum(text != want for text, want in pairs) > 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \t\n", ""),
        ("A Red MUG", "a red mug"),
        ("red_mug", "red mug"),
        ("it's a T-shirt!", "its a tshirt"),
        ("Tom &amp; Jerry", "tom jerry"),
        ("<b>caf&amp;eacute;</b>", "bcaféb"),  # escaped twice
        ("cafÃ©", "café"),  # UTF-8 that was read as Latin-1
        ("ÜBER Straße", "über straße"),
        ("many   spaces\nand lines", "many spaces and lines"),
        ("“quoted” – dash", "quoted – dash"),  # only ASCII punctuation goes
    ],
)
def test_canonicalize(text, expected):
    assert canonicalize(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("A Red_MUG, &amp; more!", "a red_mug, &amp; more!"),
        ("ÜBER É", "Über É"),  # other letters stay as they are
        ("K (kelvin: \u212a)", "k (kelvin: \u212a)"),
        ("Two  Spaces ", "two  spaces "),
    ],
)
def test_lower_changes_ascii_letters_only(text, expected):
    assert lower(text) == expected


def test_a_text_is_framed_by_no_bos_one_eos_and_padding():
    ids = pieces("red mug")
    assert 0 < len(ids) < LENGTH - 2
    tokens = tokenizer(pad_id=0)(["red mug"])
    assert tokens.dtype == np.int32
    expected = [*ids, EOS_ID] + [0] * (LENGTH - 1 - len(ids))
    np.testing.assert_array_equal(tokens, [expected])


def test_padding_is_the_eos_for_siglip():
    tokens = tokenizer()(["mug"])
    ids = pieces("mug")
    np.testing.assert_array_equal(tokens[0], ids + [1] * (LENGTH - len(ids)))


@pytest.mark.parametrize("extra", [-1, 0, 1, 50])
def test_the_eos_sticks_when_a_text_is_too_long(extra):
    """L - 1 pieces fit with the EOS; of more the first L - 1 stay."""
    text = "the " * (LENGTH - 1 + extra)
    ids = pieces(canonicalize(text))
    assert len(ids) == LENGTH - 1 + extra
    tokens = tokenizer(pad_id=0)([text])[0]
    kept = ids[: LENGTH - 1]
    np.testing.assert_array_equal(tokens, [*kept, EOS_ID] + [0] * (LENGTH - 1 - len(kept)))


def test_a_piece_that_the_text_tower_does_not_know_is_refused():
    """With its place in the vocabulary an embedding would be looked up that is not there."""
    ids = pieces("red mug")
    tokens = tokenizer(size=max(ids) + 1)(["red mug"])
    np.testing.assert_array_equal(tokens[0, : len(ids)], ids)
    with pytest.raises(UserError, match="the text 'red mug' has '.*', which the model does not"):
        tokenizer(size=max(ids))(["red mug"])


def test_an_empty_text_is_the_eos_alone():
    np.testing.assert_array_equal(tokenizer(pad_id=0)([""]), [[EOS_ID] + [0] * (LENGTH - 1)])


def test_texts_keep_their_order_and_no_text_gives_no_row():
    texts = ["red mug", "blue lamp", "old oak table"]
    together = tokenizer()(texts)
    alone = [tokenizer()([text])[0] for text in texts]
    np.testing.assert_array_equal(together, alone)
    assert tokenizer()([]).shape == (0, LENGTH)


def test_the_cleaning_is_the_configured_one():
    text = "The_Red Mug!"
    np.testing.assert_array_equal(tokenizer()([text]), tokenizer()(["the red mug"]))
    lowered = tokenizer(cleaning="lower")([text])[0]
    np.testing.assert_array_equal(lowered[: len(pieces("the_red mug!"))], pieces("the_red mug!"))
    assert tiny_tokenizer.UNKNOWN_ID in lowered  # the punctuation is still there
    assert tiny_tokenizer.UNKNOWN_ID not in tokenizer()([text])


def test_a_file_gives_the_same_tokens(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tiny_tokenizer.train())
    read = Tokenizer.from_file(path, LENGTH, pad_id=0, cleaning="lower")
    assert read == tokenizer(pad_id=0, cleaning="lower")


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "none.model"
    with pytest.raises(UserError, match=re.escape(f"{path} does not exist")):
        Tokenizer.from_file(path, LENGTH)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404 Not Found</html>", tiny_tokenizer.train()[:500]]
)
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} is no SentencePiece model")):
        Tokenizer.from_file(path, LENGTH)


def test_a_tokenizer_with_another_eos_is_refused(tmp_path):
    """As Llama's, whose 32,000 pieces would fit SigLIP's vocabulary."""
    path = tmp_path / "other.model"
    path.write_bytes(tiny_tokenizer.train(eos_id=2))
    with pytest.raises(UserError, match="its EOS is 2, SigLIP's is 1"):
        Tokenizer.from_file(path, LENGTH)
