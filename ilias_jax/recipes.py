"""Recipes on the command line: `--config FILE[:ARGUMENT] --config.KEY=VALUE`, for every command.

`main.py` and the subcommands that take a recipe read it here, so that a misspelt key is refused
in the same words everywhere.
"""

import dataclasses
import runpy
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from ilias_jax.config import BenchmarkConfig, parse, unknown_key
from ilias_jax.errors import UserError

_EXAMPLE = "for example --config configs/demo.py"


def with_defaults(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """A recipe: what it says, and the defaults of all that it does not say.

    The command line can set only what is there, so a recipe must have every key.

    Args:
        values: sections of plain data; a key that no section has stays, for `parse` to refuse.
    """
    hints = typing.get_type_hints(BenchmarkConfig)
    return ml_collections.ConfigDict(
        _merged({name: _defaults(section) for name, section in hints.items()}, values)
    )


def _defaults(section: type) -> dict[str, Any]:
    """The defaults of a section and of those within it; one that may be left out is."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(field.default):
            plain[field.name] = _defaults(type(field.default))
        elif field.default_factory is not dataclasses.MISSING:
            plain[field.name] = field.default_factory()
        elif field.default is not None:
            plain[field.name] = field.default
    return plain


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            merged[key] = _merged(inner, value)
        else:
            merged[key] = value
    return merged


def define_flag(
    values: flags.FlagValues = flags.FLAGS, argv: Sequence[str] | None = None
) -> flags.FlagHolder:
    """Defines --config.

    Args:
        values: where it is defined.
        argv: the arguments that will be parsed, the program's name first; None for the process's.
    """
    return config_flags.DEFINE_config_file(
        "config",
        None,
        f"The recipe, {_EXAMPLE}.",
        flag_values=values,
        sys_argv=None if argv is None else list(argv),
    )


def parse_flags(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses flags; what absl and ml_collections raise for a user's mistake is a `UserError`.

    Args:
        argv: the program's name, then its arguments.
        values: the flags that are known.

    Returns:
        The arguments that are no flags, after the program's name.
    """
    try:
        return values(list(argv))
    except flags.Error as error:
        # An exception in a recipe comes with its traceback; the last line says what is wrong.
        raise UserError(str(error).strip().splitlines()[-1].strip()) from error
    except (AttributeError, KeyError) as error:
        known = list(_paths(_load_recipe(argv)))
        for key in _overrides(argv):
            if key not in known:
                raise UserError(unknown_key(key, known)) from error
        raise


def refuse_words(words: Sequence[str]) -> None:
    """Raises UserError for arguments that are no flags, such as `config.search.k=5`."""
    if words:
        raise UserError(f"unknown arguments: {' '.join(words)}; flags begin with --")


def read_recipe(
    holder: flags.FlagHolder, values: flags.FlagValues = flags.FLAGS
) -> BenchmarkConfig:
    """The validated configuration of --config with its overrides.

    Args:
        holder: of the flag.
        values: where it was defined.

    Raises:
        UserError: no recipe, one that cannot be read, or values that are not allowed.
    """
    try:
        recipe = holder.value
        if recipe is None:
            raise UserError(f"--config is missing; {_EXAMPLE}")
        plain = recipe if isinstance(recipe, dict) else recipe.to_dict()
    except OSError as error:
        name = config_flags.get_config_filename(values["config"])
        raise UserError(f"--config {name} cannot be read; {_EXAMPLE}") from error
    return parse(plain)


def read_words(program: str, words: Sequence[str]) -> BenchmarkConfig:
    """Reads the recipe that a subcommand was given.

    Args:
        program: name of the command.
        words: --config and its overrides, and whatever else there is, which is refused.

    Raises:
        UserError: as `parse_flags`, `refuse_words` and `read_recipe`.
    """
    values, argv = flags.FlagValues(), [program, *words]
    holder = define_flag(values, argv)
    refuse_words(parse_flags(argv, values)[1:])
    return read_recipe(holder, values)


def _load_recipe(argv: Sequence[str]) -> dict[str, Any]:
    """The plain data of --config without its overrides, which ml_collections refused."""
    words = [word.lstrip("-") for word in argv]
    name = next((word.partition("=")[2] for word in words if word.startswith("config=")), None)
    path, _, argument = (name or argv[words.index("config") + 1]).partition(":")
    get_config = runpy.run_path(path)["get_config"]
    return (get_config(argument) if argument else get_config()).to_dict()


def _overrides(argv: Sequence[str]) -> Iterator[str]:
    """Keys of the arguments --config.KEY=VALUE."""
    for argument in argv:
        name = argument.lstrip("-").partition("=")[0]
        if name.startswith("config."):
            yield name.removeprefix("config.")


def _paths(values: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Dotted paths of all values in nested sections."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{place}{key}.")
        else:
            yield place + key
