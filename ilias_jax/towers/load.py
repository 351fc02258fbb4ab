"""Builds a named model from its files: the table's row, the checkpoint and the tokenizer."""

import dataclasses
import functools
import hashlib
import pathlib

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx

from ilias_jax.config import ModelConfig, unknown_key
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters, Preprocessing
from ilias_jax.towers import big_vision
from ilias_jax.towers.siglip import Siglip, SiglipConfig
from ilias_jax.towers.tokenizer import Tokenizer
from ilias_jax.towers.variants import VARIANTS, Variant

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


def _bundled_folder() -> pathlib.Path:
    """The folder that holds the bundled models, in a checkout or an installed package."""
    installed = pathlib.Path(__file__).parents[1] / "data"
    return installed if installed.exists() else pathlib.Path(__file__).parents[2] / "data"


def _locate(configured: str, variant: Variant, official: str, key: str) -> epath.Path:
    """The configured file, or the bundled one."""
    if configured:
        return epath.Path(configured)
    if variant.bundled:
        return epath.Path(_bundled_folder() / official)
    raise UserError(f"{key} is empty; it should be a path of the file at {official}")


def find_files(config: ModelConfig) -> ModelFiles:
    """Finds a model's files without reading them.

    Raises:
        UserError: the model is unknown or a file is missing; all missing ones in one message, each
            with the command that brings it.
    """
    if config.name not in VARIANTS:
        raise UserError(
            unknown_key(config.name or "''", list(VARIANTS)).replace(
                "is no key of the config", "is no model (model.name)"
            )
        )
    variant = VARIANTS[config.name]
    files = ModelFiles(
        variant,
        _locate(config.checkpoint, variant, variant.checkpoint, "model.checkpoint"),
        _locate(config.tokenizer, variant, variant.tokenizer, "model.tokenizer"),
    )
    missing = [
        f"{key}: {path} does not exist. Get it: curl --create-dirs -Lo {path} {url}"
        for key, path, url in (
            ("model.checkpoint", files.checkpoint, variant.checkpoint),
            ("model.tokenizer", files.tokenizer, variant.tokenizer),
        )
        if not path.exists()
    ]
    if missing:
        raise UserError("\n".join(missing))
    return files


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
    parameters: dict[str, jax.Array],
    tokenizer: Tokenizer | None,
    resolution: int,
    dtype: str,
    fingerprint: dict[str, object],
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
    """
    preprocessing = Preprocessing(resolution, architecture.patch_size)
    precision = "highest" if dtype == "float32" else "default"

    def bind(parameters: Parameters) -> Siglip:
        """The module around these parameters; allocates nothing, also while being traced."""
        module = nnx.eval_shape(lambda: Siglip(architecture, nnx.Rngs(0), jnp.dtype(dtype)))
        state = nnx.state(module, nnx.Param)
        nnx.replace_by_pure_dict(state, _nested(parameters))
        nnx.update(module, state)
        return module

    def embed_images(parameters: Parameters, pixels: jax.Array, grid: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(precision):
            return bind(parameters).image(pixels.astype(dtype), grid, preprocessing.max_side)

    def embed_texts(parameters: Parameters, tokens: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(precision):
            return bind(parameters).text(tokens)

    return Model(
        name=name,
        parameters=parameters,
        preprocessing=preprocessing,
        embed_images=embed_images,
        embed_texts=None if tokenizer is None else embed_texts,
        tokenize=tokenizer,
        fingerprint={
            **fingerprint,
            "activation": architecture.activation,
            "dtype": dtype,
            "text_cleaning": None if tokenizer is None else tokenizer.cleaning,
        },
    )


def _nested(parameters: dict[str, jax.Array]) -> dict:
    """Paths joined by dots -> nested dictionaries."""
    tree: dict = {}
    for path, value in parameters.items():
        *parents, leaf = path.split(".")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[leaf] = value
    return tree


def load_model(config: ModelConfig) -> Model:
    """Loads a named model.

    Raises:
        UserError: see `find_files`, `big_vision.from_arrays` and `Tokenizer.from_file`.
    """
    files = find_files(config)
    variant = files.variant
    architecture = dataclasses.replace(variant.architecture, activation=config.activation)
    tokenizer = Tokenizer.from_file(
        files.tokenizer, architecture.text_length, variant.pad_id, config.text_cleaning
    )
    return siglip_model(
        config.name,
        architecture,
        big_vision.load(files.checkpoint, architecture),
        tokenizer,
        config.resolution or variant.test_resolution,
        config.dtype,
        {
            "name": config.name,
            "checkpoint": str(files.checkpoint),
            "sha256": sha256(files.checkpoint),
            "tokenizer_sha256": sha256(files.tokenizer),
        },
    )
