"""Downloads a model's published files on first use, into the cache that all runs share.

One process at a time downloads; others wait for it and find the files. A file has its final name
only when it is whole, and beside it lies where it came from and its sha256.
"""

import logging
import os
import pathlib
from collections.abc import Sequence

from ilias_jax.config import ModelConfig
from ilias_jax.download import fetch, state
from ilias_jax.download.catalogue import Catalogue
from ilias_jax.download.files import RemoteFile
from ilias_jax.download.plan import Item
from ilias_jax.download.retry import Patience, Say
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
    with Web(patience, say) as web, state.locked(root, lambda busy: say(f"{busy}; waiting for it")):
        missing = [file for file in wanted if not file.path.exists()]  # another one may have come
        if not missing:
            return
        found = Catalogue(tuple(_remote(file, root) for file in missing))
        for remote in found.files:
            say(f"downloading {remote.url}")
        outcome = fetch.fetch_listed(root, found, web, _PARALLEL, less=_ELSEWHERE)
        records = state.Records(root)
        failed = []
        for file, item in zip(missing, outcome.items, strict=True):
            if item.failure:
                failed.append(file.problem(item.failure))
            else:
                _record(file, item, records)
    if failed:
        raise UserError("\n".join(failed))


def _remote(file: WantedFile, root: pathlib.Path) -> RemoteFile:
    assert file.published is not None  # only such files are brought
    path = pathlib.Path(file.path).relative_to(root).as_posix()
    return RemoteFile(path, file.published.url, file.published.sha256)


def _record(file: WantedFile, item: Item, records: state.Records) -> None:
    """Keeps where a file came from and what it was, and says how far that can be trusted."""
    record = records.get(item.file.path)
    assert file.published is not None and record is not None  # it was fetched a moment ago
    origin = record_origin(file.path, file.published, record.sha256)
    if not origin.published:
        logging.warning(
            "%s: no sha256 is published; %s is recorded and the file must stay so",
            file.path,
            origin.sha256,
        )
