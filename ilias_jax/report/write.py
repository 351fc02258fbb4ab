"""Writes the three files of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from ilias_jax import atomic
from ilias_jax.report.document import to_json, to_plain
from ilias_jax.report.gallery import GalleryEntry
from ilias_jax.report.html import page
from ilias_jax.report.markdown import to_markdown


def write_report(
    directory: epath.PathLike, document: Mapping[str, Any], gallery: Sequence[GalleryEntry]
) -> None:
    """Writes `report.json`, `report.md` and `index.html` into `directory`, making it if need be.

    All three are rendered before the first is written, and each is written to a temporary name and
    renamed, so that a file that exists is a whole one.

    Args:
      directory: where to, local or a bucket.
      document: the run's numbers (keys: dataset, model, results, published, search, timings,
        manifest), as plain values or numpy ones. Either result may be absent or None.
      gallery: queries with their top results, shown in this order within section and group.

    Raises:
      ValueError: a number is not finite (the message gives its key path) or a result has a name
        that is not known.
      TypeError: a value has no JSON form; the message gives its key path.
    """
    plain = to_plain(document)
    files = {
        "report.json": to_json(plain),
        "report.md": to_markdown(plain),
        "index.html": page(plain, gallery),
    }
    folder = epath.Path(directory)
    for name, text in files.items():
        atomic.write_bytes(folder / name, text.encode("utf-8"))
