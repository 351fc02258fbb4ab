"""Which files a request means: source, parts, tars and adapters to a list of published files."""

import dataclasses

from ilias_jax import tar_range
from ilias_jax.download import huggingface, official
from ilias_jax.download.files import RemoteFile, is_web_address
from ilias_jax.download.web import Web
from ilias_jax.errors import UserError

SOURCES = ("official", "huggingface")
PARTS = ("ids", "core", "yfcc", "adapters")


@dataclasses.dataclass(frozen=True)
class Servers:
    """Where to look; mirrors have the same paths below."""

    base_url: str = official.BASE_URL
    huggingface_url: str = huggingface.BASE_URL
    taxonomy_url: str = official.TAXONOMY_URL

    def __post_init__(self) -> None:
        """Checks the addresses and drops slashes at their ends."""
        for field in dataclasses.fields(self):
            url = getattr(self, field.name)
            if not is_web_address(url):
                raise UserError(f"--{field.name} {url!r} is no http or https address")
            object.__setattr__(self, field.name, url.rstrip("/"))


@dataclasses.dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        source: of the tars, one of SOURCES; id files always come from the official server.
        parts: some of PARTS; empty means ids and core, and what `tars` and `adapters` imply.
        tars: which of the distractor tars, see `tar_range.select`; None means all.
        adapters: names of models.
    """

    source: str = "official"
    parts: tuple[str, ...] = ()
    tars: str | None = None
    adapters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the values against each other."""
        if self.source not in SOURCES:
            raise UserError(f"--source {self.source}: allowed are {', '.join(SOURCES)}")
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise UserError(f"--parts {','.join(unknown)}: allowed are {', '.join(PARTS)}")
        if self.parts and self.tars is not None and "yfcc" not in self.parts:
            raise UserError(f"--tars {self.tars} needs yfcc among --parts {','.join(self.parts)}")
        if self.parts and self.adapters and "adapters" not in self.parts:
            names = ",".join(self.adapters)
            raise UserError(f"--adapters {names} needs adapters in --parts {','.join(self.parts)}")
        if "adapters" in self.parts and not self.adapters:
            raise UserError(
                "--parts adapters needs --adapters NAME,NAME: models as the toolkit calls them, "
                "for example vit_large_patch16_siglip_384.webli"
            )

    def wants(self, part: str) -> bool:
        """Whether a part is asked for."""
        if self.parts:
            return part in self.parts
        implied = {"yfcc": self.tars is not None, "adapters": bool(self.adapters)}
        return implied.get(part, True)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The files of a request.

    Attributes:
        files: in the order in which they are fetched.
        checksums: the official checksums.txt as it came, None if it was not needed.
        notes: what a user must know besides, with `{root}` for the folder.
    """

    files: tuple[RemoteFile, ...]
    checksums: bytes | None = None
    notes: tuple[str, ...] = ()


def _huggingface_files(
    web: Web, request: Request, servers: Servers
) -> tuple[list[RemoteFile], tuple[str, ...]]:
    """The wanted tars of the Hugging Face copy, and notes."""
    if not (request.wants("core") or request.wants("yfcc")):
        return [], ()
    listed = huggingface.list_files(web, servers.huggingface_url)
    files: list[RemoteFile] = []
    notes: tuple[str, ...] = ()
    if request.wants("core"):
        files = huggingface.core_tars(listed)
        notes = () if huggingface.has_texts(files) else (huggingface.NO_TEXTS,)
    if request.wants("yfcc"):
        files = files + _selected(huggingface.distractor_tars(listed), request)
    return files, notes


def _selected(tars: list[RemoteFile], request: Request) -> list[RemoteFile]:
    if request.tars is None:
        return tars
    names = [tar.path.rpartition("/")[2] for tar in tars]
    return [tars[number] for number in tar_range.select(names, request.tars)]


def read(web: Web, request: Request, servers: Servers) -> Catalogue:
    """Asks the servers which files there are.

    Raises:
        UserError: a list cannot be had, is damaged or hostile, or has not what is asked for.
    """
    base = servers.base_url
    is_official = request.source == "official"
    files: list[RemoteFile] = []
    body, listed = None, {}
    if is_official or request.wants("ids") or request.wants("adapters"):
        url = f"{base}/checksums.txt"
        body = web.read(url, "checksums.txt")[0]
        rows = official.parse_checksums(body.decode("utf-8", "replace"), url, base)
        listed = {file.path: file for file in rows}
    if request.wants("ids"):
        files += [*official.id_files(listed, base), official.taxonomy(servers.taxonomy_url)]
    if request.wants("adapters"):
        files += official.adapters(request.adapters, listed, base)
    if is_official and request.wants("core"):
        files.append(official.core_tar(listed, base))
    if is_official and request.wants("yfcc"):
        files += _selected(official.yfcc_tars(listed, base), request)
    notes: tuple[str, ...] = ()
    if not is_official:
        tars, notes = _huggingface_files(web, request, servers)
        files += tars
    return Catalogue(tuple(files), body, notes)
