"""Reads a page back: a strict reader of balanced tags that keeps elements and their text."""

import dataclasses
from html.parser import HTMLParser

_VOID = {"img", "meta", "link", "br", "input", "hr"}


@dataclasses.dataclass
class Element:
    """One element of the page, with all text inside it."""

    name: str
    attributes: dict[str, str | None]
    ancestors: tuple["Element", ...]
    text: str = ""

    def has_class(self, name: str) -> bool:
        """Returns whether `name` is one of the element's classes."""
        return name in (self.attributes.get("class") or "").split()


class PageParser(HTMLParser):
    """Collects `elements` in document order; a wrong end tag is an AssertionError."""

    def __init__(self, page: str) -> None:
        """Reads the whole page."""
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(page)
        self.close()
        assert not self._open, f"never closed: {[e.name for e in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens an element."""
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}> {attrs}"
        element = Element(tag, dict(attrs), tuple(self._open))
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        """Closes the element that was opened last."""
        assert self._open and self._open[-1].name == tag, f"</{tag}> at {self.getpos()}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        """Gives text to every open element."""
        for element in self._open:
            element.text += data

    def find(self, name: str, class_: str | None = None) -> list[Element]:
        """Returns the elements of a name and, if given, a class."""
        return [e for e in self.elements if e.name == name and (not class_ or e.has_class(class_))]

    def inside(self, outer: Element, name: str, class_: str | None = None) -> list[Element]:
        """Returns the elements of a name anywhere inside `outer`."""
        return [e for e in self.find(name, class_) if any(a is outer for a in e.ancestors)]

    def rows(self, table: Element) -> list[list[str]]:
        """Returns the texts of a table's cells, row by row."""
        rows = self.inside(table, "tr")
        cells = [e for e in self.elements if e.name in ("th", "td")]
        return [[c.text for c in cells if any(a is row for a in c.ancestors)] for row in rows]
