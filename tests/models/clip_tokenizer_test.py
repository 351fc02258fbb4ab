"""Token ids against open_clip's, which `make_clip_tokens.py` ran on 1,000 texts and more."""

import gzip
import pickle
import re

import numpy as np
import pytest
from clip_vocabulary import document, values, vocabulary

from ilias_jax.errors import UserError
from ilias_jax.models.tokenizers import END_ID, START_ID, ClipTokenizer, clean

LENGTHS = (77, 32)


def tokenizer(length: int = 77) -> ClipTokenizer:
    return ClipTokenizer(vocabulary(), length)


@pytest.mark.parametrize("length", LENGTHS)
def test_ids_equal_open_clips(length):
    texts, wanted = document("texts"), values()[f"ids_{length}"].astype(np.int32)
    assert len(texts) > 1000
    ids = tokenizer(length)(texts)
    assert ids.dtype == np.int32
    assert ids.shape == wanted.shape
    rows = zip(texts, ids.tolist(), wanted.tolist(), strict=True)
    assert [(text, row, want) for text, row, want in rows if row != want] == []


def test_the_texts_are_varied():
    assert len(set(document("texts"))) > 1000
    for length in LENGTHS:
        ids = values()[f"ids_{length}"]
        assert (ids[:, -1] == END_ID).sum() > 100  # full or cut off
        assert (ids[:, 1] == END_ID).sum() > 5  # nothing left after the cleaning
        assert (ids[:, 1:] == START_ID).sum() >= 1  # written out
        assert len(np.unique(ids)) > 1000


def test_a_text_is_framed_by_start_end_and_zeros():
    ids = tokenizer().encode("a photo of a CAT")
    assert len(ids) == 5
    expected = [START_ID, *ids, END_ID] + [0] * 70
    np.testing.assert_array_equal(tokenizer()(["a photo of a CAT"]), [expected])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("extra", [-1, 0, 1, 50])
def test_the_end_sticks_when_a_text_is_too_long(length, extra):
    """L - 2 tokens fit between start and end; of more the first L - 2 stay."""
    words = (["a", "photo", "of"] * length)[: length - 2 + extra]
    (a, photo, of) = tokenizer().encode("a photo of")
    ids = ([a, photo, of] * length)[: min(length - 2, len(words))]
    padding = [0] * (length - 2 - len(ids))
    tokens = tokenizer(length)([" ".join(words)])
    np.testing.assert_array_equal(tokens, [[START_ID, *ids, END_ID, *padding]])


@pytest.mark.parametrize("text", ["", " \t\n", "\u3000"])
def test_an_empty_text_is_start_and_end(text):
    np.testing.assert_array_equal(tokenizer(32)([text]), [[START_ID, END_ID] + [0] * 30])


def test_texts_keep_their_order_and_no_text_gives_no_row():
    texts = document("texts")[4:8]
    alone = [tokenizer()([text])[0] for text in texts]
    np.testing.assert_array_equal(tokenizer()(texts), alone)
    assert tokenizer()([]).shape == (0, 77)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \t\n", ""),
        ("A Red_MUG, it's!", "a red_mug, it's!"),  # punctuation stays
        ("Tom &amp; Jerry", "tom & jerry"),
        ("<b>caf&amp;eacute;</b>", "<b>café</b>"),  # escaped twice
        ("&amp;lt;I&amp;gt;", "<i>"),
        ("cafÃ©", "café"),  # UTF-8 that was read as Latin-1
        ("ÜBER Straße ẞ", "über straße ß"),
        ("many   spaces\nand\u00a0lines\x1c", "many spaces and lines"),
        ("&nbsp;left", "left"),
        ("e\u0301 \ufb01sh", "é fish"),
        ("“quoted” – dash", '"quoted" – dash'),
    ],
)
def test_clean(text, expected):
    assert clean(text) == expected


def test_a_written_special_token_is_one_token_only_as_a_word_of_its_own():
    """As in the reference: among other punctuation its brackets are punctuation."""
    assert tokenizer().encode("&lt;END_OF_TEXT&gt;") == [END_ID]
    assert END_ID not in tokenizer().encode("!<end_of_text>!")


def test_the_cleaning_has_a_name_for_the_fingerprint():
    assert tokenizer().cleaning == "clip"


def test_a_file_gives_the_same_tokenizer_and_so_does_a_pickle(tmp_path):
    path = tmp_path / "vocabulary.txt.gz"
    path.write_bytes(vocabulary())
    read = ClipTokenizer.from_file(path, 32)
    assert read == tokenizer(32)
    assert ClipTokenizer.from_file(path) == tokenizer(77)
    assert pickle.loads(pickle.dumps(read)) == read
    assert len(repr(read)) < 100  # without the vocabulary


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "none.txt.gz"
    wanted = f"{path} does not exist; it should be bpe_simple_vocab_16e6.txt.gz of github.com"
    with pytest.raises(UserError, match=re.escape(wanted)):
        ClipTokenizer.from_file(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its merge"),
        (b"<html>404 Not Found</html>", "no whole gzip file: Not a gzipped file"),
        (vocabulary()[:5000], "no whole gzip file: Compressed file ended"),
        (vocabulary()[:5000] + bytes(100) + vocabulary()[5100:], "no whole gzip file"),
        (gzip.compress(b"\xff\xfe"), "'utf-8' codec can't decode byte 0xff"),
        (gzip.compress(b"#version: 0.2\ni n\nt h\n"), "its merge 48,894 is not 'jeky ll</w>'"),
        (gzip.compress(b"\xc4\xa0 t\n" * 60_000), "its merge 48,894 is not 'jeky ll</w>'"),
    ],
    ids=["empty", "no gzip", "cut off", "damaged", "no text", "too short", "another vocabulary"],
)
def test_a_file_that_is_not_clips_vocabulary_is_named(tmp_path, content, reason):
    path = tmp_path / "broken.txt.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} is not CLIP's vocabulary ({reason}")):
        ClipTokenizer.from_file(path)
