"""Builds a named model from its files: the table's row, the checkpoint and the tokenizer."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters, Preprocessing
from ilias_jax.towers.attention import Choice, check_choice
from ilias_jax.towers.checkpoint import load_checkpoint
from ilias_jax.towers.files import find_files, find_variant, verified_origin
from ilias_jax.towers.groups import in_groups
from ilias_jax.towers.siglip import Siglip, SiglipConfig
from ilias_jax.towers.tokenizer import Tokenizer

_MATRICES = (".kernel", "text.embedding.embedding")
_CHUNK = 1 << 24  # bytes read at a time for the hash
_FEWER_PIECES = 1000  # than a tower knows: its vocabulary may be rounded up, another is far off


def sha256(path: epath.Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def siglip_model(
    name: str,
    architecture: SiglipConfig,
    parameters: Mapping[str, np.ndarray],
    tokenizer: Tokenizer | None,
    resolution: int,
    dtype: str,
    fingerprint: dict[str, object],
    max_scale: float = 1.0,
    attention: Choice = "auto",
) -> Model:
    """A `Model` from loaded parameters.

    Args:
        name: for the report.
        architecture: sizes of both towers, and the activation.
        parameters: path -> array, as `load_checkpoint` gives them.
        tokenizer: None for an image tower alone.
        resolution: test size.
        dtype: of the computation, "float32" or "bfloat16".
        fingerprint: of the weights.
        max_scale: of the views that will be embedded.
        attention: which implementation; changes rounding alone.
    """
    preprocessing = Preprocessing(resolution, architecture.patch_size, max_scale=max_scale)
    precision = "highest" if dtype == "float32" else "default"

    def bind(parameters: Parameters) -> Siglip:
        """The module around these parameters; allocates nothing, also while being traced."""
        module = nnx.eval_shape(lambda: Siglip(architecture, nnx.Rngs(0), jnp.dtype(dtype)))
        state = nnx.state(module, nnx.Param)
        nnx.replace_by_pure_dict(state, _nested(parameters))
        nnx.update(module, state)
        module.set_attributes(choice=attention)
        return module

    def embed_images(parameters: Parameters, pixels: jax.Array, grid: jax.Array) -> jax.Array:
        def embed(pixels: jax.Array, grid: jax.Array) -> jax.Array:
            return bind(parameters).image(pixels, grid, preprocessing.max_side)

        with jax.default_matmul_precision(precision):
            return in_groups(embed, pixels.astype(dtype), grid)

    def embed_texts(parameters: Parameters, tokens: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(precision):
            return bind(parameters).text(tokens)

    return Model(
        name=name,
        parameters=_stored(parameters, dtype),
        preprocessing=preprocessing,
        embed_images=embed_images,
        embed_texts=None if tokenizer is None else embed_texts,
        tokenize=tokenizer,
        fingerprint={
            **fingerprint,
            "activation": architecture.activation,
            "dtype": dtype,
        },
        text_fingerprint={}
        if tokenizer is None
        else {
            "text_activation": architecture.text_activation or architecture.activation,
            "text_cleaning": tokenizer.cleaning,
        },
    )


def _stored(parameters: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Matrices in the dtype that they are multiplied in: half the memory, and the same result.

    Norms, biases, positions and the probe are small, and partly added in float32.
    """
    return {
        path: value.astype(dtype) if path.endswith(_MATRICES) else value
        for path, value in parameters.items()
    }


def _nested(parameters: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Paths joined by dots -> nested dictionaries."""
    tree: dict[str, Any] = {}
    for path, value in parameters.items():
        *parents, leaf = path.split(".")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[leaf] = value
    return tree


def _open_tokenizer(path: epath.Path, config: ModelConfig) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        UserError: it cannot be read, or is of another vocabulary than the model's.
    """
    variant = find_variant(config.name)
    vocabulary = variant.vocabulary
    tokenizer = Tokenizer.from_file(
        path,
        variant.architecture.text_length,
        vocabulary.pad_id,
        config.text_cleaning,
        vocabulary.size,
    )
    pieces = tokenizer.processor().get_piece_size()
    most = vocabulary.size + vocabulary.extra_pieces
    if not vocabulary.size - _FEWER_PIECES <= pieces <= most:
        raise UserError(
            f"model.tokenizer: {path} has {pieces} pieces, but {config.name} knows "
            f"{vocabulary.size}; its own is the file at {vocabulary.file.url}"
        )
    return tokenizer


def load_model(config: ModelConfig, max_scale: float = 1.0) -> Model:
    """Loads a named model.

    Args:
        config: of the model.
        max_scale: of the views that will be embedded.

    Raises:
        UserError: a file is missing, is not what was downloaded, or does not fit the model; see
            `find_files`, `load_checkpoint` and `check_choice`.
    """
    files = find_files(config)
    variant = files.variant
    image = variant.architecture.image
    check_choice(config.attention, config.dtype, image.width // image.num_heads)
    architecture = variant.architecture_with(config.activation)
    tokenizer = None if files.tokenizer is None else _open_tokenizer(files.tokenizer, config)
    digest = sha256(files.checkpoint)
    origins = {"checkpoint_origin": verified_origin(files.checkpoint, digest)}
    model = siglip_model(
        config.name,
        architecture,
        load_checkpoint(files.checkpoint, architecture, config.towers),
        tokenizer,
        config.resolution or variant.test_resolution,
        config.dtype,
        {"name": config.name, "sha256": digest},
        max_scale,
        config.attention,
    )
    text = dict(model.text_fingerprint)
    if files.tokenizer is not None:
        text["tokenizer_sha256"] = digest = sha256(files.tokenizer)
        origins["tokenizer_origin"] = verified_origin(files.tokenizer, digest)
    return dataclasses.replace(
        model,
        checkpoint=str(files.checkpoint),
        text_fingerprint=text,
        origin={key: str(origin) for key, origin in origins.items() if origin is not None},
    )
