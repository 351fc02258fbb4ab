"""Builds models: from parameters, and from the files that `registry.resolve` found."""

import functools
from collections.abc import Mapping
from typing import cast

import jax
import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters
from ilias_jax.models import dual_encoder
from ilias_jax.models.attention import Choice, in_microbatches
from ilias_jax.models.checkpoints.flax_names import from_big_vision, from_scenic
from ilias_jax.models.checkpoints.formats import read_arrays
from ilias_jax.models.checkpoints.torch_names import from_torch
from ilias_jax.models.custom import Factory
from ilias_jax.models.dual_encoder import DualEncoderConfig, TextConfig, Towers, text_function
from ilias_jax.models.hub import verified_origin
from ilias_jax.models.registry.entry import INCEPTION, ResolvedModel, Triple, preprocessing_of
from ilias_jax.models.tokenizers import AnyTokenizer, ClipTokenizer, Tokenizer
from ilias_jax.models.vit import ImageTower

_READERS = {"npz": from_big_vision, "msgpack": from_scenic}
_FEWER_PIECES = 1000  # than a tower knows: its vocabulary may be rounded up, another is far off


def load_model(resolved: ResolvedModel | Factory) -> Model:
    """Loads a model whose images will be embedded.

    Raises UserError if a file is not what was downloaded, cannot be read or does not fit the model;
    see `load_checkpoint`, `open_tokenizer` and, for a user's own model, `Factory.load`.
    """
    if isinstance(resolved, Factory):
        return resolved.load()
    preprocessing = resolved.preprocessing
    tokenizer = None if resolved.tokenizer is None else open_tokenizer(resolved)
    origin = _origins(resolved)  # a changed file is refused before it is read
    digests = resolved.digests
    names = {"text_checkpoint": "text_sha256", "tokenizer": "tokenizer_sha256"}
    fingerprint = {name: digests[key] for key, name in names.items() if key in digests}
    return tower_model(
        resolved.name,
        resolved.architecture,
        _load_parameters(resolved),
        tokenizer,
        preprocessing.resolution,
        resolved.dtype,
        {"name": resolved.name, "sha256": digests["checkpoint"]},
        preprocessing.max_scale,
        resolved.attention,
        resolved.variant.normalization,
        text_fingerprint=fingerprint,
        checkpoint=str(resolved.checkpoint),
        origin=origin,
    )


def tower_model(
    name: str,
    architecture: DualEncoderConfig,
    parameters: Mapping[str, np.ndarray],
    tokenizer: AnyTokenizer | None,
    resolution: int,
    dtype: str,
    fingerprint: Mapping[str, object],
    max_scale: float = 1.0,
    attention: Choice = "auto",
    normalization: tuple[Triple, Triple] = INCEPTION,
    *,
    text_fingerprint: Mapping[str, object] | None = None,
    checkpoint: str | None = None,
    origin: Mapping[str, str] | None = None,
) -> Model:
    """A `Model` from loaded parameters, path -> array, as `load_checkpoint` gives them.

    Arguments are the attributes of `Model` and `Preprocessing`, but `tokenizer` is None for an
    image tower alone, `dtype` ("float32" or "bfloat16") is that of the computation, `attention`
    changes rounding alone, `fingerprint` is that of the weights, and `normalization` is mean and
    standard deviation of each channel.
    """
    image, text = architecture.image, architecture.text
    assert image is not None
    preprocessing = preprocessing_of(image, resolution, normalization, max_scale)

    def embed_images(
        parameters: Parameters, pixels: jax.Array, grid: jax.Array, patches: bool = False
    ) -> jax.Array:
        def embed(pixels: jax.Array, grid: jax.Array) -> jax.Array:
            tower = bind(prepared=prepared).image
            function = cast(ImageTower, tower).patch_tokens if patches else tower
            return function(pixels, grid, preprocessing.max_side)

        bind = functools.partial(dual_encoder.bind, architecture, dtype, parameters, attention)
        with jax.default_matmul_precision(dual_encoder.matmul_precision(dtype)):
            prepared = dual_encoder.prepare(bind()) if image.whole else ()
            return in_microbatches(embed, pixels.astype(dtype), grid)

    texts = {} if tokenizer is None or text is None else _text_values(text, tokenizer)
    return Model(
        name=name,
        parameters=dual_encoder.stored(parameters, dtype),
        preprocessing=preprocessing,
        embed_images=embed_images,
        embed_texts=None if tokenizer is None else text_function(architecture, dtype, attention),
        tokenize=tokenizer,
        fingerprint={**fingerprint, "activation": image.activation, "dtype": dtype},
        text_fingerprint={**texts, **(text_fingerprint or {})},
        checkpoint=checkpoint,
        origin=origin or {},
        embed_patches=None if image.whole else functools.partial(embed_images, patches=True),
    )


def _text_values(text: TextConfig, tokenizer: AnyTokenizer) -> dict[str, object]:
    return {"text_activation": text.activation, "text_cleaning": tokenizer.cleaning}


def _origins(resolved: ResolvedModel) -> dict[str, str]:
    """Where downloaded files came from; raises UserError if one is not what was downloaded."""
    found = {
        f"{key}_origin": verified_origin(path, resolved.digests[key])
        for key, path in resolved.files.items()
    }
    return {key: str(origin) for key, origin in found.items() if origin is not None}


def _load_parameters(resolved: ResolvedModel) -> dict[str, np.ndarray]:
    architecture = resolved.architecture
    if resolved.text_checkpoint is None:
        return load_checkpoint(resolved.checkpoint, architecture, architecture.towers)
    parameters = load_checkpoint(resolved.checkpoint, architecture, "image")
    return parameters | load_checkpoint(resolved.text_checkpoint, architecture, "text")


def load_checkpoint(
    path: epath.PathLike, config: DualEncoderConfig, towers: Towers = "both"
) -> dict[str, np.ndarray]:
    """Reads a checkpoint of any format into our parameters; its bytes and its names tell which.

    Args:
        path: of an npz of big_vision, a safetensors or PyTorch file in the names of timm, open_clip
            or the model's authors, or a msgpack of Scenic.
        config: the architecture that the checkpoint must have.
        towers: "image" or "text" to take one tower alone, whatever else is there.

    Returns:
        Path of our parameter -> float32 array of our shape.

    Raises:
        UserError: the file is of no format that is read, is damaged, lacks a tower that is asked
            for, or does not fit the model.
    """
    found = read_arrays(path)
    return _READERS.get(found.format, from_torch)(found.arrays, config, str(path), towers)


def open_tokenizer(resolved: ResolvedModel) -> AnyTokenizer:
    """Reads a model's tokenizer.

    Raises:
        UserError: it cannot be read, or is of another vocabulary than the model's.
    """
    vocabulary, text, path = (
        resolved.variant.vocabulary,
        resolved.architecture.text,
        resolved.tokenizer,
    )
    assert vocabulary is not None and text is not None and path is not None
    if vocabulary.kind == "clip":
        return ClipTokenizer.from_file(path, text.length)
    tokenizer = Tokenizer.from_file(
        path, text.length, vocabulary.pad_id, resolved.text_cleaning, vocabulary.size
    )
    pieces = tokenizer.processor().get_piece_size()
    most = vocabulary.size + vocabulary.extra_pieces
    if not vocabulary.size - _FEWER_PIECES <= pieces <= most:
        raise UserError(
            f"model.tokenizer: {path} has {pieces} pieces, but {resolved.name} knows "
            f"{vocabulary.size}; its own is the file at {vocabulary.file.url}"
        )
    return tokenizer
