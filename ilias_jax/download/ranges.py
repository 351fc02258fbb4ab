"""`--tars 0:50,77,name.tar`: which of a list of tars are meant."""

from ilias_jax.download.files import RemoteFile
from ilias_jax.errors import UserError

_ALLOWED = (
    "allowed are, separated by commas: a number from 0, a range FIRST:END without END (either may "
    "be left out), and the name of a tar"
)


def _number(text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()):
        raise ValueError
    return int(text)


def _numbers(item: str, names: dict[str, int]) -> range:
    """The places that one item means.

    Raises:
        ValueError: it is none of the forms, or its range is empty.
    """
    if item in names:
        return range(names[item], names[item] + 1)
    first, colon, end = item.partition(":")
    if not colon:
        number = _number(first, -1)
        if number < 0:
            raise ValueError
        return range(number, number + 1)
    numbers = range(_number(first, 0), _number(end, len(names)))
    if not numbers:
        raise ValueError
    return numbers


def select(tars: list[RemoteFile], text: str) -> list[RemoteFile]:
    """The tars that `--tars` names, in published order, each once.

    Raises:
        UserError: a part of the text has another form, or no such tar exists.
    """
    names = {file.path.rpartition("/")[2]: number for number, file in enumerate(tars)}
    chosen: set[int] = set()
    for item in text.split(","):
        try:
            numbers = _numbers(item.strip(), names)
        except ValueError as error:
            raise UserError(f"--tars {text}: {item.strip()!r} names no tar; {_ALLOWED}") from error
        if numbers.stop > len(tars):
            raise UserError(
                f"--tars {text}: there is no tar {numbers.stop - 1}; the {len(tars):,} tars have "
                f"the numbers 0 to {len(tars) - 1}"
            )
        chosen.update(numbers)
    return [tars[number] for number in sorted(chosen)]
