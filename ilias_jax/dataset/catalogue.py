"""The published files of the dataset: what the official server and the Hugging Face copy list.

The official server has id files, core, distractor tars and adapters; the Hugging Face copy has
tars of the core and of mini-ILIAS.
"""

import dataclasses
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ilias_jax.dataset.layout import FULL_LIST, MINI_LIST
from ilias_jax.download import Client, RemoteFile, is_web_address
from ilias_jax.errors import UserError, quoted
from ilias_jax.files import parse_json

SOURCES = ("official", "huggingface")
PARTS = ("ids", "core", "yfcc", "adapters")
BASE_URL = "https://vrg.fel.cvut.cz/ilias_data"
TAXONOMY_URL = (
    "https://raw.githubusercontent.com/ilias-vrg/ilias/"
    "e81029e50e8e907b990d3e22898663cd81de1bfd/misc/taxonomy.json"
)
TAXONOMY_SHA256 = "52ecd253e75c084ae6eae62d04516e8ac99554f6d8aed3f76c6d6c65d31638cb"
HUGGINGFACE_URL = "https://huggingface.co"
DATASET = "vrg-prague/ilias"  # on Hugging Face
ID_FILES = (
    *("image_query_ids.txt", "text_query_ids.txt", "positive_ids.txt"),
    *(FULL_LIST, MINI_LIST),
)
CHECKSUMS = "checksums.txt"
_LINE = re.compile(r"([0-9a-fA-F]{64})\s+\*?(\S+)")
# Letters, digits and the marks that published names use; begins with none of them, so that no name
# is hidden, an option or a way to another folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_CORE = re.compile(r"ilias_core\.tar|ilias-core-[a-z0-9-]+\.tar")
_COPIED = re.compile(r"(ilias-core-[a-z0-9-]+|mini_ilias_yfcc100m-[0-9]+)\.tar")
_DISTRACTORS = re.compile(r"yfcc100m/.+|mini_ilias_yfcc100m-[0-9]+\.tar")
_MAX_PAGES = 100
_NO_TEXTS = (
    "the Hugging Face copy has no text queries; for text-to-image fetch the official core tar as "
    "well: ilias-jax download --output {root} --parts core"
)


@dataclasses.dataclass(frozen=True)
class Servers:
    """Where to look; mirrors have the same paths below."""

    base_url: str = BASE_URL
    huggingface_url: str = HUGGINGFACE_URL
    taxonomy_url: str = TAXONOMY_URL

    def __post_init__(self) -> None:
        for name, url in dataclasses.asdict(self).items():
            if not is_web_address(url):
                raise UserError(f"--{name} {url!r} is no http or https address")
            object.__setattr__(self, name, url.rstrip("/"))


@dataclasses.dataclass(frozen=True)
class Request:
    """What is wanted."""

    source: str = "official"  # of the tars; id files always come from the official server
    parts: tuple[str, ...] = ()  # empty: ids and core, and what `tars` and `adapters` imply
    tars: str | None = None  # which of the distractor tars, see `select_tars`; None: all
    adapters: tuple[str, ...] = ()  # names of models

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UserError(f"--source {self.source}: allowed are {', '.join(SOURCES)}")
        named, adapters = ",".join(self.parts), ",".join(self.adapters)
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"--parts {','.join(unknown)}: allowed are {', '.join(PARTS)}")
        if self.parts and self.tars is not None and "yfcc" not in self.parts:
            raise UserError(f"--tars {self.tars} needs yfcc among --parts {named}")
        if self.parts and self.adapters and "adapters" not in self.parts:
            raise UserError(f"--adapters {adapters} needs adapters in --parts {named}")
        if "adapters" in self.parts and not self.adapters:
            raise UserError(
                "--parts adapters needs --adapters NAME,NAME: models as the toolkit calls them, "
                "for example vit_large_patch16_siglip_384.webli"
            )
        for name in self.adapters:
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"--adapters {name!r} is no name of a model; give the toolkit's, for example "
                    "vit_large_patch16_siglip_384.webli"
                )

    def wants(self, part: str) -> bool:
        """Whether a part is asked for."""
        if self.parts:
            return part in self.parts
        return {"yfcc": self.tars is not None, "adapters": bool(self.adapters)}.get(part, True)


def select_tars(names: Sequence[str], text: str) -> list[int]:
    """The numbers of the tars, from 0, that `--tars 0:50,77,name.tar` names, once and in order.

    Raises:
        UserError: a part of the text has another form, or no such tar exists.
    """
    numbers_of = {name: number for number, name in enumerate(names)}
    chosen: set[int] = set()
    for item in (part.strip() for part in text.split(",")):
        first, colon, end = item.partition(":")
        numbers = range(0)
        if item in numbers_of:
            numbers = range(numbers_of[item], numbers_of[item] + 1)
        elif item and all(re.fullmatch(r"[0-9]{0,9}", part) for part in (first, end)):
            start = int(first or 0)
            numbers = range(start, (int(end) if end else len(names)) if colon else start + 1)
        if not numbers:
            raise UserError(
                f"--tars {quoted(text)}: {quoted(item)} names no tar; allowed are, separated by "
                "commas: a number from 0, a range FIRST:END without END (either may be left out), "
                "and the name of a tar"
            )
        if numbers.stop > len(names):
            raise UserError(
                f"--tars {text}: there is no tar {numbers.stop - 1}; the {len(names):,} tars "
                f"have the numbers 0 to {len(names) - 1}"
            )
        chosen.update(numbers)
    return sorted(chosen)


def _local_path(url: str) -> str | None:
    """Where an official file belongs; None for one that nobody asks for here."""
    *folders, name = urllib.parse.urlsplit(url).path.split("/")
    if name in ID_FILES:
        return f"image_ids/{name}"
    if name == "ilias_core.tar":
        return name
    if name.endswith(".tar") and ("yfcc100m" in name or "yfcc100m" in folders):
        return f"yfcc100m/{name}"
    is_adapter = "lin_adapt_layers" in folders and name.endswith(".pth")
    return f"lin_adapt_layers/{name}" if is_adapter else None


def _parse_line(line: str, where: str, base_url: str) -> RemoteFile | None:
    match = _LINE.fullmatch(line)
    if not match:
        raise UserError(
            f"{where}: {line[:120]!r} is not `sha256  url`; is this the right --base_url?"
        )
    sha256, url = match.groups()
    if not is_web_address(url):
        raise UserError(f"{where}: {url[:120]!r} is no http or https address; nothing was fetched")
    path = urllib.parse.urlsplit(url).path
    leads_out = ".." in urllib.parse.unquote(path).split("/")
    if leads_out or not _NAME.fullmatch(path.rpartition("/")[2]):
        raise UserError(
            f"{where}: {url[:120]!r} does not end in a plain file name (letters, digits and ._+-); "
            "nothing was fetched"
        )
    if url.startswith(BASE_URL + "/"):
        url = f"{base_url}/{url.removeprefix(BASE_URL).lstrip('/')}"
    local = _local_path(url)
    return RemoteFile(local, url, sha256.lower()) if local else None


def parse_checksums(text: str, where: str, base_url: str = BASE_URL) -> dict[str, RemoteFile]:
    """The files of checksums.txt that belong to the official layout, by their path in it.

    Lines are `sha256  url`; addresses below the official server's are turned to `base_url`, and
    `where` names the file in messages.

    Raises:
        UserError: a line has another form, an address that is not http or https, a name that is no
            plain file name, or two lines give one file different digests; says which line.
    """
    files: dict[str, RemoteFile] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        file = _parse_line(line.strip(), f"{where}:{number}", base_url) if line.strip() else None
        if file and files.setdefault(file.path, file).sha256 != file.sha256:
            raise UserError(f"{where}:{number}: {file.path} has another sha256 on an earlier line")
    if not files:
        raise UserError(f"{where} lists none of the dataset's files; is this the right --base_url?")
    return files


def _parse_entry(entry: Any, where: str, base_url: str) -> RemoteFile | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise UserError(f"{where}: {str(entry)[:120]} is no entry with a path")
    path = entry["path"]
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or not path.isprintable():
        raise UserError(f"{where}: {path[:120]!r} leads out of the folder; nothing was fetched")
    name = path.rpartition("/")[2]
    if entry.get("type") == "directory" or not _COPIED.fullmatch(name):
        return None
    lfs, size = entry.get("lfs"), entry.get("size")
    sha256 = lfs.get("oid") if isinstance(lfs, dict) else None
    if not (isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256)):
        raise UserError(f"{where}: {path[:120]!r} has no sha256 (lfs.oid); nothing was fetched")
    if not isinstance(size, int) or size < 0:
        raise UserError(f"{where}: {path[:120]!r} has no size; nothing was fetched")
    url = f"{base_url}/datasets/{DATASET}/resolve/main/{urllib.parse.quote(path)}"
    return RemoteFile(name, url, sha256, size)


def _entries(client: Client, base_url: str) -> Iterator[Any]:
    url: str | None = f"{base_url}/api/datasets/{DATASET}/tree/main?recursive=true"
    for _ in range(_MAX_PAGES):
        if url is None:
            return
        body, following = client.read(url, "the list of the Hugging Face copy")
        page = parse_json(body, url, f"it begins with {quoted(body[:80])}")
        if not isinstance(page, list):
            raise UserError(f"{url} gave no list of files but {str(page)[:120]}")
        yield from page
        url = following
    raise UserError(f"{base_url}: the list of files goes on after {_MAX_PAGES} pages")


def list_huggingface(client: Client, base_url: str = HUGGINGFACE_URL) -> dict[str, RemoteFile]:
    """The core and distractor tars of the Hugging Face copy by their names, sorted.

    Raises:
        UserError: the listing cannot be had or understood, or has a path that leads elsewhere.
    """
    files: dict[str, RemoteFile] = {}
    for number, entry in enumerate(_entries(client, base_url)):
        where = f"{base_url}/datasets/{DATASET}, entry {number}"
        file = _parse_entry(entry, where, base_url)
        if file and files.setdefault(file.path, file) != file:
            raise UserError(f"{where}: a second file of the name {file.path}")
    return dict(sorted(files.items()))


def _tars(listed: Mapping[str, RemoteFile], where: str, request: Request) -> Iterator[RemoteFile]:
    for part, pattern, tars in (("core", _CORE, None), ("yfcc", _DISTRACTORS, request.tars)):
        found = [file for path, file in listed.items() if pattern.fullmatch(path)]
        if request.wants(part):
            if not found:
                raise UserError(f"{where} lists no tar of the part {part}")
            names = [file.path.rpartition("/")[2] for file in found]
            numbers = range(len(found)) if tars is None else select_tars(names, tars)
            yield from (found[number] for number in numbers)


def read(
    client: Client, request: Request, servers: Servers
) -> tuple[list[RemoteFile], bytes | None, list[str]]:
    """Asks the servers which files there are.

    Returns:
        The files in the order in which they are fetched, the official checksums.txt or None if it
        was not needed, and what a user must know besides, with `{root}` for the folder.

    Raises:
        UserError: a list cannot be had, is damaged or hostile, or has not what is asked for.
    """
    base, official = servers.base_url, request.source == "official"
    checksums, listed, where = None, {}, f"{base}/{CHECKSUMS}"
    if official or request.wants("ids") or request.wants("adapters"):
        checksums = client.read(where, CHECKSUMS)[0]
        listed = parse_checksums(checksums.decode("utf-8", "replace"), where, base)
    paths = [f"image_ids/{name}" for name in ID_FILES] if request.wants("ids") else []
    taxonomy = RemoteFile("misc/taxonomy.json", servers.taxonomy_url, TAXONOMY_SHA256)
    known = listed | ({taxonomy.path: taxonomy} if paths else {})
    paths += [taxonomy.path] if paths else []
    paths += [f"lin_adapt_layers/{name.removesuffix('.pth')}.pth" for name in request.adapters]
    # What checksums.txt does not list has no published digest.
    files = [known.get(path, RemoteFile(path, f"{base}/{path}")) for path in dict.fromkeys(paths)]
    if official or not (request.wants("core") or request.wants("yfcc")):
        return files + list(_tars(listed, where, request)), checksums, []
    listed = list_huggingface(client, servers.huggingface_url)
    tars = list(_tars(listed, f"the Hugging Face dataset {DATASET}", request))
    has_texts = not request.wants("core") or any("text" in tar.path for tar in tars)
    return files + tars, checksums, [] if has_texts else [_NO_TEXTS]
