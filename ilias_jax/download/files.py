"""A file to fetch, and the names that a server may give one."""

import dataclasses
import re
import urllib.parse

# Letters, digits and the marks that published names use; begins with none of them, so that no name
# is hidden, an option or a way to another folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        path: where it belongs below the root folder, with `/`.
        url: where it is.
        sha256: published digest in lower-case hex, or None.
        size: published number of bytes, or None.
    """

    path: str
    url: str
    sha256: str | None = None
    size: int | None = None


def is_safe_name(name: str) -> bool:
    """Whether a server's name can be that of a file here: no path, nothing hidden."""
    return bool(_NAME.fullmatch(name))


def is_web_address(url: str) -> bool:
    """Whether this is a complete http or https address."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
