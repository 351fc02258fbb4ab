"""Texts to token ids: SigLIP's SentencePiece and CLIP's byte pairs, as the references ran them."""

import dataclasses
import functools
import gzip
import html
import itertools
import re
import string
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

import ftfy
import numpy as np
import regex
import sentencepiece
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.files import read_bytes

Cleaning = Literal["canonicalize", "lower"]
EOS_ID = 1
_PUNCTUATION = str.maketrans("", "", string.punctuation)

VOCABULARY_NAME = "bpe_simple_vocab_16e6.txt.gz"
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


def _unescaped(text: str) -> str:
    """Repairs mojibake and resolves HTML entities, twice, as web texts may be escaped twice."""
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def canonicalize(text: str) -> str:
    """Cleans a text as open_clip's SigLIP tokenizers do, and so the published numbers.

    Mojibake and HTML entities are resolved, underscores become spaces, ASCII punctuation goes,
    letters become lower case and runs of white space one space.
    """
    text = _unescaped(text).replace("_", " ").translate(_PUNCTUATION).lower()
    return re.sub(r"\s+", " ", text).strip()


def lower(text: str) -> str:
    """Lowers ASCII letters only, as big_vision's `tf.strings.lower` without encoding does."""
    return "".join(c.lower() if c.isascii() else c for c in text)


def clean(text: str) -> str:
    """Cleans a text as open_clip's CLIP tokenizer does, and so the published numbers.

    Mojibake and HTML entities are resolved, runs of white space become one space, letters lower
    case. Punctuation stays.
    """
    return " ".join(_unescaped(text).split()).lower()


_CLEANERS = {"canonicalize": canonicalize, "lower": lower}


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """SentencePiece with SigLIP's framing: no BOS, a sticky EOS, fixed length.

    Attributes:
        model: contents of a SentencePiece model file.
        length: L, tokens of a text; longer texts keep their first L - 1 and the EOS.
        pad_id: id that fills up; 1 (= EOS) for SigLIP, 0 for SigLIP 2.
        cleaning: "canonicalize" as the reference ran it, "lower" as it was trained.
        size: tokens that the text tower knows; 0 for as many as the file has.
    """

    model: bytes
    length: int
    pad_id: int = 1
    cleaning: Cleaning = "canonicalize"
    size: int = 0

    @classmethod
    def from_file(
        cls,
        path: epath.PathLike,
        length: int,
        pad_id: int = 1,
        cleaning: Cleaning = "canonicalize",
        size: int = 0,
    ) -> "Tokenizer":
        """Reads a SentencePiece model.

        Raises UserError if the file is missing, no SentencePiece model, or one with another EOS.
        """
        content = _read(path, "a SentencePiece model")
        tokenizer = cls(content, length, pad_id, cleaning, size)
        try:
            processor = tokenizer.processor()
        except RuntimeError as error:
            raise UserError(f"tokenizer: {path} is no SentencePiece model ({error})") from error
        if not content:  # SentencePiece takes nothing for a model that comes later
            raise UserError(f"tokenizer: {path} is no SentencePiece model (it is empty)")
        if processor.eos_id() != EOS_ID:
            raise UserError(
                f"tokenizer: {path} is of another model: its EOS is {processor.eos_id()}, "
                f"SigLIP's is {EOS_ID}"
            )
        return tokenizer

    def processor(self) -> sentencepiece.SentencePieceProcessor:
        """The SentencePiece processor of `model`."""
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes texts to [N, L] int32.

        Raises UserError if a text has a piece that the tower does not know, as `<extra_id_0>`.
        """
        processor, clean = self.processor(), _CLEANERS[self.cleaning]
        tokens = np.full((len(texts), self.length), self.pad_id, np.int32)
        for row, text in enumerate(texts):
            ids = [*processor.encode(clean(text))[: self.length - 1], EOS_ID]
            if self.size and max(ids) >= self.size:
                piece = processor.id_to_piece(max(ids))
                raise UserError(f"the text {text!r} has {piece!r}, which the model does not know")
            tokens[row, : len(ids)] = ids
        return tokens


def _read(path: epath.PathLike, wanted: str) -> bytes:
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"tokenizer: {path} does not exist; it should be {wanted}")
    return read_bytes(path)


@functools.cache
def _read_merges(vocabulary: bytes) -> Merges:
    """The ids of two neighbours -> the id of both as one; the lower goes first.

    Raises ValueError if the file's contents are not CLIP's vocabulary.
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
    result: list[int] = []
    for symbol in symbols:
        if result and (result[-1], symbol) == pair:
            result[-1] = joined
        else:
            result.append(symbol)
    return result


def _encode_word(word: str, merges: Merges) -> list[int]:
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
        cleaning: for the fingerprint; CLIP's towers know one way.
    """

    vocabulary: bytes = dataclasses.field(repr=False)
    length: int = 77
    cleaning: Literal["clip"] = "clip"

    @classmethod
    def from_file(cls, path: epath.PathLike, length: int = 77) -> "ClipTokenizer":
        """Reads a vocabulary; raises UserError if it is missing or not CLIP's."""
        wanted = f"{VOCABULARY_NAME} of github.com/openai/CLIP"
        tokenizer = cls(_read(path, wanted), length)
        try:
            _read_merges(tokenizer.vocabulary)
        except ValueError as error:
            raise UserError(
                f"tokenizer: {path} is not CLIP's vocabulary ({error}); it should be {wanted}"
            ) from error
        return tokenizer

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


AnyTokenizer = Tokenizer | ClipTokenizer
