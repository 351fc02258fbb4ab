"""Published files of models, in the cache folder that all runs share: downloaded once, verified.

One process at a time downloads; others wait for it and find the files. A file has its final name
only when it is whole; beside it lies where it came from and its sha256. Files of the Hugging Face
hub are brought by its own package, which knows tokens, mirrors (`HF_ENDPOINT`) and its storage.
"""

import dataclasses
import datetime
import errno
import json
import logging
import os
import pathlib
import re
import shutil
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etils import epath

from ilias_jax import download, files
from ilias_jax.download import Client, DownloadError, RemoteFile, RetryPolicy, Say
from ilias_jax.errors import UserError
from ilias_jax.progress import track

if TYPE_CHECKING:
    from ilias_jax.models.registry.entry import PublishedFile, WantedFile

CACHE_VARIABLE = "ILIAS_JAX_CACHE"
OFFLINE_VARIABLE = "ILIAS_JAX_OFFLINE"
# A run that waits for files should fail soon where there is no network at all.
POLICY = RetryPolicy(retries=4, longest_wait=8.0)
_ELSEWHERE = f"name another folder with {CACHE_VARIABLE}"
_ORIGIN = ".origin.json"  # appended to the name of a downloaded file
_SITE = "https://huggingface.co"
_ADDRESS = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/([^?#]+)")
_DIGEST = re.compile(r"[0-9a-f]{64}")  # of a small file the hub states another kind
_STAGING = ".hub"  # beside the final file, so that a rename puts it in place


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
        trust = "as published" if self.published else "recorded then, none is published"
        return f"{self.url}, downloaded {self.date}, sha256 {trust}"


def cache_folder() -> epath.Path:
    """Where published files are kept: `ILIAS_JAX_CACHE`, by default ~/.cache/ilias_jax.

    Raises UserError if the variable names a bucket.
    """
    folder = os.environ.get(CACHE_VARIABLE) or "~/.cache/ilias_jax"
    if "://" in folder:
        raise UserError(f"{CACHE_VARIABLE}={folder} must be a local folder")
    return epath.Path(folder).expanduser()


def cached_path(published: "PublishedFile") -> epath.Path:
    """Where a published file is kept: below the host and path of its address."""
    return cache_folder() / published.url.partition("://")[2]


def record_origin(
    path: epath.Path, published: "PublishedFile", sha256: str, stated: bool = False
) -> Origin:
    """Writes beside a file where it came from, its sha256 and whether the server stated that."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    origin = Origin(published.url, sha256, stated or published.sha256 is not None, date)
    text = json.dumps(dataclasses.asdict(origin), indent=1) + "\n"
    files.write_bytes(path.parent / (path.name + _ORIGIN), text.encode())
    if not origin.published:
        logging.warning(
            "%s: no sha256 is published; %s is recorded and the file must stay so", path, sha256
        )
    return origin


def verified_origin(path: epath.Path, sha256: str) -> Origin | None:
    """What is known of a file that was downloaded and has this sha256 now; None for any other.

    Raises UserError if the file has changed since, or what is recorded of it cannot be read.
    """
    record = path.parent / (path.name + _ORIGIN)
    if not record.exists():
        return None
    try:
        origin = Origin(**json.loads(record.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{record} is damaged ({error}); remove it and {path}") from error
    if origin.sha256 != sha256:
        raise UserError(
            f"{path} is not what was downloaded from {origin.url}: its sha256 is {sha256}, and "
            f"was {origin.sha256}; remove it, and it is downloaded again"
        )
    return origin


def bring(
    wanted: "Sequence[WantedFile]",
    dry_run: bool = False,
    policy: RetryPolicy = POLICY,
    say: Say = print,
) -> None:
    """Downloads files into the cache folder, unless another process has done so meanwhile.

    Args:
        wanted: files that are not there, with what is published of them.
        dry_run: only refuses what ILIAS_JAX_OFFLINE forbids.
        policy: retries and time limits; the hub's package has its own.
        say: is called with lines for the user.

    Raises:
        UserError: some cannot be had, and each is named with its address and the path where it
            belongs; the others are there.
    """
    failures: dict[str, str] = {}
    if os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
        failures = {file.key: f"{OFFLINE_VARIABLE} is set" for file in wanted}
    elif not dry_run:
        root = pathlib.Path(cache_folder())
        with download.exclusive(root, say), Client(policy, say) as client:
            for file in wanted:
                try:
                    _bring_one(client, root, file.path, file.published)
                except (DownloadError, UserError) as error:
                    failures[file.key] = str(error)
    if failures:
        failed = [file for file in wanted if file.key in failures]
        raise UserError("\n".join(file.problem(failures[file.key]) for file in failed))


def _bring_one(
    client: Client, root: pathlib.Path, path: epath.Path, published: "PublishedFile | None"
) -> None:
    assert published is not None  # only such files are brought
    if path.exists():
        return
    client.say(f"downloading {published.url}")
    name = pathlib.Path(path).relative_to(root).as_posix()
    file = RemoteFile(name, published.url, published.sha256)
    if is_on_hub(file.url):
        record_origin(path, published, *fetch_from_hub(root, file))
        return
    missing = max(0, (client.size(file) or 0) - download.resumable(root, file))
    download.check_space([(root / file.path, missing)], _ELSEWHERE)
    with track("download", missing, in_bytes=True) as advance:
        sha256 = download.fetch(client, root, file, advance)
    record_origin(path, published, sha256)


def _parse(url: str) -> tuple[str, str, str] | None:
    """Repository, revision and file name of an address on the hub; None for one elsewhere."""
    match = _ADDRESS.fullmatch(url)
    if match is None or match[1].startswith(("datasets/", "spaces/")):
        return None
    return match[1], urllib.parse.unquote(match[2]), urllib.parse.unquote(match[3])


def is_on_hub(url: str) -> bool:
    """Whether an address is of a model's file on the Hugging Face hub."""
    return _parse(url) is not None


def fetch_from_hub(root: pathlib.Path, file: RemoteFile) -> tuple[str, bool]:
    """Brings one file of the hub to its path below `root`; for one process at a time.

    What an earlier run left that was killed is used if it is whole, and goes otherwise.

    Returns:
        The file's sha256, and whether the table or the hub states it.

    Raises:
        DownloadError: it cannot be had, or is not what the table or the hub states.
        UserError: the disk is too small.
    """
    # Which takes long to import, and few runs need it.
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

    source, target = _parse(file.url), root / file.path
    assert source is not None  # the caller has looked
    repository, revision, name = source
    staging = target.parent / _STAGING
    try:
        staging.mkdir(parents=True, exist_ok=True)
        about = hf_hub_download(
            repository, name, revision=revision, local_dir=staging, dry_run=True
        )
        download.check_space([(target, about.file_size or 0)], _ELSEWHERE)
        # The commit, so that all requests speak of one file. The package compares its size alone,
        # so the digest is asked for here, before the download, which a failure would waste.
        commit = about.commit_hash
        etag = get_hf_file_metadata(hf_hub_url(repository, name, revision=commit)).etag or ""
        stated = etag if _DIGEST.fullmatch(etag) else None
        path = pathlib.Path(hf_hub_download(repository, name, revision=commit, local_dir=staging))
        found = files.sha256(path)
        if file.sha256 not in (None, found):
            raise DownloadError(f"its sha256 is {found}, published is {file.sha256}")
        if stated not in (None, found):
            raise DownloadError(f"its sha256 is {found}, and the hub states {stated}: run again")
        path.replace(target)
    # ValueError and RuntimeError: a file that its plain transfer does not take, and its storage.
    except (
        OSError,
        ValueError,
        RuntimeError,
        errors.HTTPError,
        errors.EntryNotFoundError,
    ) as error:
        raise DownloadError(_reason(error, repository, name)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # it may not even have been made
    return found, bool(file.sha256 or stated)


def _reason(error: BaseException, repository: str, name: str) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):  # the package had nothing to fall back to
        error = error.__cause__ or error
    reasons = {  # a repository that is gated counts as not found, too
        errors.GatedRepoError: (
            f"{repository} is gated: ask for access on {_SITE}/{repository} and set HF_TOKEN to a "
            f"token of your account that may read gated repositories ({_SITE}/settings/tokens); "
            'curl needs -H "Authorization: Bearer $HF_TOKEN" then'
        ),
        errors.RepositoryNotFoundError: (
            f"the hub has no repository {repository}, or it is private: then set HF_TOKEN to a "
            "token of an account that may read it"
        ),
        errors.RevisionNotFoundError: f"the repository {repository} has no such revision",
        errors.EntryNotFoundError: f"the repository {repository} has no file {name}",
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, errors.HfHubHTTPError):
        if error.response.status_code == 401:
            return "the hub does not take your token (HF_TOKEN, or that of `hf auth login`)"
        return f"the hub answered {error.response.status_code}"
    if isinstance(error, errors.HTTPError):
        return f"no answer from the hub ({download.reason_of(error)})"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.strerror})"
    return " ".join(str(error).split())
