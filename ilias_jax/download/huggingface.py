"""Files of the Hugging Face copy: WebDataset tars of the core and of the mini distractors."""

import json
import re
import urllib.parse
from typing import Any

from ilias_jax.download.files import RemoteFile
from ilias_jax.download.web import Web
from ilias_jax.errors import UserError

BASE_URL = "https://huggingface.co"
DATASET = "vrg-prague/ilias"
_CORE = re.compile(r"ilias-core-[a-z0-9-]+\.tar")
_DISTRACTORS = re.compile(r"mini_ilias_yfcc100m-[0-9]+\.tar")
_MAX_PAGES = 100
NO_TEXTS = (
    "the Hugging Face copy has no text queries; for text-to-image fetch the official core tar as "
    "well: ilias-jax download --output {root} --parts core"
)


def _parse_entry(entry: Any, place: str, base_url: str) -> RemoteFile | None:
    """One row of the listing as a file, None for one that nobody asks for here."""
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise UserError(f"{place}: {str(entry)[:120]} is no entry with a path")
    path = entry["path"]
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or not path.isprintable():
        raise UserError(f"{place}: {path[:120]!r} leads out of the folder; nothing was fetched")
    name = path.rpartition("/")[2]
    if entry.get("type") == "directory" or not (_CORE.fullmatch(name) or _is_distractor(name)):
        return None
    lfs, size = entry.get("lfs"), entry.get("size")
    digest = lfs.get("oid") if isinstance(lfs, dict) else None
    if not (isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)):
        raise UserError(f"{place}: {path[:120]!r} has no sha256 (lfs.oid); nothing was fetched")
    if not isinstance(size, int) or size < 0:
        raise UserError(f"{place}: {path[:120]!r} has no size; nothing was fetched")
    url = f"{base_url}/datasets/{DATASET}/resolve/main/{urllib.parse.quote(path)}"
    return RemoteFile(name, url, digest, size)


def _is_distractor(name: str) -> bool:
    return bool(_DISTRACTORS.fullmatch(name))


def _pages(web: Web, base_url: str) -> list[Any]:
    """All rows of the listing, page after page."""
    url: str | None = f"{base_url}/api/datasets/{DATASET}/tree/main?recursive=true"
    rows: list[Any] = []
    for _ in range(_MAX_PAGES):
        if url is None:
            return rows
        body, following = web.read(url, "the list of the Hugging Face copy")
        try:
            page = json.loads(body)
        except ValueError as error:
            raise UserError(f"{url} gave no JSON but {body[:80]!r}") from error
        if not isinstance(page, list):
            raise UserError(f"{url} gave no list of files but {str(page)[:120]}")
        rows += page
        url = following
    raise UserError(f"{base_url}: the list of files goes on after {_MAX_PAGES} pages")


def list_files(web: Web, base_url: str = BASE_URL) -> list[RemoteFile]:
    """The core and distractor tars, sorted by name.

    Raises:
        UserError: the listing cannot be had or understood, or has a path that leads elsewhere.
    """
    files: dict[str, RemoteFile] = {}
    for number, entry in enumerate(_pages(web, base_url)):
        place = f"{base_url}/datasets/{DATASET}, entry {number}"
        file = _parse_entry(entry, place, base_url)
        if file is not None and files.setdefault(file.path, file) != file:
            raise UserError(f"{place}: a second file of the name {file.path}")
    return [files[path] for path in sorted(files)]


def core_tars(files: list[RemoteFile]) -> list[RemoteFile]:
    """Tars with queries and positives.

    Raises:
        UserError: there is none.
    """
    tars = [file for file in files if _CORE.fullmatch(file.path)]
    if not tars:
        raise UserError(f"the Hugging Face dataset {DATASET} lists no ilias-core-*.tar")
    return tars


def distractor_tars(files: list[RemoteFile]) -> list[RemoteFile]:
    """Tars with the distractors of mini-ILIAS.

    Raises:
        UserError: there is none.
    """
    tars = [file for file in files if _is_distractor(file.path)]
    if not tars:
        raise UserError(f"the Hugging Face dataset {DATASET} lists no mini_ilias_yfcc100m-*.tar")
    return tars


def has_texts(core: list[RemoteFile]) -> bool:
    """Whether one of the core tars is of text queries, by its name."""
    return any("text" in file.path for file in core)
