"""The inventory of a shard: what went into it, what did not and why, and from which source.

It is written after the shard and is the mark that the shard is done. All images of the source are
in it, by id: those stored and those rejected.
"""

import dataclasses
import json
from typing import Any

from etils import epath

from ilias_jax import atomic
from ilias_jax.dataset import shards
from ilias_jax.errors import UserError

FORMAT = "ilias-jax inventory 1"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a shard's images came from.

    Attributes:
        file: name of the tar, or of the folder, without the path to it.
        num_bytes: size of the tar, or of the files taken from the folder.
        digest: sha256 that tells sources apart: of a tar's head and tail, or of a listing.
    """

    file: str
    num_bytes: int
    digest: str


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """The ArrayRecord file.

    Attributes:
        file: its name without the folder.
        num_bytes: its size.
        num_records: the images in it.
        payload_bytes: bytes of all serialized records, as TFDS metadata counts them.
    """

    file: str
    num_bytes: int
    num_records: int
    payload_bytes: int


@dataclasses.dataclass(frozen=True)
class Inventory:
    """One shard's images.

    Attributes:
        source: where they came from.
        shard: where they are.
        ids: of the stored images, in the order of their records.
        rejected: (id, reason) of every image of the source that is not in the shard.

    Raises:
        ValueError: there are not as many ids as records.
    """

    source: Source
    shard: ShardFile
    ids: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        """Checks the rule of the class docstring."""
        if len(self.ids) != self.shard.num_records:
            raise ValueError(f"{len(self.ids)} ids for {self.shard.num_records} records")

    @property
    def num_images(self) -> int:
        """Images in the source: the stored and the rejected ones."""
        return len(self.ids) + len(self.rejected)

    def write(self, path: epath.Path) -> None:
        """Writes the inventory as JSON, whole or not at all."""
        document = {
            "format": FORMAT,
            "source": dataclasses.asdict(self.source),
            "shard": dataclasses.asdict(self.shard),
            "num_images": self.num_images,
            "ids": self.ids,
            "rejected": self.rejected,
        }
        atomic.write_bytes(path, (json.dumps(document) + "\n").encode())


def path_of(data_dir: epath.Path, split: str, number: int, num_shards: int) -> epath.Path:
    """Where the inventory of a split's shard is."""
    folder = epath.Path(data_dir) / "ilias" / shards.VERSION / "inventory"
    return folder / f"{split}-{number:05d}-of-{num_shards:05d}.json"


def read(path: epath.Path) -> Inventory:
    """Reads an inventory.

    Raises:
        UserError: the file is missing, no inventory, or its counts do not agree.
    """
    try:
        document = json.loads(epath.Path(path).read_text())
        return _parse(document)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; `ilias-jax convert` writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no inventory ({error}); remove it and run `ilias-jax convert` again"
        ) from error


def _parse(document: dict[str, Any]) -> Inventory:
    """Builds an inventory from JSON; whatever is wrong is a ValueError, KeyError or TypeError."""
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}, expected {FORMAT!r}")
    inventory = Inventory(
        source=Source(**document["source"]),
        shard=ShardFile(**document["shard"]),
        ids=tuple(document["ids"]),
        rejected=tuple((image_id, reason) for image_id, reason in document["rejected"]),
    )
    if document["num_images"] != inventory.num_images:
        raise ValueError(
            f"num_images is {document['num_images']}, but {len(inventory.ids)} ids and "
            f"{len(inventory.rejected)} rejected are listed"
        )
    return inventory
