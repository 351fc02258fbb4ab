"""`--tars 0:50,77,name.tar`: which of the tars that were found are meant."""

import pathlib
from collections.abc import Sequence

from ilias_jax.errors import UserError

_ALLOWED = (
    "allowed are, separated by commas: a number from 0, a range FIRST:END without END (either may "
    "be left out), and the name of a tar"
)


def select(tars: Sequence[pathlib.Path], text: str) -> list[pathlib.Path]:
    """The tars that `--tars` names, each once and in order.

    Args:
        tars: those that were found; their places in this order are their numbers.
        text: such as `0:50,77,name.tar`.

    Raises:
        UserError: a part of the text has another form, or no such tar exists.
    """
    names = {tar.name: number for number, tar in enumerate(tars)}
    chosen: set[int] = set()
    for item in (part.strip() for part in text.split(",")):
        first, colon, end = item.partition(":")
        if item in names:
            numbers = range(names[item], names[item] + 1)
        elif all(not part or (part.isascii() and part.isdigit()) for part in (first, end)) and item:
            start = int(first or 0)
            numbers = range(start, (int(end) if end else len(tars)) if colon else start + 1)
        else:
            numbers = range(0)
        if not numbers:
            raise UserError(f"--tars {text}: {item!r} names no tar; {_ALLOWED}")
        if numbers.stop > len(tars):
            raise UserError(
                f"--tars {text}: there is no tar {numbers.stop - 1}; the {len(tars):,} tars found "
                f"have the numbers 0 to {len(tars) - 1}"
            )
        chosen.update(numbers)
    return [tars[number] for number in sorted(chosen)]
