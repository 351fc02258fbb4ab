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

from ilias_jax import bundled as bundled_data
from ilias_jax.config import ModelConfig, unknown_key
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters, Preprocessing
from ilias_jax.towers import big_vision
from ilias_jax.towers.attention import Choice, check_choice
from ilias_jax.towers.siglip import Siglip, SiglipConfig
from ilias_jax.towers.tokenizer import Tokenizer
from ilias_jax.towers.variants import VARIANTS, Variant

_MATRICES = (".kernel", "text.embedding.embedding")
_CHUNK = 1 << 24  # bytes read at a time for the hash


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """Where a model's files are.

    Attributes:
        variant: the table's row.
        checkpoint: the weights.
        tokenizer: the SentencePiece model.
    """

    variant: Variant
    checkpoint: epath.Path
    tokenizer: epath.Path


def _locate(configured: str, official: str, bundled: bool) -> epath.Path | None:
    """The configured file, else the bundled one, else None."""
    if configured:
        return epath.Path(configured)
    return epath.Path(bundled_data.folder() / official) if bundled else None


def _remedy(key: str, path: epath.Path | None, official: str, bundled: bool) -> str:
    """The message for a file that is not there."""
    if bundled:
        return f"{key}: {path} does not exist. The bundled one is data/{official} of the checkout"
    problem = f"{key}: {path} does not exist" if path else f"{key} is empty, not the file's path"
    target = path or f"checkpoints/{official.rpartition('/')[2]}"
    return f"{problem}. Get it: curl --create-dirs -Lo {target} {official}"


def find_variant(name: str) -> Variant:
    """The table's row of a model.

    Raises:
        UserError: there is no such model.
    """
    if name not in VARIANTS:
        raise UserError(
            unknown_key(name or "''", list(VARIANTS)).replace(
                "is no key of the config", "is no model (model.name)"
            )
        )
    return VARIANTS[name]


def find_files(config: ModelConfig) -> ModelFiles:
    """Finds a model's files without reading them.

    Raises:
        UserError: the model is unknown or a file is missing; all missing ones in one message, each
            with the command that brings it.
    """
    variant = find_variant(config.name)
    paths, missing = [], []
    for key, configured, official in (
        ("model.checkpoint", config.checkpoint, variant.checkpoint),
        ("model.tokenizer", config.tokenizer, variant.tokenizer),
    ):
        path = _locate(configured, official, variant.bundled)
        if path is not None and path.exists():
            paths.append(path)
        else:
            missing.append(_remedy(key, path, official, variant.bundled))
    if missing:
        raise UserError("\n".join(missing))
    return ModelFiles(variant, *paths)


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
        parameters: path -> array, as `big_vision.load` gives them.
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
        with jax.default_matmul_precision(precision):
            return bind(parameters).image(pixels.astype(dtype), grid, preprocessing.max_side)

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
        text_fingerprint={} if tokenizer is None else {"text_cleaning": tokenizer.cleaning},
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


def load_model(config: ModelConfig, max_scale: float = 1.0) -> Model:
    """Loads a named model.

    Args:
        config: of the model.
        max_scale: of the views that will be embedded.

    Raises:
        UserError: the tokenizer has more pieces than the model knows; see also `find_files`,
            `check_choice`, `big_vision.load` and `Tokenizer.from_file`.
    """
    files = find_files(config)
    variant = files.variant
    image = variant.architecture.image
    check_choice(config.attention, config.dtype, image.width // image.num_heads)
    architecture = dataclasses.replace(variant.architecture, activation=config.activation)
    tokenizer = Tokenizer.from_file(
        files.tokenizer, architecture.text_length, variant.pad_id, config.text_cleaning
    )
    pieces = tokenizer.processor().get_piece_size()
    if pieces > architecture.vocab_size:
        raise UserError(
            f"model.tokenizer: {files.tokenizer} has {pieces} pieces, but {config.name} knows "
            f"{architecture.vocab_size}; its own is the file at {variant.tokenizer}"
        )
    model = siglip_model(
        config.name,
        architecture,
        big_vision.load(files.checkpoint, architecture),
        tokenizer,
        config.resolution or variant.test_resolution,
        config.dtype,
        {
            "name": config.name,
            "sha256": sha256(files.checkpoint),
        },
        max_scale,
        config.attention,
    )
    text = {**model.text_fingerprint, "tokenizer_sha256": sha256(files.tokenizer)}
    return dataclasses.replace(model, checkpoint=str(files.checkpoint), text_fingerprint=text)
