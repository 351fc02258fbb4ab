"""Where downloaded files of models are kept, and what is known of where they came from."""

import dataclasses
import datetime
import json
import os

from etils import epath

from ilias_jax import atomic
from ilias_jax.errors import UserError
from ilias_jax.models.registry.entry import PublishedFile

CACHE_VARIABLE = "ILIAS_JAX_CACHE"
_ORIGIN = ".origin.json"  # appended to the name of a downloaded file


@dataclasses.dataclass(frozen=True)
class Origin:
    """What is known of a downloaded file.

    Attributes:
        url: where it came from.
        sha256: digest when it came, in lower-case hex.
        published: whether a digest was there to compare it with, in the table or stated by the
            server. If not, the first download is trusted, and the file must stay what it was then.
        date: of the download.
    """

    url: str
    sha256: str
    published: bool
    date: str

    def __str__(self) -> str:
        """As the report says it."""
        trust = "as published" if self.published else "recorded then, none is published"
        return f"{self.url}, downloaded {self.date}, sha256 {trust}"


def cache_folder() -> epath.Path:
    """Where published files are kept: `ILIAS_JAX_CACHE`, by default ~/.cache/ilias_jax.

    Raises:
        UserError: the variable names a bucket.
    """
    folder = os.environ.get(CACHE_VARIABLE) or "~/.cache/ilias_jax"
    if "://" in folder:
        raise UserError(f"{CACHE_VARIABLE}={folder} must be a local folder")
    return epath.Path(folder).expanduser()


def cached_path(published: PublishedFile) -> epath.Path:
    """Where a published file is kept."""
    return cache_folder() / published.url.partition("://")[2]


def record_origin(
    path: epath.Path, published: PublishedFile, sha256: str, stated: bool = False
) -> Origin:
    """Writes beside a downloaded file where it came from and what it was.

    Args:
        path: of the file.
        published: what it is.
        sha256: of the file.
        stated: whether the server stated a sha256, which is this one.
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    origin = Origin(published.url, sha256, stated or published.sha256 is not None, date)
    text = json.dumps(dataclasses.asdict(origin), indent=1) + "\n"
    atomic.write_bytes(path.parent / (path.name + _ORIGIN), text.encode())
    return origin


def verified_origin(path: epath.Path, sha256: str) -> Origin | None:
    """What is known of a file, which must still be what was downloaded; None if it was not.

    Args:
        path: of the file.
        sha256: of the file as it is now.

    Raises:
        UserError: the file has changed since, or what is recorded of it cannot be read.
    """
    record = path.parent / (path.name + _ORIGIN)
    if not record.exists():
        return None
    try:
        origin = Origin(**json.loads(record.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{record} is damaged ({error}); remove it and {path}") from error
    if origin.sha256 != sha256:
        raise UserError(
            f"{path} is not what was downloaded from {origin.url}: its sha256 is {sha256}, and "
            f"was {origin.sha256}; remove it, and it is downloaded again"
        )
    return origin
