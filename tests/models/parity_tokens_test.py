"""Token ids against open_clip's tokenizers, which `make_parity_tokens.py` ran on 1,000 texts.

The vocabularies are made by that script: SigLIP's own (c4, Gemma) cannot be had offline. They are
of the same kinds, with the same special tokens, normalisation, dummy prefix and fallback.
"""

import functools
import json
import lzma

import numpy as np
import pytest
import sentencepiece
from parity_cases import DATA

from ilias_jax.models.tokenizers import EOS_ID, Tokenizer, canonicalize

LENGTH = 64
PAD_ID = {"c4": 1, "gemma": 0}
UNKNOWN_ID = {"c4": 2, "gemma": 3}
SPACES = ("\u200b", "\u2581", "\ufffd")


@functools.cache
def values() -> dict[str, np.ndarray]:
    with np.load(DATA / "parity_tokens.npz", allow_pickle=False) as archive:
        return dict(archive)


def texts() -> list[str]:
    return json.loads(values()["texts"].tobytes())


def runs(name: str) -> list[str]:
    """Tokenizer class and version of transformers of every stored run, oldest first."""
    keys = [key.removesuffix("_rows") for key in values() if key.endswith("_rows")]
    return [key for key in keys if key.startswith(f"{name}_")]


def expected(name: str, run: str) -> np.ndarray:
    """[N, L] ids of a run, which are stored where they differ from those of the first."""
    ids = values()[name].astype(np.int32)
    ids[values()[f"{run}_rows"]] = values()[f"{run}_ids"]
    return ids


def tokenizer(name: str) -> Tokenizer:
    model = lzma.decompress((DATA / f"parity_{name}.model.xz").read_bytes())
    return Tokenizer(model, LENGTH, PAD_ID[name])


@functools.cache
def ours(name: str) -> np.ndarray:
    return tokenizer(name)(texts())


def different(ids: np.ndarray, reference: np.ndarray) -> dict[str, tuple[list[int], list[int]]]:
    """Text -> both rows, where they differ."""
    rows = zip(texts(), ids.tolist(), reference.tolist(), strict=True)
    return {text: (row, wanted) for text, row, wanted in rows if row != wanted}


def test_ids_equal_the_newest_transformers():
    for name, run in (("c4", runs("c4")[-1]), ("gemma", runs("gemma")[-1])):
        assert "HFTokenizer_5" in run
        assert different(ours(name), expected(name, run)) == {}, run


def test_gemmas_ids_are_those_of_every_version():
    assert len(runs("gemma")) == 3
    for run in runs("gemma"):
        assert different(ours("gemma"), expected("gemma", run)) == {}, run


@pytest.mark.parametrize("version", ["4.35.2", "4.48.3"])
def test_older_versions_of_c4_add_only_a_space_at_the_end(version):
    """Where the normalisation turns the last character into a space, which SentencePiece drops.

    Tokenizers saved in 2023, as those on the hub, keep it as a last piece when an older version
    loads them; our ids are SentencePiece's, as in training.
    """
    space = tokenizer("c4").processor().piece_to_id("▁")
    differing = different(ours("c4"), expected("c4", f"c4_HFTokenizer_{version}"))
    assert set(differing) == {text for text in texts() if canonicalize(text).endswith(SPACES)}
    for text, (row, theirs) in differing.items():
        end = row.index(EOS_ID)
        assert theirs == [*row[:end], space, *row[end:-1]], text


def test_siglip_tokenizer_and_hf_tokenizer_agree():
    for name, version in (("c4", "4.35.2"), ("gemma", "4.48.3")):
        first = expected(name, f"{name}_SigLipTokenizer_{version}")
        np.testing.assert_array_equal(first, expected(name, f"{name}_HFTokenizer_{version}"))


@pytest.mark.parametrize("name", PAD_ID)
def test_the_texts_are_varied(name):
    assert len(set(texts())) == 1000
    ids = ours(name)
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer(name).model)
    assert (ids[:, -2] != PAD_ID[name]).sum() > 30  # cut off
    assert (ids[:, 0] == EOS_ID).sum() > 10  # nothing left after the cleaning
    used = np.unique(ids)
    assert len(used) > 400
    unknown = UNKNOWN_ID[name] in used
    assert unknown != any(processor.is_byte(int(i)) for i in used)  # one way or the other
