"""Checks of a user's own model, by shapes alone and before anything is compiled."""

import contextlib
import json
import pathlib
import re
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters, Preprocessing
from ilias_jax.preprocessing.batching import bucket_lengths

_BATCH = 2  # images of the batch whose shapes are followed; one alone would hide a lost axis
_PROBE = ("a red mug", "a small red mug with a blue handle")
NEEDS = """A Model has:
  parameters      a pytree of arrays, all weights; none that a function closes over
  preprocessing   Preprocessing(resolution, patch_size, mean, std)
  embed_images    (parameters, pixels [B, T, patch x patch x 3] float32, grid [B, 2] int32)
                  -> [B, D] float32; traced by jax.jit, and no row may depend on another
  embed_texts     (parameters, tokens [B, L] int32) -> [B, D] float32; None without text tower
  tokenize        texts -> [N, L] int32; None without text tower
  fingerprint     {"sha256": model.parameters_sha256(parameters) or model.file_sha256(path)} and,
                  as plain data, whatever else changes an embedding; both are of ilias_jax.model"""
_NOT_THEIRS = (
    *(str(pathlib.Path(file).parent) for file in (jax.__file__, __file__)),
    *(contextlib.__file__, "<frozen importlib"),
)


@contextlib.contextmanager
def own_code(what: str) -> Iterator[None]:
    """Runs code that is not ours.

    Args:
        what: begins the message: what was done with the code, and where that is configured.

    Raises:
        UserError: the code raised an exception. The message ends with its traceback, from the first
            line that is neither ours nor JAX's; a `UserError` of the code passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever their code raises; it is shown whole
        lines = traceback.format_exception(type(error), error, _from_their_code(error))
        raise UserError(f"{what}:\n{''.join(lines).rstrip()}") from error


def _from_their_code(error: Exception) -> types.TracebackType | None:
    """The traceback without the frames that lead to their code; whole if it never got there."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_NOT_THEIRS):
        step = step.tb_next
    return step or error.__traceback__


def check_parts(model: object, factory: str) -> None:
    """Checks what a factory returned, as far as it can be seen without calling anything.

    Raises:
        UserError: all that is wrong, and what a model needs; `factory` begins the message.
    """
    if not isinstance(model, Model):
        raise UserError(f"{factory} returned {type(model).__name__}, not a Model. {NEEDS}")
    problems = [
        *_fingerprint_problems(model),
        *_preprocessing_problems(model.preprocessing),
        *_parameter_problems(model.parameters),
    ]
    if not callable(model.embed_images):
        problems.append(f"embed_images is {model.embed_images!r}, not a function")
    if (model.embed_texts is None) != (model.tokenize is None):
        problems.append("embed_texts and tokenize belong together: give both, or None for both")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{factory} returned a Model that cannot be run:\n{lines}\n{NEEDS}")


def _fingerprint_problems(model: Model) -> Iterator[str]:
    for name in ("fingerprint", "text_fingerprint"):
        value = getattr(model, name)
        if not isinstance(value, Mapping):
            yield f"{name} is {type(value).__name__}, not a dict"
            continue
        try:
            json.dumps(dict(value), allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"{name} is not plain data ({error})"
    if not isinstance(model.fingerprint, Mapping):
        return
    found = model.fingerprint.get("sha256")
    if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{64}", found):
        yield (
            f'fingerprint["sha256"] is {found!r}, not 64 hexadecimal digits: it must identify the '
            "weights, or another model's embeddings could be taken for this one's"
        )


def _preprocessing_problems(preprocessing: object) -> Iterator[str]:
    if not isinstance(preprocessing, Preprocessing):
        yield f"preprocessing is {type(preprocessing).__name__}, not a Preprocessing"
        return
    for name in ("resolution", "patch_size"):
        value = getattr(preprocessing, name)
        if not isinstance(value, int) or value < 1:
            yield f"preprocessing.{name} is {value!r}, not a number of pixels"
    mean, std = preprocessing.mean, preprocessing.std
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        yield f"preprocessing: mean={mean}, std={std} must be 3 values each, std > 0"
    if preprocessing.max_scale < 1:
        yield f"preprocessing.max_scale is {preprocessing.max_scale}, not at least 1"


def _parameter_problems(parameters: Parameters) -> Iterator[str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(parameters)
    for path, leaf in leaves:
        name = f"parameters{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, np.ndarray | jax.Array):
            yield f"{name} is {type(leaf).__name__}, not an array"
        elif jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf)).all():
            yield f"{name} holds NaN or infinity"


def check_model(model: Model, factory: str, num_buckets: int, max_scale: float) -> None:
    """Follows the shapes of both towers through the model; compiles nothing.

    That no row of a batch depends on another cannot be seen from shapes and is not checked.

    Args:
        model: whose parts are in order, see `check_parts`.
        factory: begins the message.
        num_buckets: token lengths that images will be padded to.
        max_scale: of the views that will be embedded.

    Raises:
        UserError: a function raises, or gives another shape or dtype than a `Model` must.
    """
    lengths = bucket_lengths(model.preprocessing, num_buckets, max_scale)
    dims = []
    for length in sorted({lengths[0], lengths[-1]}):
        channels = model.preprocessing.patch_size**2 * 3
        pixels = jax.ShapeDtypeStruct((_BATCH, length, channels), np.float32)
        grid = jax.ShapeDtypeStruct((_BATCH, 2), np.int32)
        what = f"{factory}: embed_images(parameters, {_show(pixels)}, {_show(grid)})"
        dims.append(_embedding_dim(what, model.embed_images, model.parameters, pixels, grid))
    if len(set(dims)) > 1:
        raise UserError(
            f"{factory}: embed_images gives {dims[0]} channels for {lengths[0]} tokens and "
            f"{dims[-1]} for {lengths[-1]}; D must not depend on the image's size"
        )
    if model.embed_texts is None:
        return
    tokens = _tokens(model, factory)
    what = f"{factory}: embed_texts(parameters, {_show(tokens)})"
    dim = _embedding_dim(what, model.embed_texts, model.parameters, tokens)
    if dim != dims[0]:
        raise UserError(
            f"{what} gives {dim} channels, and embed_images {dims[0]}; texts are searched among "
            "images, so both must give the same"
        )


def _tokens(model: Model, factory: str) -> jax.ShapeDtypeStruct:
    """Shape of two tokenized texts."""
    assert model.tokenize is not None
    with own_code(f"{factory}: tokenize({list(_PROBE)}) raised an exception"):
        tokens = model.tokenize(list(_PROBE))
    found = _show(tokens) if hasattr(tokens, "dtype") else type(tokens).__name__
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 2 or len(tokens) != len(_PROBE):
        raise UserError(
            f"{factory}: tokenize of {len(_PROBE)} texts gives {found}, not [2, L] int32"
        )
    if tokens.dtype != np.int32:
        raise UserError(f"{factory}: tokenize gives {found}; the token ids must be int32")
    return jax.ShapeDtypeStruct(tokens.shape, tokens.dtype)


def _embedding_dim(
    what: str, function: Callable[..., Any], parameters: Parameters, *arrays: jax.ShapeDtypeStruct
) -> int:
    """D of what a tower gives for a batch."""
    with own_code(f"{what} raised an exception while jax.jit would trace it"):
        out = jax.eval_shape(function, parameters, *arrays)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise UserError(f"{what} gives {type(out).__name__}, not one array [{_BATCH}, D] float32")
    if len(out.shape) != 2 or out.shape[0] != _BATCH or out.shape[1] < 1:
        raise UserError(
            f"{what} gives {_show(out)}, not [{_BATCH}, D]: one embedding an image or text"
        )
    if out.dtype != np.float32:
        raise UserError(f"{what} gives {_show(out)}; end it with .astype(jnp.float32)")
    return out.shape[1]


def _show(array: Any) -> str:
    return f"[{', '.join(map(str, array.shape))}] {array.dtype}"
