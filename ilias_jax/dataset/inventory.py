"""The inventory of a shard: what went into it, what did not and why, and from which source.

It is written after the shard and is the mark that the shard is done. All images of the source are
in it, by id: those stored and those rejected.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from ilias_jax import files
from ilias_jax.dataset import layout
from ilias_jax.dataset.layout import ImageRecord, Split
from ilias_jax.dataset.shards import write_image_shard
from ilias_jax.errors import UserError

_FORMAT = "ilias-jax inventory 1"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a shard's images came from."""

    file: str  # name of the tar, or of the folder, without the path to it
    num_bytes: int  # of the tar, or of the files taken from the folder
    digest: str  # sha256 that tells sources apart: of a tar's head and tail, or of a listing


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """The ArrayRecord file."""

    file: str  # its name without the folder
    num_bytes: int
    num_records: int
    payload_bytes: int  # of all serialized records, as TFDS metadata counts them


@dataclasses.dataclass(frozen=True)
class Inventory:
    """One shard's images."""

    source: Source
    shard: ShardFile
    ids: tuple[str, ...]  # of the stored images, in the order of their records
    rejected: tuple[tuple[str, str], ...]  # (id, reason) of every other image of the source

    def write(self, path: epath.PathLike) -> None:
        """Writes the inventory as JSON, whole or not at all."""
        document = {
            "format": _FORMAT,
            "source": dataclasses.asdict(self.source),
            "shard": dataclasses.asdict(self.shard),
            "num_images": len(self.ids) + len(self.rejected),
            "ids": self.ids,
            "rejected": self.rejected,
        }
        files.write_bytes(epath.Path(path), (json.dumps(document) + "\n").encode())


_EXPECTED = "remove it and run `ilias-jax convert` again"


def read_inventory(path: epath.PathLike) -> Inventory:
    """Reads an inventory; a UserError if it is missing, none, or its counts do not agree."""
    if not epath.Path(path).exists():
        raise UserError(f"{path} is missing; `ilias-jax convert` writes it")
    document = files.read_json(path, _EXPECTED)
    try:
        return _parse(document)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no inventory ({error}); {_EXPECTED}") from error


def _parse(document: dict[str, Any]) -> Inventory:
    if document["format"] != _FORMAT:
        raise ValueError(f"format {document['format']!r}, expected {_FORMAT!r}")
    source, shard = Source(**document["source"]), ShardFile(**document["shard"])
    ids = tuple(document["ids"])
    rejected = tuple((image_id, reason) for image_id, reason in document["rejected"])
    if len(ids) != shard.num_records:
        raise ValueError(f"{len(ids)} ids for {shard.num_records} records")
    if document["num_images"] != len(ids) + len(rejected):
        listed = f"{len(ids)} ids and {len(rejected)} rejected are listed"
        raise ValueError(f"num_images is {document['num_images']}, but {listed}")
    return Inventory(source, shard, ids, rejected)


@dataclasses.dataclass(frozen=True)
class ShardSlot:
    """Where a shard goes in a data folder: which split, its number from 0, and of how many."""

    data_dir: pathlib.Path
    split: Split
    number: int
    num_shards: int

    @property
    def shard(self) -> pathlib.Path:
        """The ArrayRecord file."""
        return layout.shard_path(self.data_dir, self.split, self.number, self.num_shards)

    @property
    def inventory(self) -> pathlib.Path:
        """The inventory's file."""
        return layout.inventory_path(self.data_dir, self.split, self.number, self.num_shards)

    def write(
        self,
        source: Source,
        records: Iterable[ImageRecord],
        rejected: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes a shard of the records of a source, then its inventory.

        An error that `records` raises leaves nothing behind. `rejected`, (id, reason) of the
        source's other images, is read when the last record was taken.
        """
        ids: list[str] = []

        def noted() -> Iterator[ImageRecord]:
            for record in records:
                ids.append(record.image_id)
                yield record

        self.inventory.unlink(missing_ok=True)  # it would speak of another file
        counts = write_image_shard(self.data_dir, self.split, self.number, self.num_shards, noted())
        shard = ShardFile(self.shard.name, self.shard.stat().st_size, *counts)
        Inventory(source, shard, tuple(ids), tuple(rejected)).write(self.inventory)

    def read(self) -> Inventory | None:
        """The inventory, None if it or its shard is not there; a UserError if it is none."""
        if not self.inventory.exists():
            return None
        found = read_inventory(self.inventory)
        size = self.shard.stat().st_size if self.shard.is_file() else None
        is_whole = (found.shard.file, found.shard.num_bytes) == (self.shard.name, size)
        return found if is_whole else None

    def move(self, target: "ShardSlot") -> None:
        """Renames a finished shard; what is in the other slot goes.

        The new inventory comes first and the old one goes last: one without its shard counts for
        nothing, so a run that is killed in between leaves exactly one that counts.
        """
        done = read_inventory(self.inventory)
        target.inventory.unlink(missing_ok=True)
        target.shard.unlink(missing_ok=True)
        shard = dataclasses.replace(done.shard, file=target.shard.name)
        dataclasses.replace(done, shard=shard).write(target.inventory)
        self.shard.replace(target.shard)
        self.inventory.unlink()


def finished_shards(data_dir: pathlib.Path, split: Split) -> dict[ShardSlot, Source]:
    """The sources of all finished shards of a split, of whatever number of shards."""
    found, folder = {}, layout.images_folder(data_dir) / "inventory"
    for path in sorted(folder.glob(f"{split}-?????-of-?????.json")):
        number, num_shards = map(int, path.stem.removeprefix(f"{split}-").split("-of-"))
        slot = ShardSlot(data_dir, split, number, num_shards)
        if done := slot.read():
            found[slot] = done.source
    return found
