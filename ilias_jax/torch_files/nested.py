"""Nested dictionaries as flat ones, whose names join the keys on the way."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

_Leaf = TypeVar("_Leaf")
# A file may hold a dictionary within itself, or one dictionary in very many places.
_MAX_DEPTH = 32
_MAX_ENTRIES = 1_000_000


def flatten(found: Mapping[Any, Any], kind: type[_Leaf], separator: str) -> dict[str, _Leaf]:
    """The leaves of one kind by their joined names.

    Args:
        found: dictionaries of dictionaries; what lies in lists and tuples is left out.
        kind: class of the leaves that are wanted; others are left out.
        separator: between the keys of a name.

    Raises:
        ValueError: it is too deep or too large for any model, or two leaves have one name.
    """
    flat: dict[str, _Leaf] = {}
    for count, (name, value) in enumerate(_entries(found, "", separator, 1)):
        if count >= _MAX_ENTRIES:
            raise ValueError(f"it holds more than {_MAX_ENTRIES:,} values")
        if isinstance(value, kind):
            if name in flat:
                raise ValueError(f"it holds two values of the name {name}")
            flat[name] = value
    return flat


def _entries(
    found: Mapping[Any, Any], prefix: str, separator: str, depth: int
) -> Iterator[tuple[str, Any]]:
    """Every value of every dictionary, the dictionaries too."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"its dictionaries lie more than {_MAX_DEPTH} deep in each other")
    for key, value in found.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _entries(value, f"{prefix}{key}{separator}", separator, depth + 1)
