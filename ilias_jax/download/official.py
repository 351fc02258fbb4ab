"""Files of the official server: checksums.txt, id files, core and YFCC tars, adapters; taxonomy."""

import re
import urllib.parse

from ilias_jax.download.files import RemoteFile, is_safe_name, is_web_address
from ilias_jax.errors import UserError

BASE_URL = "https://vrg.fel.cvut.cz/ilias_data"
TAXONOMY_URL = (
    "https://raw.githubusercontent.com/ilias-vrg/ilias/"
    "e81029e50e8e907b990d3e22898663cd81de1bfd/misc/taxonomy.json"
)
TAXONOMY_SHA256 = "52ecd253e75c084ae6eae62d04516e8ac99554f6d8aed3f76c6d6c65d31638cb"
CORE_TAR = "ilias_core.tar"
ID_FILES = (
    "image_query_ids.txt",
    "text_query_ids.txt",
    "positive_ids.txt",
    "distractor_ids.txt.gz",
    "mini_ilias_yfcc100m_ids.txt",
)
_LINE = re.compile(r"([0-9a-fA-F]{64})\s+\*?(\S+)")


def _path_of(url: str) -> str | None:
    """Where a published file belongs below the root; None for one that nobody asks for here."""
    *folders, name = urllib.parse.urlsplit(url).path.split("/")
    if name in ID_FILES:
        return f"image_ids/{name}"
    if name == CORE_TAR:
        return name
    if name.endswith(".tar") and ("yfcc100m" in name or "yfcc100m" in folders):
        return f"yfcc100m/{name}"
    if "lin_adapt_layers" in folders and name.endswith(".pth"):
        return f"lin_adapt_layers/{name}"
    return None


def _parse_line(line: str, place: str) -> RemoteFile | None:
    match = _LINE.fullmatch(line)
    if not match:
        raise UserError(
            f"{place}: {line[:120]!r} is not `sha256  url`; is this the right --base_url?"
        )
    digest, url = match.groups()
    if not is_web_address(url):
        raise UserError(f"{place}: {url[:120]!r} is no http or https address; nothing was fetched")
    path = urllib.parse.urlsplit(url).path
    folders = urllib.parse.unquote(path).split("/")
    if ".." in folders or not is_safe_name(path.rpartition("/")[2]):
        raise UserError(
            f"{place}: {url[:120]!r} does not end in a plain file name (letters, digits and ._+-); "
            "nothing was fetched"
        )
    local = _path_of(url)
    return None if local is None else RemoteFile(local, url, digest.lower())


def _at(file: RemoteFile, base_url: str) -> RemoteFile:
    """The same file at another server that has the official one's folders."""
    relative = file.url.removeprefix(BASE_URL + "/")
    if relative == file.url:
        return file
    return RemoteFile(file.path, f"{base_url}/{relative.lstrip('/')}", file.sha256)


def parse_checksums(text: str, place: str, base_url: str = BASE_URL) -> list[RemoteFile]:
    """Reads checksums.txt.

    Args:
        text: of the file: lines `sha256  url`.
        place: names the file in messages.
        base_url: addresses below the official server's are turned to this one.

    Returns:
        The files that have a place in the official layout, in published order.

    Raises:
        UserError: a line has another form, an address that is not http or https, a name that is no
            plain file name, or two lines give one file different digests; says which line.
    """
    files: dict[str, RemoteFile] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        file = _parse_line(line.strip(), f"{place}:{number}")
        if file is None:
            continue
        file = _at(file, base_url)
        if files.setdefault(file.path, file).sha256 != file.sha256:
            raise UserError(f"{place}:{number}: {file.path} has another sha256 on an earlier line")
    if not files:
        raise UserError(f"{place} lists none of the dataset's files; is this the right --base_url?")
    return list(files.values())


def _known_or_new(path: str, listed: dict[str, RemoteFile], base_url: str) -> RemoteFile:
    return listed.get(path) or RemoteFile(path, f"{base_url}/{path}")


def id_files(listed: dict[str, RemoteFile], base_url: str) -> list[RemoteFile]:
    """The five id files; those that checksums.txt does not list have no published digest."""
    return [_known_or_new(f"image_ids/{name}", listed, base_url) for name in ID_FILES]


def taxonomy(url: str) -> RemoteFile:
    """The taxonomy of the official toolkit at a fixed commit."""
    return RemoteFile("misc/taxonomy.json", url, TAXONOMY_SHA256)


def core_tar(listed: dict[str, RemoteFile], base_url: str) -> RemoteFile:
    """The core images, texts and boxes.

    Raises:
        UserError: checksums.txt does not list it.
    """
    if CORE_TAR not in listed:
        raise UserError(f"{base_url}/checksums.txt does not list {CORE_TAR}")
    return listed[CORE_TAR]


def yfcc_tars(listed: dict[str, RemoteFile], base_url: str) -> list[RemoteFile]:
    """The distractor tars in published order.

    Raises:
        UserError: checksums.txt lists none.
    """
    tars = [file for path, file in listed.items() if path.startswith("yfcc100m/")]
    if not tars:
        raise UserError(f"{base_url}/checksums.txt lists no yfcc100m tar")
    return tars


def adapters(
    names: tuple[str, ...], listed: dict[str, RemoteFile], base_url: str
) -> list[RemoteFile]:
    """Linear adaptation layers by the name of their model, with or without `.pth`.

    Raises:
        UserError: a name is no plain file name.
    """
    for name in names:
        if not is_safe_name(name):
            raise UserError(
                f"--adapters {name!r} is no name of a model; give the toolkit's, for example "
                "vit_large_patch16_siglip_384.webli"
            )
    paths = [f"lin_adapt_layers/{name.removesuffix('.pth')}.pth" for name in names]
    return [_known_or_new(path, listed, base_url) for path in dict.fromkeys(paths)]
