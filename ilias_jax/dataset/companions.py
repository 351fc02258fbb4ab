"""Copies of the official id files and the taxonomy beside the shards."""

import filecmp
import pathlib
import shutil

from etils import epath

from ilias_jax import atomic

_FOLDERS = ("image_ids", "misc")


def copy_companions(root: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Copies `image_ids/` and `misc/` into a data folder that is another folder than `root`."""
    for folder in _FOLDERS:
        for path in sorted((root / folder).glob("*")):
            copy = data_dir / folder / path.name
            if not path.is_file() or path.name.startswith(".") or _same(path, copy):
                continue
            with atomic.replacing(epath.Path(copy)) as temporary:
                shutil.copyfile(path, temporary)


def _same(path: pathlib.Path, copy: pathlib.Path) -> bool:
    return copy.exists() and (path.samefile(copy) or filecmp.cmp(path, copy, shallow=False))
