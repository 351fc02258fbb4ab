"""The files of core ILIAS, in a folder or inside tars, by their official names."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable
from typing import Protocol

from etils import epath

from ilias_jax.dataset import tar
from ilias_jax.dataset.digest import head_and_tail
from ilias_jax.errors import UserError

_FOLDER = "ilias_core/"  # some tars have it before every name


class CoreFiles(Protocol):
    """Files by official name, such as "mug_012/pos/P012_03.jpg"."""

    @property
    def name(self) -> str:
        """Of the folder or the tars, without the path to them."""
        ...

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None if there is none."""
        ...

    def place(self, name: str) -> str:
        """Where a file is or would be, for messages."""
        ...

    def identity(self, names: Iterable[str]) -> tuple[int, list[str]]:
        """Bytes in all, and what must be equal for the named files to be the same as before."""
        ...


@dataclasses.dataclass(frozen=True)
class CoreFolder:
    """The folder `ilias_core/`."""

    path: pathlib.Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None if there is none."""
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def place(self, name: str) -> str:
        """Path of a file."""
        return str(self.path / name)

    def identity(self, names: Iterable[str]) -> tuple[int, list[str]]:
        """Sizes, and digests of whole files: core is small, and no file vouches for a folder."""
        paths = [self.path / name for name in names]
        parts = [f"{path.stat().st_size} {head_and_tail(epath.Path(path))}" for path in paths]
        return sum(path.stat().st_size for path in paths), parts


@dataclasses.dataclass(frozen=True)
class CoreTars:
    """`ilias_core.tar`, or the core tars of the Hugging Face copy, read through an index.

    Raises:
        DamagedTarError: one cannot be read to its end (when it is first used).
    """

    paths: tuple[pathlib.Path, ...]

    @property
    def name(self) -> str:
        """Names of the tars."""
        return ", ".join(path.name for path in self.paths)

    @functools.cached_property
    def _index(self) -> dict[str, tuple[pathlib.Path, tar.Member]]:
        """Official name -> tar and member; the data of no file is read."""
        index: dict[str, tuple[pathlib.Path, tar.Member]] = {}
        for path in self.paths:
            for member in tar.members(path, wanted=lambda name: False):
                name = member.name.removeprefix("./").removeprefix(_FOLDER)
                if member.kind == tar.FOLDER:
                    continue
                if name in index:
                    raise UserError(
                        f"{name} is in {index[name][0]} and again in {path} at byte "
                        f"{member.offset:,}; download core again"
                    )
                index[name] = path, member
        return index

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None if there is none.

        Raises:
            UserError: the member is no file, or larger than any image.
        """
        if name not in self._index:
            return None
        path, member = self._index[name]
        if member.kind != tar.FILE or member.size > tar.MAX_MEMBER_BYTES:
            raise UserError(
                f"{path}: {name} is {member.kind} of {member.size:,} bytes; expected a file of at "
                f"most {tar.MAX_MEMBER_BYTES:,}; download core again"
            )
        with path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def place(self, name: str) -> str:
        """The tar and a file's name in it."""
        path = self._index[name][0] if name in self._index else self.name
        return f"{path}: {name}"

    def identity(self, names: Iterable[str]) -> tuple[int, list[str]]:
        """Sizes, and digests of the tars' heads and tails."""
        del names
        parts = [f"{path.name} {head_and_tail(epath.Path(path))}" for path in self.paths]
        return sum(path.stat().st_size for path in self.paths), parts
