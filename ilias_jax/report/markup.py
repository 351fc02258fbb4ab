"""HTML built so that text cannot become markup: `tag` escapes every child that is not Markup."""

import html
import re

# Control characters, lone surrogates and bidirectional overrides: invalid in a page, or able to
# make an id read as another one.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_VOID = frozenset({"img", "meta", "link", "br"})


class Markup(str):
    """Text that is HTML already. Only this file, and the page's own constants, make it."""


def visible(text: str) -> str:
    """Returns `text` with the characters no page may hold replaced by U+FFFD."""
    return _UNSAFE.sub("\ufffd", text)


def escape(text: str) -> Markup:
    """Returns `text` as HTML, for use between tags or inside a quoted attribute."""
    return Markup(html.escape(visible(text), quote=True))


def join(*children: str | Markup | None) -> Markup:
    """Returns the children one after another, escaped unless they are Markup; None is nothing."""
    return Markup(
        "".join(c if isinstance(c, Markup) else escape(c) for c in children if c is not None)
    )


def tag(
    name: str, *children: str | Markup | None, **attributes: str | int | float | None
) -> Markup:
    """Returns one element.

    Args:
      name: the element's name.
      *children: text (escaped) or Markup.
      **attributes: values are escaped; None leaves one out, "" makes it bare. `class_` is "class",
        other underscores become hyphens.
    """
    head = name
    for key, value in attributes.items():
        if value is not None:
            key = key.rstrip("_").replace("_", "-")
            head += f" {key}" if value == "" else f' {key}="{escape(str(value))}"'
    body = join(*children)
    if name in _VOID:
        return Markup(f"<{head}>")
    return Markup(f"<{head}>{body}</{name}>")
