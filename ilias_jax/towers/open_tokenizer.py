"""The tokenizer of a model, of whichever kind, from its vocabulary."""

from etils import epath

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.towers.clip_tokenizer import ClipTokenizer
from ilias_jax.towers.tokenizer import Tokenizer
from ilias_jax.towers.variants import find_variant

AnyTokenizer = Tokenizer | ClipTokenizer
_FEWER_PIECES = 1000  # than a tower knows: its vocabulary may be rounded up, another is far off


def open_tokenizer(path: epath.Path, config: ModelConfig) -> AnyTokenizer:
    """Reads a model's tokenizer.

    Raises:
        UserError: it cannot be read, or is of another vocabulary than the model's.
    """
    variant = find_variant(config.name)
    vocabulary, text = variant.vocabulary, variant.architecture.text
    assert vocabulary is not None and text is not None  # who has a text tower has a vocabulary
    if vocabulary.kind == "clip":
        return ClipTokenizer.from_file(path, text.length)
    tokenizer = Tokenizer.from_file(
        path, text.length, vocabulary.pad_id, config.text_cleaning, vocabulary.size
    )
    pieces = tokenizer.processor().get_piece_size()
    most = vocabulary.size + vocabulary.extra_pieces
    if not vocabulary.size - _FEWER_PIECES <= pieces <= most:
        raise UserError(
            f"model.tokenizer: {path} has {pieces} pieces, but {config.name} knows "
            f"{vocabulary.size}; its own is the file at {vocabulary.file.url}"
        )
    return tokenizer
