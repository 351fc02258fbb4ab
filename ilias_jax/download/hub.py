"""A file of a model on the Hugging Face hub, brought by the hub's own package.

It knows what the plain downloader does not: tokens for files whose authors want to be asked,
mirrors (`HF_ENDPOINT`), and the hub's storage, which sends a file in pieces.
"""

import dataclasses
import pathlib
import re
import shutil
import urllib.parse

from ilias_jax.download import hub_errors, plan, state
from ilias_jax.download.files import RemoteFile
from ilias_jax.download.retry import FinalError
from ilias_jax.progress import format_bytes

_ADDRESS = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/([^?#]+)")
_DIGEST = re.compile(r"[0-9a-f]{64}")  # of a small file the hub states another kind
_STAGING = ".hub"  # beside the final file, so that a rename puts it in place


@dataclasses.dataclass(frozen=True)
class HubFile:
    """A file in a repository of models.

    Attributes:
        repository: owner and name.
        revision: branch, tag or commit.
        name: path in the repository.
    """

    repository: str
    revision: str
    name: str


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A file that came.

    Attributes:
        sha256: of the file, in lower-case hex.
        stated: whether the table or the hub states a sha256, which is this one.
    """

    sha256: str
    stated: bool


def parse_address(url: str) -> HubFile | None:
    """What an address on the hub names; None for an address elsewhere, of a data set too."""
    match = _ADDRESS.fullmatch(url)
    if match is None or match[1].startswith(("datasets/", "spaces/")):
        return None
    return HubFile(match[1], *(urllib.parse.unquote(part) for part in match.groups()[1:]))


def fetch(root: pathlib.Path, file: RemoteFile, less: str = "") -> Fetched:
    """Brings one file to its place below `root`; for one process at a time.

    What an earlier run left that was killed is used if it is whole, and goes otherwise.

    Args:
        root: folder, made if missing.
        file: whose address is one on the hub.
        less: what a user may do beside freeing space if the disk is too small.

    Raises:
        FinalError: it cannot be had, or is not what the table or the hub states.
    """
    source, target = parse_address(file.url), root / file.path
    assert source is not None  # the caller has looked
    staging = target.parent / _STAGING
    try:
        staging.mkdir(parents=True, exist_ok=True)
        path, stated = _download(source, staging, less)
        found = state.digest(path)
        if file.sha256 not in (None, found):
            raise FinalError(f"its sha256 is {found}, published is {file.sha256}")
        if stated not in (None, found):
            raise FinalError(f"its sha256 is {found}, and the hub states {stated}: run again")
        path.replace(target)
    except hub_errors.caught() as error:
        raise FinalError(hub_errors.reason(error, source.repository, source.name)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # it may not even have been made
    return Fetched(found, stated=bool(file.sha256 or stated))


def _download(source: HubFile, folder: pathlib.Path, less: str) -> tuple[pathlib.Path, str | None]:
    """Asks for the size, then brings the file below a folder.

    Returns:
        The file, and the sha256 that the hub states, if it does.

    Raises:
        FinalError: the disk is too small.
    """
    # Which takes long, and few runs need it.
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repository, name = source.repository, source.name
    about = hf_hub_download(
        repository, name, revision=source.revision, local_dir=folder, dry_run=True
    )
    free = plan.free_space(folder)
    if about.file_size is not None and about.file_size > free:
        raise FinalError(
            f"{folder.parent} has {format_bytes(free)} free, and the file has "
            f"{format_bytes(about.file_size)}; free some space{less}"
        )
    # The commit, so that all requests speak of one file. The package compares its size alone, so
    # the digest is asked for here, before the download, which a failure would waste.
    commit = about.commit_hash
    etag = get_hf_file_metadata(hf_hub_url(repository, name, revision=commit)).etag or ""
    path = hf_hub_download(repository, name, revision=commit, local_dir=folder)
    return pathlib.Path(path), etag if _DIGEST.fullmatch(etag) else None
