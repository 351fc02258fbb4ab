"""Ids as the official feature files spell them: ASCII, other characters as `#U` and their code."""

import re

from ilias_jax.errors import UserError

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# The toolkit writes characters beyond U+FFFF in another way: two backslashes, U, eight digits.
_ESCAPE = re.compile(r"#U([0-9a-fA-F]{4})|\\\\U([0-9a-fA-F]{8})")


def escape(name: str) -> str:
    """The id in ASCII: "é" is `#U00e9`.

    Raises:
        UserError: the id holds text that looks like an escape already.
    """
    text = _NOT_ASCII.sub(lambda match: _escaped(ord(match[0])), name)
    if unescape(text) != name:
        raise UserError(
            f"id {name!r} cannot be written to an official feature file: a part of it reads as an "
            "escaped character; rename the image"
        )
    return text


def _escaped(code: int) -> str:
    return f"#U{code:04x}" if code <= 0xFFFF else f"\\\\U{code:08x}"


def unescape(text: str) -> str:
    """The id that `escape` was given; text without escapes stays as it is."""
    if "#U" not in text and "\\" not in text:
        return text
    return _ESCAPE.sub(_character, text)


def _character(match: re.Match[str]) -> str:
    code = int(match[1] or match[2], 16)
    return chr(code) if code < 0x110000 else match[0]
