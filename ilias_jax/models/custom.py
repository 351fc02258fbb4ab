"""A model by a function of the user's: `model.factory` names it, `model.factory_args` fill it.

What the function returns is checked by its shapes alone, before anything is compiled.
"""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import json
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters, Preprocessing
from ilias_jax.preprocessing.batching import bucket_shapes

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
_OWN_KEYS = ("factory", "factory_args")
# What these decide is in the weights' hash or in the preprocessing, or it is no more than a name.
_FILES = ("checkpoint", "text_checkpoint", "tokenizer")
_NOT_IN_FINGERPRINT = (*_FILES, "name", "resolution", "max_scale")
_TEXT_ONLY = ("text_cleaning",)
# What fingerprints, by which embeddings are cached, call a module; its path may be another.
_FORMER_NAMES = {"ilias_jax.models.big_vision": "ilias_jax.plugins.big_vision"}


@dataclasses.dataclass(frozen=True)
class Factory:
    """The user's function and what it will be called with.

    Attributes:
        reference: as configured; it names `function`.
        arguments: by name; `own_arguments` are those of `model.factory_args`.
        max_scale: of the views that will be embedded.
        num_buckets: token lengths or canvases that images will be padded to.
    """

    reference: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    own_arguments: Mapping[str, Any]
    max_scale: float
    num_buckets: int

    def load(self) -> Model:
        """Calls the function and checks what it returns; compiles nothing of the model.

        Raises UserError if the function raises, or returns something else than a `Model` that can
        be run and whose weights are identified.
        """
        factory = f"model.factory={self.reference}"
        with own_code(f"{factory} raised an exception"):
            model = self.function(**self.arguments)
        check_parts(model, factory)
        model = self._with_arguments(model)
        check_model(model, factory, self.num_buckets, self.max_scale)
        return model

    def _with_arguments(self, model: Model) -> Model:
        """The model with the call in its fingerprints: another call, other embeddings.

        Paths are left out, because a moved file changes nothing; the weights' hash stands for them.
        """
        where, _, function = self.reference.rpartition(":")
        module = pathlib.Path(where).stem if where.endswith(".py") else where
        left_out = {*_NOT_IN_FINGERPRINT, *self.own_arguments, *_TEXT_ONLY}
        images = {key: value for key, value in self.arguments.items() if key not in left_out}
        texts = {key: value for key, value in self.arguments.items() if key in _TEXT_ONLY}
        called = {
            "factory": f"{_FORMER_NAMES.get(module, module)}:{function}",
            "factory_args": dict(self.own_arguments),
        }
        return dataclasses.replace(
            model,
            fingerprint={**images, **model.fingerprint, **called},
            text_fingerprint={**texts, **model.text_fingerprint},
        )


def resolve_factory(config: ModelConfig, max_scale: float = 1.0, num_buckets: int = 1) -> Factory:
    """Finds the user's function and what it will be called with; does not call it.

    It gets `model.factory_args` by name and, of the model section's other values and `max_scale`,
    those that it has a parameter for; empty ones are left out, so that its defaults hold.

    Raises:
        UserError: the function cannot be found; the arguments do not fit its signature; or a value
            that the configuration sets has no parameter that takes it.
    """
    function = find_factory(config.factory)
    values = {key: value for key, value in vars(config).items() if key not in _OWN_KEYS}
    own, settings = config.factory_args, {**values, "max_scale": max_scale}
    for key in own.keys() & settings.keys():
        other = "views.scales" if key == "max_scale" else f"model.{key}"
        raise UserError(f"model.factory_args.{key} is given by {other}; set it there")
    signature = _signature(function, config.factory)
    _check_unused(config, signature)
    asked = {key: value for key, value in settings.items() if value and _takes(signature, key)}
    arguments = {**asked, **own}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"model.factory={config.factory}: {error}. It is called with "
            f"{', '.join(arguments) or 'nothing'} and takes {signature}. Any argument can be given "
            f"by model.factory_args, but {', '.join(settings)} are taken from the configuration "
            "where the function has a parameter of that name and they are not empty"
        ) from error
    return Factory(config.factory, function, arguments, own, max_scale, num_buckets)


def _signature(function: Callable[..., Any], reference: str) -> inspect.Signature:
    """The signature without annotations, which would make messages long."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        message = f"model.factory={reference} has no signature to be read ({error})"
        raise UserError(message) from error
    return inspect.Signature([one.replace(annotation=one.empty) for one in parameters])


def _takes(signature: inspect.Signature, name: str) -> bool:
    """Whether there is a parameter of this name, other than what **kwargs would take."""
    parameter = signature.parameters.get(name)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return parameter is not None and parameter.kind in by_name


def _check_unused(config: ModelConfig, signature: inspect.Signature) -> None:
    for field in dataclasses.fields(ModelConfig):
        value, takes = getattr(config, field.name), _takes(signature, field.name)
        if takes or field.name in (*_OWN_KEYS, "name") or value == field.default:
            continue
        raise UserError(
            f"model.{field.name}={value!r} would have no effect: {config.factory} takes {signature}"
            f", without {field.name}"
        )


def find_factory(reference: str) -> Callable[..., Any]:
    """Imports the function that a reference names.

    Args:
        reference: "package.module:function", or "folder/file.py:function" for a file that is on no
            Python path.

    Raises:
        UserError: it is neither of the two, or there is no such module, file or function; or
            importing it raised an exception.
    """
    where, _, name = reference.rpartition(":")
    if not where or not name.isidentifier():
        raise UserError(
            f"model.factory={reference!r} must be package.module:function or "
            "folder/file.py:function"
        )
    module = _import_file(where) if where.endswith(".py") else _import_module(where)
    function = getattr(module, name, None)
    if not callable(function):
        found = "is no function" if hasattr(module, name) else "does not exist"
        raise UserError(f"model.factory: {name} {found} in {where}{_suggest(name, module)}")
    return function


def _suggest(name: str, module: types.ModuleType) -> str:
    own = [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    close = difflib.get_close_matches(name, own, n=1)
    hint = f"; did you mean {close[0]}?" if close else ";"
    return f"{hint} Its functions: {', '.join(sorted(own)) or 'none'}"


def _import_module(name: str) -> types.ModuleType:
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise UserError(f"model.factory: {name!r} is neither a module's dotted name nor a .py file")
    with own_code(f"model.factory: importing {name} raised an exception"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and one that it imports is not
            raise UserError(
                f"model.factory: there is no module {error.name} on the Python path; install it, "
                "start with PYTHONPATH=FOLDER, or name the file: folder/file.py:function"
            ) from error


def _import_file(where: str) -> types.ModuleType:
    path = pathlib.Path(where)
    if not path.is_file():
        raise UserError(
            f"model.factory: there is no file {where} (from {pathlib.Path.cwd()}); "
            "write folder/file.py:function"
        )
    name = f"model_factory_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    hint = f"modules beside it are found with PYTHONPATH={path.parent}"
    with own_code(f"model.factory: running {where} raised an exception ({hint})"):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def own_code(what: str) -> Iterator[None]:
    """Runs code that is not ours and makes its exceptions a UserError.

    The message begins with `what` was done with the code, and ends with the traceback from the
    first line that is neither ours nor JAX's. A `UserError` of the code passes as it is.
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

    Raises UserError with all that is wrong, and what a model needs.
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
    if preprocessing.whole and preprocessing.patch_size != 1:
        yield f"preprocessing.patch_size is {preprocessing.patch_size}, not 1, with whole=True"
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
    """Follows the shapes of both towers through a model with proper parts; compiles nothing.

    That no row of a batch depends on another cannot be seen from shapes and is not checked. The
    other arguments are those of `Factory`.

    Raises:
        UserError: a function raises, or gives another shape or dtype than a `Model` must.
    """
    shapes = bucket_shapes(model.preprocessing, num_buckets, max_scale)
    dims = []
    for shape in dict.fromkeys((shapes[0], shapes[-1])):
        channels = model.preprocessing.patch_size**2 * 3
        pixels = jax.ShapeDtypeStruct((_BATCH, *shape, channels), np.float32)
        grid = jax.ShapeDtypeStruct((_BATCH, 2), np.int32)
        what = f"{factory}: embed_images(parameters, {_show(pixels)}, {_show(grid)})"
        dims.append(_embedding_dim(what, model.embed_images, model.parameters, pixels, grid))
    if len(set(dims)) > 1:
        unit = "pixels" if model.preprocessing.whole else "tokens"
        raise UserError(
            f"{factory}: embed_images gives {dims[0]} channels for {_by(shapes[0])} {unit} and "
            f"{dims[-1]} for {_by(shapes[-1])}; D must not depend on the image's size"
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


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _tokens(model: Model, factory: str) -> jax.ShapeDtypeStruct:
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
