"""A SentencePiece model of a few pieces, trained in well under a second."""

import functools
import io

import sentencepiece

TEXT = "a photo of the red mug blue teapot green lamp with white stripes on an old oak table"
UNKNOWN_ID = 2


@functools.cache
def train(vocab_size: int = 60, eos_id: int = 1) -> bytes:
    """The contents of a model file: pad 0, EOS 1 and unknown 2, as SigLIP's tokenizer has them."""
    model = io.BytesIO()
    words = TEXT.split()
    sentences = [" ".join(words[i:] + words[:i]) for i in range(len(words))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=eos_id,
        unk_id=UNKNOWN_ID if eos_id != UNKNOWN_ID else 1,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
