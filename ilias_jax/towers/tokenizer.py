"""Texts to token ids, as SigLIP's text tower was trained and as the reference ran it."""

import dataclasses
import html
import re
import string
from collections.abc import Sequence
from typing import Literal

import ftfy
import numpy as np
import sentencepiece
from etils import epath

from ilias_jax.errors import UserError

Cleaning = Literal["canonicalize", "lower"]
_PUNCTUATION = str.maketrans("", "", string.punctuation)
EOS_ID = 1


def canonicalize(text: str) -> str:
    """Cleans a text as open_clip's SigLIP tokenizers do, and so the published numbers.

    Mojibake is repaired, HTML entities are resolved (twice, as texts from the web may be escaped
    twice), underscores become spaces, ASCII punctuation goes, letters become lower case and runs of
    white space one space.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = text.replace("_", " ").translate(_PUNCTUATION).lower()
    return re.sub(r"\s+", " ", text).strip()


def lower(text: str) -> str:
    """Lowers ASCII letters only, as big_vision's `tf.strings.lower` without encoding does."""
    return "".join(c.lower() if c.isascii() else c for c in text)


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

        Raises:
            UserError: the file is missing, no SentencePiece model, or one with another EOS.
        """
        path = epath.Path(path)
        if not path.exists():
            raise UserError(f"tokenizer: {path} does not exist; it should be a SentencePiece model")
        tokenizer = cls(path.read_bytes(), length, pad_id, cleaning, size)
        try:
            processor = tokenizer.processor()
        except RuntimeError as error:
            raise UserError(f"tokenizer: {path} is no SentencePiece model ({error})") from error
        if not tokenizer.model:  # SentencePiece takes nothing for a model that comes later
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

        Raises:
            UserError: a text has a piece that the text tower does not know, as `<extra_id_0>`.
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
