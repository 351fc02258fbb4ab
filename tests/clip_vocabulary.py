"""A stand-in for CLIP's vocabulary, which is a download.

It has the merges that the texts of `parity_clip_tokens.npz` need in their places, and in all others
merges of bytes that no text has; byte-pair encoding gives these texts the same ids with it.
"""

import functools
import gzip
import itertools
import json
from collections.abc import Iterator

import numpy as np
from parity_cases import DATA

from ilias_jax.models.tokenizers import NUM_MERGES

FIRST_MERGE_ID = 512
NOT_IN_UTF8 = "ÀÁøùúûüýþÿ"


@functools.cache
def values() -> dict[str, np.ndarray]:
    with np.load(DATA / "parity_clip_tokens.npz", allow_pickle=False) as archive:
        return dict(archive)


def document(name: str):
    return json.loads(values()[name].tobytes())


def unused_merges() -> Iterator[str]:
    for size in itertools.count(2):
        for *left, right in itertools.product(NOT_IN_UTF8, repeat=size):
            yield f"{''.join(left)} {right}"


@functools.cache
def vocabulary() -> bytes:
    unused = unused_merges()
    needed = dict(zip(values()["merge_ids"].tolist(), document("merges"), strict=True))
    ids = range(FIRST_MERGE_ID, FIRST_MERGE_ID + NUM_MERGES)
    lines = ["a header", *(needed.get(i) or next(unused) for i in ids), "more merges", ""]
    return gzip.compress("\n".join(lines).encode(), compresslevel=1, mtime=0)
