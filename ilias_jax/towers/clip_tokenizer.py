"""Texts to token ids, as CLIP's text towers were trained and as the reference ran it."""

import dataclasses
import functools
import gzip
import html
import itertools
import zlib
from collections.abc import Mapping, Sequence

import ftfy
import numpy as np
import regex
from etils import epath

from ilias_jax.errors import UserError

FILE_NAME = "bpe_simple_vocab_16e6.txt.gz"
NUM_MERGES = 48_894  # of the 262,144 in the file
START_ID, END_ID, PAD_ID = 49406, 49407, 0
_SPECIAL = {"<start_of_text>": START_ID, "<end_of_text>": END_ID}
_FIRST_MERGE_ID = 512  # after every byte, once within and once at the end of a word
_LAST_MERGE = "jeky ll</w>"  # of the id before `START_ID`; no other vocabulary has it there
_WORD_END = "</w>"

# Words of one kind of character each; digits stand alone. `regex` has the classes of characters
# that the reference has, down to those that newer versions of Unicode add.
_WORDS = regex.compile(
    rf"{'|'.join(_SPECIAL)}|'(?:s|t|re|ve|m|ll|d)|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+",
    regex.IGNORECASE,
)

# The file writes a printable byte as the character of its number, the others as those from 256.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = sorted(set(range(256)) - set(_PRINTABLE))
_BYTE_IDS = {byte: i for i, byte in enumerate(_PRINTABLE + _OTHERS)}
_CHARACTERS = [*map(chr, _PRINTABLE), *(chr(256 + i) for i in range(len(_OTHERS)))]

Merges = Mapping[tuple[int, int], int]


def clean(text: str) -> str:
    """Cleans a text as open_clip's tokenizer does, and so the published numbers.

    Mojibake is repaired, HTML entities are resolved (twice, as texts from the web may be escaped
    twice), runs of white space become one space, letters lower case. Punctuation stays.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@functools.cache
def _read_merges(vocabulary: bytes) -> Merges:
    """The ids of two neighbours -> the id of both as one; the lower goes first.

    Args:
        vocabulary: contents of the file.

    Raises:
        ValueError: it is not CLIP's.
    """
    try:
        lines = gzip.decompress(vocabulary).decode().split("\n")[1 : NUM_MERGES + 1]
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"no whole gzip file: {error}") from error
    if len(lines) < NUM_MERGES or lines[-1] != _LAST_MERGE:
        raise ValueError(f"its merge {NUM_MERGES:,} is not {_LAST_MERGE!r}")
    symbols = [*_CHARACTERS, *(character + _WORD_END for character in _CHARACTERS)]
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    merges = {}
    for i, line in enumerate(lines, _FIRST_MERGE_ID):
        left, right = line.split(" ")
        merges[ids[left], ids[right]] = ids[left + right] = i
    return merges


def _join(symbols: Sequence[int], pair: tuple[int, int], joined: int) -> list[int]:
    """Joins a pair wherever it is, from the left."""
    result: list[int] = []
    for symbol in symbols:
        if result and (result[-1], symbol) == pair:
            result[-1] = joined
        else:
            result.append(symbol)
    return result


def _encode_word(word: str, merges: Merges) -> list[int]:
    """The ids of one word: its bytes, joined pair by pair."""
    if word in _SPECIAL:
        return [_SPECIAL[word]]
    symbols = [_BYTE_IDS[byte] for byte in word.encode()]
    symbols[-1] += len(_BYTE_IDS)  # the same byte at the end of a word
    while len(symbols) > 1:
        pair = min(itertools.pairwise(symbols), key=lambda p: merges.get(p, END_ID))
        if pair not in merges:
            break
        symbols = _join(symbols, pair, merges[pair])
    return symbols


@dataclasses.dataclass(frozen=True)
class ClipTokenizer:
    """CLIP's byte-pair encoding with its framing: a start, a sticky end, fixed length.

    Attributes:
        vocabulary: contents of `bpe_simple_vocab_16e6.txt.gz`, as OpenAI published it.
        length: L, tokens of a text; longer texts keep the start, L - 2 tokens and the end.
    """

    vocabulary: bytes = dataclasses.field(repr=False)
    length: int = 77

    @classmethod
    def from_file(cls, path: epath.PathLike, length: int = 77) -> "ClipTokenizer":
        """Reads a vocabulary.

        Raises:
            UserError: the file is missing or is not CLIP's vocabulary.
        """
        path = epath.Path(path)
        wanted = f"it should be {FILE_NAME} of github.com/openai/CLIP"
        if not path.exists():
            raise UserError(f"tokenizer: {path} does not exist; {wanted}")
        tokenizer = cls(path.read_bytes(), length)
        try:
            _read_merges(tokenizer.vocabulary)
        except ValueError as error:
            raise UserError(
                f"tokenizer: {path} is not CLIP's vocabulary ({error}); {wanted}"
            ) from error
        return tokenizer

    @property
    def cleaning(self) -> str:
        """Which cleaning, for the fingerprint; CLIP's towers know one."""
        return "clip"

    def encode(self, text: str) -> list[int]:
        """The bare ids of a text, of any number."""
        merges = _read_merges(self.vocabulary)
        return [i for word in _WORDS.findall(clean(text)) for i in _encode_word(word, merges)]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes texts to [N, L] int32."""
        tokens = np.full((len(texts), self.length), PAD_ID, np.int32)
        for row, text in enumerate(texts):
            ids = [*[START_ID, *self.encode(text)][: self.length - 1], END_ID]
            tokens[row, : len(ids)] = ids
        return tokens
