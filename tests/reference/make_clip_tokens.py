"""Runs open_clip's CLIP tokenizer on varied texts and stores the token ids for the tests.

    python tests/reference/make_clip_tokens.py   # with open_clip_torch

`tests/data/parity_clip_tokens.npz` also gets the merges that these texts need, as the tests have no
other part of CLIP's vocabulary: byte-pair encoding goes the same way without those that it never
takes.
"""

import importlib.metadata
import json
import pathlib
import platform
import random

import numpy as np
import open_clip.tokenizer
import parity_texts

VALUES = pathlib.Path(__file__).parents[2] / "tests" / "data" / "parity_clip_tokens.npz"
LENGTHS = (77, 32)
FIRST_MERGE_ID = 512
PACKAGES = ("open_clip_torch", "ftfy", "regex")
# What this tokenizer alone may trip over: its special tokens, contractions in other letters, marks
# and numbers that some classes of characters hold, characters of newer versions of Unicode.
CLIP_TEXTS = (
    "<start_of_text>", "<end_of_text>", "a <END_OF_TEXT> b", "!<end_of_text>!", "x<end_of_text>y",
    "&lt;end_of_text&gt;", "<\u017ftart_of_text>", "< end_of_text >", "it's they're I've I'm he'll",
    "she'd can't", "IT'S THEY'RE I'VE I'M HE'LL SHE'D", "'s't're've'm'll'd", "'sx 'tx x's's ''s",
    "'\u017f x'\u017fy", "rock'n'roll O'Reilly o'clock '90s", "it\u2019s", "it`s it\u02bcs",
    "1234567890", "1st 2ND 3.14159 1,000,000",
    "\u00b2\u00b3\u00b9 \u2460 \u2167 \u0663 \u0e53 \u4e94 \U0001d7d8",
    "snake_case_name __init__ _", "?!?!... --- *** $$$ ~~~", "a!b?c", "e\u0301 n\u0303 \u0301",
    "\u0345 \u03b1\u0345", "\u1e9e\u00df \u0130\u0131 \u03a3\u03c2", "\u0f00\u0fb8 \u0903\u0940",
    "\u24b6 \u2170", "\U0001f900\U0001fae8\U0001faef", "\U00010940\U0001e5d0\U00016d40\U000323b0",
    "\ue000 \U000f0000 \ufffe \U0010ffff", "a\u00adb a\u200db a\u2060b", "\u1680\u180e\u205f\u2028",
    "\ud800 \ude00", "x" * 200, "\u5927" * 100, "\U0001f600" * 50, "ab" * 37, "'" * 90,
    "a " * 30, "a " * 31, "a " * 75, "a " * 76, "a " * 1000,
)  # fmt: skip


def drawn_texts(
    tokenizer: open_clip.tokenizer.SimpleTokenizer, count: int = 80, seed: int = 2
) -> list[str]:
    """Texts of tokens from all of the vocabulary."""
    rng = random.Random(seed)
    return [
        tokenizer.decode(rng.randrange(tokenizer.sot_token_id) for _ in range(12))
        for _ in range(count)
    ]


def needed_merges(tokenizer: open_clip.tokenizer.SimpleTokenizer, ids: set[int]) -> dict[int, str]:
    """Id -> line of the file, of all merges that made some ids."""
    pairs = dict(enumerate(tokenizer.bpe_ranks, FIRST_MERGE_ID))
    needed, left = {}, set(ids)
    while left:
        i = left.pop()
        if i in pairs and i not in needed:
            needed[i] = " ".join(pairs[i])
            left.update(tokenizer.encoder[symbol] for symbol in pairs[i])
    return dict(sorted(needed.items()))


def main() -> None:
    """Writes the file."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    texts = [*parity_texts.texts(), *CLIP_TEXTS, *drawn_texts(tokenizer)]
    whole = {i for text in texts for i in tokenizer.encode(text)}
    # The last merge says whose the vocabulary is.
    merges = needed_merges(tokenizer, whole | {tokenizer.sot_token_id - 1})
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    documents = {
        "texts": texts,
        "merges": list(merges.values()),
        "versions": {"python": platform.python_version(), **versions},
    }
    values = {
        name: np.frombuffer(json.dumps(document).encode(), np.uint8)
        for name, document in documents.items()
    }
    values["merge_ids"] = np.array(list(merges), np.uint16)
    for length in LENGTHS:
        ids = tokenizer(texts, context_length=length).numpy()
        values[f"ids_{length}"] = ids.astype(np.uint16)
        print(f"{ids.shape}: {len(np.unique(ids))} ids, {(ids[:, -1] != 0).sum()} full rows")
    np.savez_compressed(VALUES, **values)  # type: ignore[arg-type]
    print(f"{len(merges)} merges, {VALUES.stat().st_size} bytes, {versions}")


if __name__ == "__main__":
    main()
