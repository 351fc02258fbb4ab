"""big_vision's own networks and checkpoints (github.com/google-research/big_vision) as a factory.

big_vision is no dependency: it must be on the Python path, with the packages that it needs. A
recipe's model section for a two-tower model:

    "model": {
        "factory": "ilias_jax.models.big_vision:build",
        "factory_args": {
            "network": "proj.image_text.two_towers",
            "config": {
                "image": {"variant": "B/16", "pool_type": "map"},
                "text": {"variant": "B", "vocab_size": 32_000},
                "out_dim": (None, 768),
                "bias_init": -10.0,
            },
        },
        "checkpoint": "webli_en_b16_384_68578854.npz",
        "tokenizer": "c4_en.sentencepiece.model",
        "resolution": 384,
    }

big_vision's networks take squares of one size, unlike the published protocol and the named models:
the image, resized as in the protocol, is padded with the mean colour to the whole square; and at
another resolution than the checkpoint's big_vision resamples the position embedding (bilinear,
corners aligned; the published runs: antialiased bicubic). The report shows the padding as the
model's `canvas`.
"""

import importlib
import pkgutil
import re
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from ilias_jax import model
from ilias_jax.config import unknown_key
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters, Preprocessing
from ilias_jax.models.custom import own_code
from ilias_jax.models.dual_encoder import matmul_precision
from ilias_jax.models.tokenizers import Cleaning, Tokenizer

TWO_TOWERS = "proj.image_text.two_towers"
_MODELS = "big_vision.models"
_WHERE = "git clone https://github.com/google-research/big_vision, then PYTHONPATH=big_vision"
Rgb = tuple[float, float, float]


def build(
    network: str,
    config: Mapping[str, Any],
    checkpoint: str,
    resolution: int,
    name: str = "",
    tokenizer: str = "",
    text_length: int = 64,
    pad_id: int = 1,
    text_cleaning: Cleaning = "canonicalize",
    dtype: str = "float32",
    mean: Rgb = (0.5, 0.5, 0.5),
    std: Rgb = (0.5, 0.5, 0.5),
    load: Mapping[str, Any] | None = None,
) -> Model:
    """Builds a model that runs big_vision's network.

    Args:
        network: module below `big_vision.models`: "vit", "bit", "proj.image_text.two_towers", ...;
            its call must give the image embedding [B, D] first.
        config: keyword arguments of its `Model`.
        checkpoint: a file as its `load` takes it, `FILE.npz` or `FILE.npz:img` for a part of it, or
            a name that big_vision knows.
        resolution: side of the square, R.
        name: for the report; by default the network's.
        tokenizer: SentencePiece model of a two-tower model; empty runs its image tower alone.
        text_length: L, tokens of a text.
        pad_id: fills texts up; 1 for SigLIP, 0 for SigLIP 2.
        text_cleaning: as `model.text_cleaning`.
        dtype: "float32" computes at full precision; "bfloat16" sets `dtype_mm` of the image tower,
            where `config` does not, and leaves the text tower as big_vision has it.
        mean: of the channels, for pixels in [0, 1]; the default gives big_vision's [-1, 1].
        std: of the channels.
        load: more keyword arguments of its `load`, such as {"dont_load": ("head/.*",)} to leave a
            classifier in the file.

    Raises:
        UserError: big_vision, a package that it needs, the network or a file is missing; the
            configuration is none of the network's; the checkpoint does not fit; or the tokenizer
            has more pieces than the text tower.
    """
    module = import_network(network)
    settings = _with_dtype(config, network, dtype)
    with own_code(f"big_vision's {network} cannot be built with config={dict(settings)}"):
        flax_module = module.Model(**settings)
        shapes = _parameter_shapes(flax_module, resolution, text_length, network == TWO_TOWERS)
    parameters = _load(module, network, checkpoint, settings, shapes, load or {})
    texts = _read_tokenizer(tokenizer, text_length, pad_id, text_cleaning, parameters)
    if texts is not None and network != TWO_TOWERS:
        raise UserError(
            f"model.tokenizer: big_vision's {network} has no text tower; {TWO_TOWERS} has"
        )
    values = {"text_cleaning": text_cleaning, "text_length": text_length, "pad_id": pad_id}

    def run(parameters: Parameters, *inputs: jax.Array | None) -> Any:
        with jax.default_matmul_precision(matmul_precision(dtype)):
            return flax_module.apply({"params": parameters}, *inputs)

    def embed_images(parameters: Parameters, pixels: jax.Array, grid: jax.Array) -> jax.Array:
        return run(parameters, model.to_images(pixels, grid, 1, resolution))[0].astype(jnp.float32)

    def embed_texts(parameters: Parameters, tokens: jax.Array) -> jax.Array:
        return run(parameters, None, tokens)[1].astype(jnp.float32)

    return Model(
        name=name or f"big_vision {network}",
        parameters=parameters,
        preprocessing=Preprocessing(resolution, resolution, mean, std),  # one patch, the square
        embed_images=embed_images,
        embed_texts=None if texts is None else embed_texts,
        tokenize=texts,
        fingerprint={
            "sha256": model.parameters_sha256(parameters),
            "network": f"{_MODELS}.{network}",
            "network_config": dict(settings),
            "dtype": dtype,
        },
        text_fingerprint=_with_digest(values, tokenizer),
        checkpoint=checkpoint,
    )


def _with_digest(fingerprint: Mapping[str, object], tokenizer: str) -> dict[str, object]:
    if not tokenizer:
        return {}
    return {**fingerprint, "tokenizer_sha256": model.file_sha256(tokenizer)}


def import_network(network: str) -> types.ModuleType:
    """Imports `big_vision.models.NETWORK`, or raises UserError if anything is missing."""
    full = f"{_MODELS}.{network}"
    with own_code(f"importing {full} raised an exception"):
        try:
            return importlib.import_module(full)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing in ("big_vision", _MODELS):
                raise UserError(f"big_vision is not on the Python path: {_WHERE}") from error
            if f"{full}.".startswith(f"{missing}."):
                message = unknown_key(network, _networks())
                message = message.replace("key of the config", "network of big_vision")
                raise UserError(message) from error
            raise UserError(
                f"big_vision needs {missing}, which is not installed. Its requirements.txt lists "
                "what it needs; its models use tensorflow (tensorflow-cpu will do), einops, scipy"
            ) from error


def _networks() -> list[str]:
    folders = importlib.import_module(_MODELS).__path__
    return [one.name for one in pkgutil.iter_modules(folders) if not one.ispkg] + [TWO_TOWERS]


def _with_dtype(config: Mapping[str, Any], network: str, dtype: str) -> dict[str, Any]:
    if dtype == "float32":
        return dict(config)
    if network == TWO_TOWERS:
        return {**config, "image": {"dtype_mm": dtype, **config.get("image", {})}}
    return {"dtype_mm": dtype, **config}


def _parameter_shapes(module: Any, resolution: int, text_length: int, has_texts: bool) -> Any:
    inputs = [jax.ShapeDtypeStruct((1, resolution, resolution, 3), np.float32)]
    if has_texts:
        inputs.append(jax.ShapeDtypeStruct((1, text_length), np.int32))
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def _load(
    module: types.ModuleType,
    network: str,
    checkpoint: str,
    config: Mapping[str, Any],
    shapes: Any,
    options: Mapping[str, Any],
) -> Parameters:
    """Loads a checkpoint by the network's own `load` and compares it with the network's shapes."""
    file = re.sub(r"(\.npz):[\w/]+$", r"\1", checkpoint)
    known = checkpoint in getattr(module, "VANITY_NAMES", {})
    if not known and not epath.Path(file).exists():
        raise UserError(
            f"model.checkpoint: {file} does not exist, and big_vision knows no such name"
        )
    # Its loader wants a slash in a path.
    path = checkpoint if known or "/" in checkpoint else f"./{checkpoint}"
    with own_code(f"model.checkpoint: {checkpoint} does not fit big_vision's {network}"):
        loaded = module.load(shapes, path, ml_collections.ConfigDict(config), **options)
    found, problems = _named(loaded), []
    for key, shape in _named(shapes).items():
        if not isinstance(found[key], np.ndarray | jax.Array):
            problems.append(f"{key} is not loaded and would stay random")
        elif found[key].shape != shape.shape:
            problems.append(f"{key} is {found[key].shape}, expected {shape.shape}")
    if problems:
        lines = "\n  ".join(problems)
        raise UserError(f"model.checkpoint: {checkpoint} does not fit {network}:\n  {lines}")
    return loaded


def _named(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _read_tokenizer(
    path: str, length: int, pad_id: int, cleaning: Cleaning, parameters: Parameters
) -> Tokenizer | None:
    """The tokenizer, if any; the text tower must know all of its tokens."""
    if not path:
        return None
    tokenizer = Tokenizer.from_file(path, length, pad_id, cleaning)
    pieces = tokenizer.processor().get_piece_size()
    table = parameters.get("txt", {}).get("Embed_0", {}).get("embedding")
    if table is not None and pieces > len(table):
        raise UserError(
            f"model.tokenizer: {path} has {pieces} pieces and the text tower knows {len(table)}; "
            "it is another model's"
        )
    return tokenizer
