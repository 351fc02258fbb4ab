"""Runs open_clip's tokenizers on varied texts and stores the token ids for the tests.

SigLIP's vocabularies (c4 and Gemma) cannot be had offline, so `--train` trains small ones of the
same kinds: unigram with NFKC normalisation and a dummy prefix, and byte-pair merges with bytes for
what is unknown and neither. How transformers wraps a SentencePiece file depends on its version, and
a published run depends on two: the one that saved `tokenizer.json` on the hub (2023 for SigLIP,
2025 for SigLIP 2) and the one that loaded it. So this runs once with each of three versions, in
environments with torch, open_clip_torch, sentencepiece and protobuf, oldest first; each adds to
`tests/data/parity_tokens.npz`. FOLDER keeps the saved tokenizers from one to the next.

    python tests/reference/make_parity_tokens.py FOLDER --train   # with transformers==4.35.2
    python tests/reference/make_parity_tokens.py FOLDER           # with transformers==4.48.3
    python tests/reference/make_parity_tokens.py FOLDER           # with the newest transformers

With `--train`, `tests/data/parity_canonicalize.json` (open_clip's text cleaning) is written, too.
"""

import argparse
import io
import json
import lzma
import pathlib
from typing import Any

import numpy as np
import open_clip.tokenizer
import parity_texts
import transformers

DATA = pathlib.Path(__file__).parents[2] / "tests" / "data"
VALUES = DATA / "parity_tokens.npz"
LENGTH = 64
NUM_CLEANED = 300
VOCABULARIES: dict[str, dict[str, Any]] = {
    "c4": {
        "vocab_size": 2000,
        "model_type": "unigram",
        "normalization_rule_name": "nmt_nfkc",
        "bos_id": -1,
        "unk_id": 2,
    },
    "gemma": {
        "vocab_size": 2000,
        "model_type": "bpe",
        "normalization_rule_name": "identity",
        "byte_fallback": True,
        "split_digits": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["\n"],
        "bos_id": 2,
        "unk_id": 3,
    },
}
# The version that saved the tokenizer as it is on the hub.
SAVED_BY = {"c4": "4.35.2", "gemma": "4.48.3"}


def train(options: dict[str, Any]) -> bytes:
    """A SentencePiece model of the known scripts."""
    import sentencepiece  # not needed later, nor by the newest transformers

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(parity_texts.sentences()),
        model_writer=model,
        character_coverage=0.9995,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def begin(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Trains the models and writes what needs no transformers."""
    texts = parity_texts.texts()
    for name, options in VOCABULARIES.items():
        model = train(options)
        (folder / f"{name}.model").write_bytes(model)
        (DATA / f"parity_{name}.model.xz").write_bytes(lzma.compress(model, preset=9))
    clean = open_clip.tokenizer.get_clean_fn("canonicalize")
    document = {
        "source": f"open_clip {open_clip.__version__}, clean='canonicalize'",
        "pairs": [[text, clean(text)] for text in texts[:NUM_CLEANED]],
    }
    (DATA / "parity_canonicalize.json").write_text(json.dumps(document, indent=1) + "\n")
    return {"texts": np.frombuffer(json.dumps(texts).encode(), np.uint8)}


def run(folder: pathlib.Path, texts: list[str]) -> dict[str, np.ndarray]:
    """Token ids [N, L] of this version's tokenizers: SigLipTokenizer where it saves, HFTokenizer.

    open_clip's SigLipTokenizer decides by its name which kind a file is of.
    """
    version, found = transformers.__version__, {}
    for name, saved_by in SAVED_BY.items():
        saved = folder / f"{name}_{saved_by}"
        if version == saved_by:
            tokenizer = open_clip.tokenizer.SigLipTokenizer(str(folder / f"{name}.model"))
            found[f"{name}_SigLipTokenizer_{version}"] = tokenizer(texts).numpy()
            tokenizer.save_pretrained(saved)
        if saved.exists():
            hub = open_clip.tokenizer.HFTokenizer(
                str(saved), clean="canonicalize", context_length=LENGTH
            )
            found[f"{name}_HFTokenizer_{version}"] = hub(texts).numpy()
    return found


def add(values: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    """Stores the first ids of a vocabulary as they are, of others the rows that differ."""
    for key, ids in found.items():
        name = key.partition("_")[0]
        first = values.setdefault(name, ids.astype(np.uint16))
        (rows,) = np.nonzero((ids != first).any(axis=1))
        values[f"{key}_rows"], values[f"{key}_ids"] = rows, ids[rows].astype(np.uint16)
        print(f"{key}: {len(ids)} texts, {len(rows)} differ from the first")


def main() -> None:
    """Adds this version's ids to the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="for the models and saved tokenizers")
    parser.add_argument("--train", action="store_true", help="begin with new models and texts")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.train:
        values = begin(arguments.folder)
    else:
        with np.load(VALUES) as archive:
            values = dict(archive)
    texts = json.loads(values["texts"].tobytes())
    add(values, run(arguments.folder, texts))
    np.savez_compressed(VALUES, **values)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
