"""A shard with its inventory: writing both, and finding those that are there."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

from etils import epath

from ilias_jax.dataset import inventory, shards
from ilias_jax.dataset.inventory import Inventory, ShardFile, Source
from ilias_jax.records import ImageRecord, Split


@dataclasses.dataclass(frozen=True)
class Place:
    """A shard's place in a data folder: which split, its number from 0, and of how many."""

    data_dir: pathlib.Path
    split: Split
    number: int
    num_shards: int

    @property
    def shard_name(self) -> str:
        """Name of the ArrayRecord file."""
        return shards.image_shard_name(self.split, self.number, self.num_shards)

    @property
    def shard(self) -> pathlib.Path:
        """The ArrayRecord file."""
        return shards.images_folder(self.data_dir) / self.shard_name

    @property
    def inventory(self) -> pathlib.Path:
        """The inventory's file."""
        data_dir = epath.Path(self.data_dir)
        return pathlib.Path(inventory.path_of(data_dir, self.split, self.number, self.num_shards))


def write(
    place: Place,
    source: Source,
    records: Iterable[ImageRecord],
    rejected: Sequence[tuple[str, str]],
) -> Inventory:
    """Writes a shard, then its inventory.

    Args:
        place: where they go.
        source: of the images.
        records: the images to store, in order; an error that they raise leaves nothing behind.
        rejected: (id, reason) of the others; read when the last record was taken.
    """
    ids: list[str] = []

    def noted() -> Iterable[ImageRecord]:
        for record in records:
            ids.append(record.image_id)
            yield record

    place.inventory.unlink(missing_ok=True)  # it would speak of another file
    num_records, payload_bytes = shards.write_image_shard(
        place.data_dir, place.split, place.number, place.num_shards, noted()
    )
    num_bytes = place.shard.stat().st_size
    shard = ShardFile(place.shard_name, num_bytes, num_records, payload_bytes)
    done = Inventory(source, shard, tuple(ids), tuple(rejected))
    done.write(epath.Path(place.inventory))
    return done


def find(place: Place) -> Inventory | None:
    """The inventory at a place, None if it is not there or its shard is not.

    Raises:
        UserError: the file is no inventory.
    """
    if not place.inventory.exists():
        return None
    found = inventory.read(epath.Path(place.inventory))
    whole = (
        found.shard.file == place.shard_name
        and place.shard.is_file()
        and place.shard.stat().st_size == found.shard.num_bytes
    )
    return found if whole else None


@dataclasses.dataclass(frozen=True)
class Summary:
    """An inventory without its ids, of which a whole dataset has 100 million."""

    source: Source
    shard: ShardFile
    num_rejected: int


def summarize(place: Place) -> Summary | None:
    """The summary of the inventory at a place, None if it is not there or its shard is not."""
    found = find(place)
    return Summary(found.source, found.shard, len(found.rejected)) if found else None


def find_all(data_dir: pathlib.Path, split: Split) -> dict[Place, Summary]:
    """All finished shards of a split, of whatever number of shards."""
    found = {}
    folder = Place(data_dir, split, 0, 1).inventory.parent
    for path in sorted(folder.glob(f"{split}-?????-of-?????.json")):
        number, num_shards = path.stem.removeprefix(f"{split}-").split("-of-")
        place = Place(data_dir, split, int(number), int(num_shards))
        if done := summarize(place):
            found[place] = done
    return found


def move(now: Place, to_be: Place) -> None:
    """Renames a finished shard; what is at the other place goes.

    The new inventory comes first and the old one goes last: one without its shard counts for
    nothing, so a run that is killed in between leaves exactly one that counts.
    """
    done = inventory.read(epath.Path(now.inventory))
    to_be.inventory.unlink(missing_ok=True)
    to_be.shard.unlink(missing_ok=True)
    shard = dataclasses.replace(done.shard, file=to_be.shard_name)
    dataclasses.replace(done, shard=shard).write(epath.Path(to_be.inventory))
    now.shard.replace(to_be.shard)
    now.inventory.unlink()
