"""A model by a function of the user's: `model.factory` names it, `model.factory_args` fill it."""

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.model import Model
from ilias_jax.models.contract import check_model, check_parts, own_code

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
        reference: as configured.
        function: what it names.
        arguments: by name.
        own_arguments: those of `model.factory_args`.
        max_scale: of the views that will be embedded.
        num_buckets: token lengths that images will be padded to.
    """

    reference: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    own_arguments: Mapping[str, Any]
    max_scale: float
    num_buckets: int

    def load(self) -> Model:
        """Calls the function and checks what it returns; compiles nothing of the model.

        Raises:
            UserError: the function raises, or returns something else than a `Model` that can be
                run and whose weights are identified.
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
    """Refuses a value that was set and would have no effect."""
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
    """Runs a file as a module of its own."""
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
