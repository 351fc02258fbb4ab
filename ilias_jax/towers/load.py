"""Builds a named model from its files: the table's row, the checkpoint and the tokenizer."""

import dataclasses
import hashlib
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters, Preprocessing, TextModel
from ilias_jax.towers.attention import Choice, check_choice
from ilias_jax.towers.bound import bind, matmul_precision, stored, text_function
from ilias_jax.towers.checkpoint import load_checkpoint, stored_grid
from ilias_jax.towers.choice import require_images
from ilias_jax.towers.files import ModelFiles, find_files, verified_origin
from ilias_jax.towers.groups import in_groups
from ilias_jax.towers.open_tokenizer import AnyTokenizer, open_tokenizer
from ilias_jax.towers.parameters import Towers
from ilias_jax.towers.text import TextConfig
from ilias_jax.towers.two_towers import TowersConfig
from ilias_jax.towers.variant import INCEPTION, Triple

_CHUNK = 1 << 24  # bytes read at a time for the hash


def sha256(path: epath.Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def tower_model(
    name: str,
    architecture: TowersConfig,
    parameters: Mapping[str, np.ndarray],
    tokenizer: AnyTokenizer | None,
    resolution: int,
    dtype: str,
    fingerprint: dict[str, object],
    max_scale: float = 1.0,
    attention: Choice = "auto",
    normalization: tuple[Triple, Triple] = INCEPTION,
) -> Model:
    """A `Model` from loaded parameters.

    Args:
        name: for the report.
        architecture: of the towers; there is an image tower.
        parameters: path -> array, as `load_checkpoint` gives them.
        tokenizer: None for an image tower alone.
        resolution: test size.
        dtype: of the computation, "float32" or "bfloat16".
        fingerprint: of the weights.
        max_scale: of the views that will be embedded.
        attention: which implementation; changes rounding alone.
        normalization: mean and standard deviation of each channel.
    """
    image, text = architecture.image, architecture.text
    assert image is not None
    preprocessing = Preprocessing(resolution, image.patch_size, *normalization, max_scale=max_scale)

    def embed_images(parameters: Parameters, pixels: jax.Array, grid: jax.Array) -> jax.Array:
        def embed(pixels: jax.Array, grid: jax.Array) -> jax.Array:
            towers = bind(architecture, dtype, parameters, attention)
            return towers.image(pixels, grid, preprocessing.max_side)

        with jax.default_matmul_precision(matmul_precision(dtype)):
            return in_groups(embed, pixels.astype(dtype), grid)

    return Model(
        name=name,
        parameters=stored(parameters, dtype),
        preprocessing=preprocessing,
        embed_images=embed_images,
        embed_texts=None if tokenizer is None else text_function(architecture, dtype, attention),
        tokenize=tokenizer,
        fingerprint={
            **fingerprint,
            "activation": image.style.activation,
            "dtype": dtype,
        },
        text_fingerprint={} if tokenizer is None or text is None else text_values(text, tokenizer),
    )


def text_values(text: TextConfig, tokenizer: AnyTokenizer) -> dict[str, object]:
    """What texts depend on beside the weights."""
    return {"text_activation": text.style.activation, "text_cleaning": tokenizer.cleaning}


def _load_parameters(
    files: ModelFiles, architecture: TowersConfig, towers: Towers
) -> dict[str, np.ndarray]:
    """The parameters of the towers that are asked for, from one file or from two."""
    if files.text_checkpoint in (None, files.checkpoint):
        return load_checkpoint(files.checkpoint, architecture, towers)
    parameters = load_checkpoint(files.checkpoint, architecture, "image")
    return parameters | load_checkpoint(files.text_checkpoint, architecture, "text")


def load_model(config: ModelConfig, max_scale: float = 1.0) -> Model:
    """Loads a named model.

    Args:
        config: of the model.
        max_scale: of the views that will be embedded.

    Raises:
        UserError: a file is missing, is not what was downloaded, or does not fit the model; see
            `find_files`, `load_checkpoint` and `check_choice`.
    """
    require_images(config)
    files = find_files(config)
    variant = files.variant
    architecture = variant.architecture_with(config.activation)
    assert architecture.image is not None  # `require_images` saw to it
    check_choice(config.attention, config.dtype, architecture.image.size.head_dim)
    if variant.open_grid:
        side = stored_grid(files.checkpoint, architecture)
        image = dataclasses.replace(architecture.image, native_grid=side)
        architecture = dataclasses.replace(architecture, image=image)
    tokenizer = None if files.tokenizer is None else open_tokenizer(files.tokenizer, config)
    digest = sha256(files.checkpoint)
    origins = {"checkpoint_origin": verified_origin(files.checkpoint, digest)}
    model = tower_model(
        config.name,
        architecture,
        _load_parameters(files, architecture, config.towers),
        tokenizer,
        config.resolution or variant.test_resolution,
        config.dtype,
        {"name": config.name, "sha256": digest},
        max_scale,
        config.attention,
        variant.normalization,
    )
    text = dict(model.text_fingerprint)
    if files.text_checkpoint not in (None, files.checkpoint):
        text["text_sha256"] = digest = sha256(files.text_checkpoint)
        origins["text_checkpoint_origin"] = verified_origin(files.text_checkpoint, digest)
    if files.tokenizer is not None:
        text["tokenizer_sha256"] = digest = sha256(files.tokenizer)
        origins["tokenizer_origin"] = verified_origin(files.tokenizer, digest)
    return dataclasses.replace(
        model,
        checkpoint=str(files.checkpoint),
        text_fingerprint=text,
        origin={key: str(origin) for key, origin in origins.items() if origin is not None},
    )


def load_text_model(config: ModelConfig) -> TextModel:
    """Loads the text tower of a named model, whose image tower may be of no kind known here.

    Args:
        config: of the model, with `towers="text"`.

    Raises:
        UserError: as `load_model`, or other towers are asked for.
    """
    if config.towers != "text":
        raise UserError(f"model.towers={config.towers!r}: a text tower alone is 'text'")
    files = find_files(config)
    towers = files.variant.architecture_with(config.activation)
    architecture = dataclasses.replace(towers, image=None, sigmoid_loss=False)
    assert architecture.text is not None and files.tokenizer is not None  # `find_files` saw to it
    check_choice(config.attention, config.dtype, architecture.text.size.head_dim)
    tokenizer = open_tokenizer(files.tokenizer, config)
    weights, vocabulary = sha256(files.checkpoint), sha256(files.tokenizer)
    origins = {
        "checkpoint_origin": verified_origin(files.checkpoint, weights),
        "tokenizer_origin": verified_origin(files.tokenizer, vocabulary),
    }
    parameters = load_checkpoint(files.checkpoint, architecture, "text")
    return TextModel(
        name=config.name,
        parameters=stored(parameters, config.dtype),
        embed_texts=text_function(architecture, config.dtype, config.attention),
        tokenize=tokenizer,
        fingerprint={
            "name": config.name,
            "sha256": weights,
            "tokenizer_sha256": vocabulary,
            **text_values(architecture.text, tokenizer),
            "dtype": config.dtype,
        },
        checkpoint=str(files.checkpoint),
        origin={key: str(origin) for key, origin in origins.items() if origin is not None},
    )
