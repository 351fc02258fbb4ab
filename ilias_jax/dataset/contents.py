"""What every shard of a dataset holds, from its inventory or from its records."""

import dataclasses
from collections.abc import Iterator

from etils import epath
from google.protobuf.message import DecodeError

from ilias_jax.dataset import inventory
from ilias_jax.dataset.findings import NUM_EXAMPLES, Findings
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.errors import UserError
from ilias_jax.records import IMAGE_SPLITS, ImageRecord, Shard, Split

_JPEG = b"\xff\xd8\xff"


@dataclasses.dataclass(frozen=True)
class Contents:
    """A shard as a check sees it.

    Attributes:
        num_records: as dataset_info.json says.
        ids: in record order; None if they are not known.
        rejected: (id, reason) of images of the source that are not in the shard.
    """

    num_records: int
    ids: tuple[str, ...] | None
    rejected: tuple[tuple[str, str], ...] = ()


def read_contents(
    dataset: IliasDataset, split: Split, findings: Findings, num_threads: int | None
) -> Iterator[Contents]:
    """Yields what the shards of a split hold, in order, and notes what does not fit.

    Args:
        dataset: the folder.
        split: of its images.
        findings: receives problems.
        num_threads: None to read inventories alone; otherwise every record of the shards is read
            too, by so many threads, and compared with the inventory.
    """
    payload_bytes, all_there = 0, True
    files = dataset.files(split)
    for number, (path, num_records) in enumerate(files):
        found = _inventory(dataset, split, number, findings, num_threads)
        if found is not None:
            _compare_file(path, num_records, found, findings)
            payload_bytes += found.shard.payload_bytes
        all_there &= found is not None
        if not path.exists():
            findings.add("missing_shards", [path.name])
        ids = None if found is None else found.ids
        if num_threads and path.exists():
            shard = Shard(split, number, len(files), num_records, path.name, 0, "")
            ids = _read_ids(dataset, shard, ids, findings, num_threads)
        yield Contents(num_records, ids, () if found is None else found.rejected)
    expected = dataset.num_payload_bytes(split)
    if all_there and payload_bytes != expected:
        note = f"{split}: {expected:,} bytes, not {payload_bytes:,}"
        findings.add("wrong_dataset_info", [note])


def _inventory(
    dataset: IliasDataset, split: Split, number: int, findings: Findings, num_threads: int | None
) -> inventory.Inventory | None:
    """A shard's inventory, None if it has none that can be read."""
    path = dataset.inventory_path(split, number)
    if not path.exists():
        # A folder without any was made before there were inventories; its records say all.
        if not num_threads or path.parent.exists():
            findings.add("missing_inventories", [dataset.files(split)[number][0].name])
        return None
    try:
        return inventory.read(path)
    except UserError as error:
        findings.add("damaged_inventories", [str(error)])
        return None


def _compare_file(
    path: epath.Path, num_records: int, found: inventory.Inventory, findings: Findings
) -> None:
    """Compares an inventory with its shard file and with dataset_info.json."""
    if path.exists():
        size = path.stat().length
        if (found.shard.file, found.shard.num_bytes) != (path.name, size):
            said = f"{found.shard.file} of {found.shard.num_bytes:,} bytes"
            findings.add("stale_inventories", [f"{path.name} of {size:,} bytes, not {said}"])
    if len(found.ids) != num_records:
        note = f"{path.name}: {num_records:,} records, not {len(found.ids):,}"
        findings.add("wrong_dataset_info", [note])


def _look(record: ImageRecord) -> tuple[str, bool]:
    return record.image_id, record.jpeg.startswith(_JPEG)


def _read_ids(
    dataset: IliasDataset,
    shard: Shard,
    expected: tuple[str, ...] | None,
    findings: Findings,
    num_threads: int,
) -> tuple[str, ...] | None:
    """Reads all records of a shard; returns their ids, or `expected` if they cannot be read."""
    full = IliasDataset(dataset.data_dir)
    try:
        looked = list(full.read(shard, _look, num_threads))
    # What Grain, TFDS and ArrayRecord raise for damage depends on where it is.
    except (UserError, RuntimeError, ValueError, KeyError, IndexError, DecodeError) as error:
        findings.add("damaged_shards", [f"{shard.file_name} ({error})"])
        return expected
    ids = tuple(image_id for image_id, _ in looked)
    findings.add("no_jpeg", [image_id for image_id, is_jpeg in looked if not is_jpeg])
    if expected is not None and ids != expected:
        other = [n for n, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]]
        count = len(other) + abs(len(ids) - len(expected))
        notes = [
            f"{shard.file_name}, record {n}: {ids[n]!r}, not {expected[n]!r}"
            for n in other[:NUM_EXAMPLES]
        ]
        findings.add("other_records", notes, count)
    return ids


def find_unlisted_files(dataset: IliasDataset, findings: Findings) -> None:
    """Notes shard files and inventories that belong to no shard of dataset_info.json."""
    listed: set[str] = set()
    folders: set[epath.Path] = set()
    for split in IMAGE_SPLITS:
        for number, (path, _) in enumerate(dataset.files(split)):
            inventory_path = dataset.inventory_path(split, number)
            listed |= {path.name, inventory_path.name}
            folders |= {path.parent, inventory_path.parent}
    found = [
        path.name
        for folder in sorted(folders)
        if folder.exists()
        for path in folder.iterdir()
        if ".array_record-" in path.name or path.parent.name == "inventory"
    ]
    left_over = [name for name in found if name not in listed and not name.startswith(".")]
    findings.add("unlisted_files", sorted(left_over))
