"""Inventories for a data folder that a test has written, made from its records."""

import json
import pathlib
import shutil

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from ilias_jax.dataset.inventory import Inventory, ShardFile, Source
from ilias_jax.dataset.layout import IMAGE_SPLITS, inventory_path

Rejected = dict[int, list[tuple[str, str]]]
_RAW = {"image": tfds.decode.SkipDecoding()}


def write(data_dir: pathlib.Path, rejected: Rejected | None = None) -> None:
    """Writes an inventory for every shard; `rejected` is distractor shard -> (id, reason)."""
    remove(data_dir)
    builder = tfds.builder_from_directory(data_dir / "ilias" / "1.0.0")
    for split in IMAGE_SPLITS:
        names = builder.info.splits[split].filenames
        for number, name in enumerate(sorted(names)):
            path = data_dir / "ilias" / "1.0.0" / name
            part = f"{split}[{number}shard:{number + 1}shard]"
            records = builder.as_data_source(part, decoders=_RAW)
            ids = tuple(record["id"].decode() for record in records)
            reader = ArrayRecordReader(str(path))
            payload = sum(map(len, reader.read_all())) if ids else 0
            reader.close()
            aside = (rejected or {}).get(number, []) if split == "distractor" else []
            Inventory(
                Source(ids[0].split("/")[0] if ids else "empty.tar", 1, "0" * 64),
                ShardFile(name, path.stat().st_size, len(ids), payload),
                ids,
                tuple(aside),
            ).write(path_of(data_dir, split, number))


def path_of(data_dir: pathlib.Path, split: str, number: int) -> epath.Path:
    """Where a shard's inventory is."""
    info = json.loads((data_dir / "ilias" / "1.0.0" / "dataset_info.json").read_text())
    counts = {part["name"]: len(part["shardLengths"]) for part in info["splits"]}
    return inventory_path(epath.Path(data_dir), split, number, counts[split])


def remove(data_dir: pathlib.Path) -> None:
    """Takes all inventories away, as a folder has none that was made before there were any."""
    shutil.rmtree(data_dir / "ilias" / "1.0.0" / "inventory", ignore_errors=True)
