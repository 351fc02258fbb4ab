"""Downloads a model's published files on first use, into the cache that all runs share.

One process at a time downloads; others wait for it and find the files. A file has its final name
only when it is whole, and beside it lies where it came from and its sha256. Files of the Hugging
Face hub come by its own package, all others by the downloader of this project.
"""

import logging
import os
import pathlib
from collections.abc import Sequence

from ilias_jax.config import ModelConfig
from ilias_jax.download import fetch, hub, state
from ilias_jax.download.catalogue import Catalogue
from ilias_jax.download.files import RemoteFile
from ilias_jax.download.retry import FinalError, Patience, Say
from ilias_jax.download.web import Web
from ilias_jax.errors import UserError
from ilias_jax.towers.files import (
    CACHE_VARIABLE,
    WantedFile,
    cache_folder,
    find_files,
    record_origin,
)

OFFLINE_VARIABLE = "ILIAS_JAX_OFFLINE"
_PARALLEL = 2
_ELSEWHERE = f", or name another folder with {CACHE_VARIABLE}"
# A run that waits for files should fail soon where there is no network at all.
_PATIENCE = Patience(retries=4, longest_wait=8.0)


def bring_model_files(
    config: ModelConfig, download: bool = True, patience: Patience = _PATIENCE, say: Say = print
) -> None:
    """Sees to a model's files: published ones that are not there are downloaded.

    Args:
        config: of the model.
        download: False to look only for files that cannot be downloaded, for a run that stops for
            another reason anyway.
        patience: retries and time limits.
        say: is called with lines for the user.

    Raises:
        UserError: the model is unknown or files cannot be had: each is named with its address and
            the place where it belongs.
    """

    def bring(wanted: Sequence[WantedFile]) -> None:
        _refuse_offline(wanted)
        if download:
            _download(wanted, patience, say)

    find_files(config, bring)


def _refuse_offline(wanted: Sequence[WantedFile]) -> None:
    """Raises UserError if nothing may be downloaded."""
    if os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
        reason = f"{OFFLINE_VARIABLE} is set"
        raise UserError("\n".join(file.problem(reason) for file in wanted))


def _download(wanted: Sequence[WantedFile], patience: Patience, say: Say) -> None:
    """Downloads files into the cache.

    Raises:
        UserError: some cannot be had; the others are there.
    """
    root = pathlib.Path(cache_folder())
    with state.locked(root, lambda busy: say(f"{busy}; waiting for it")):
        missing = [file for file in wanted if not file.path.exists()]  # another one may have come
        for file in missing:
            say(f"downloading {_remote(file, root).url}")
        on_hub = [file for file in missing if hub.parse_address(_remote(file, root).url)]
        others = [file for file in missing if file not in on_hub]
        failures = {**_from_web(root, others, patience, say), **_from_hub(root, on_hub)}
    failed = [file.problem(failures[file.key]) for file in missing if file.key in failures]
    if failed:
        raise UserError("\n".join(failed))


def _remote(file: WantedFile, root: pathlib.Path) -> RemoteFile:
    assert file.published is not None  # only such files are brought
    path = pathlib.Path(file.path).relative_to(root).as_posix()
    return RemoteFile(path, file.published.url, file.published.sha256)


def _from_web(
    root: pathlib.Path, files: Sequence[WantedFile], patience: Patience, say: Say
) -> dict[str, str]:
    """Downloads files by their plain addresses; why some cannot be had, by their keys."""
    if not files:
        return {}
    remotes = tuple(_remote(file, root) for file in files)
    with Web(patience, say) as web:
        outcome = fetch.fetch_listed(root, Catalogue(remotes), web, _PARALLEL, less=_ELSEWHERE)
    records, failures = state.Records(root), {}
    for file, item in zip(files, outcome.items, strict=True):
        record = records.get(item.file.path)
        if item.failure:
            failures[file.key] = item.failure
        else:
            assert record is not None  # it was fetched a moment ago
            _record(file, record.sha256)
    return failures


def _from_hub(root: pathlib.Path, files: Sequence[WantedFile]) -> dict[str, str]:
    """Downloads files of the Hugging Face hub; why some cannot be had, by their keys."""
    failures = {}
    for file in files:
        try:
            fetched = hub.fetch(root, _remote(file, root), _ELSEWHERE)
            _record(file, fetched.sha256, fetched.stated)
        except FinalError as error:
            failures[file.key] = str(error)
    return failures


def _record(file: WantedFile, sha256: str, stated: bool = False) -> None:
    """Keeps where a file came from and what it was, and says how far that can be trusted."""
    assert file.published is not None
    origin = record_origin(file.path, file.published, sha256, stated)
    if not origin.published:
        logging.warning(
            "%s: no sha256 is published; %s is recorded and the file must stay so",
            file.path,
            origin.sha256,
        )
