"""The one exception that is shown as a message, without a traceback, and what messages quote."""

_QUOTED = 200  # characters


class UserError(Exception):
    """A mistake that the user can mend.

    The message gives the value that was found, the values that are allowed, the place (file, line
    or config key) and what to do. `main.py` and the `ilias-jax` command print it alone and exit
    with 1.
    """


def quoted(text: str | bytes) -> str:
    """Text of a user's file for a message: in quotes, escaped, and cut at 200 characters."""
    rest = len(text) - _QUOTED
    return repr(text[:_QUOTED]) + (f" and {rest:,} more" if rest > 0 else "")


def printable(text: str) -> str:
    """Text whose control characters are escaped, so that names in files do not rule a terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )
