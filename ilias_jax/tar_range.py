"""`--tars 0:50,77,name.tar`: which tars of a list are meant."""

from collections.abc import Sequence

from ilias_jax.errors import UserError

_ALLOWED = (
    "allowed are, separated by commas: a number from 0, a range FIRST:END without END (either may "
    "be left out), and the name of a tar"
)


def select(names: Sequence[str], text: str) -> list[int]:
    """The places of the tars that `--tars` names, each once and in order.

    Args:
        names: of all tars; their places in this order are their numbers.
        text: such as `0:50,77,name.tar`.

    Raises:
        UserError: a part of the text has another form, or no such tar exists.
    """
    numbers_of = {name: number for number, name in enumerate(names)}
    chosen: set[int] = set()
    for item in (part.strip() for part in text.split(",")):
        first, colon, end = item.partition(":")
        if item in numbers_of:
            numbers = range(numbers_of[item], numbers_of[item] + 1)
        elif all(not part or (part.isascii() and part.isdigit()) for part in (first, end)) and item:
            start = int(first or 0)
            numbers = range(start, (int(end) if end else len(names)) if colon else start + 1)
        else:
            numbers = range(0)
        if not numbers:
            raise UserError(f"--tars {text}: {item!r} names no tar; {_ALLOWED}")
        if numbers.stop > len(names):
            raise UserError(
                f"--tars {text}: there is no tar {numbers.stop - 1}; the {len(names):,} tars "
                f"have the numbers 0 to {len(names) - 1}"
            )
        chosen.update(numbers)
    return sorted(chosen)
