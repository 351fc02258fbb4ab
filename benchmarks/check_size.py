"""Time and memory of the official lists and of `ilias-jax check`, on synthetic ids.

    python benchmarks/check_size.py --ids 10000000 --mini 5000000 --output RESULT.json

Writes a data folder whose inventories hold so many ids, a hundred thousand a shard as the official
tars do, and beside it the lists of all and of the mini ids (as keys). There are no images: a check
reads inventories alone. Every measurement is a process of its own with one thread. Time is that of
its processor; memory is what its peak rose by after the libraries were loaded.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from etils import epath

from ilias_jax.dataset import layout, shards
from ilias_jax.dataset.check import check_dataset
from ilias_jax.dataset.inventory import Inventory, ShardFile, Source
from ilias_jax.dataset.layout import inventory_path
from ilias_jax.dataset.reader import IliasDataset

_IDS_PER_TAR = 100_000
_MEASURES = ("read_mini", "look_up_one", "read_full", "check_mini", "check_full")


def _keys(tar: int, count: int) -> Iterator[str]:
    """Keys as long as YFCC's hashes; seeded by their place."""
    for number in range(count):
        yield hashlib.md5(b"%d/%d" % (tar, number)).hexdigest()


def _write_shard(folder: epath.Path, split: str, number: int, total: int, ids: list[str]) -> int:
    """Writes an inventory, and an empty file in place of the shard; returns the records."""
    name = f"ilias-{split}.array_record-{number:05d}-of-{total:05d}"
    (layout.images_folder(folder) / name).write_bytes(b"")
    inventory = Inventory(
        Source(name, 0, "0" * 64), ShardFile(name, 0, len(ids), len(ids)), tuple(ids), ()
    )
    inventory.write(inventory_path(folder, split, number, total))
    return len(ids)


def write_folder(folder: pathlib.Path, num_ids: int, num_mini: int) -> None:
    """Writes inventories, metadata and lists for `num_ids` distractors."""
    images = layout.images_folder(folder)
    for path in (images, folder / "image_ids"):
        path.mkdir(parents=True)
    num_tars = -(-num_ids // _IDS_PER_TAR)
    counts = []
    with (
        gzip.open(folder / "image_ids" / "distractor_ids.txt.gz", "wt", compresslevel=1) as full,
        (folder / "image_ids" / "mini_ilias_yfcc100m_ids.txt").open("w") as mini,
    ):
        for tar in range(num_tars):
            keys = list(_keys(tar, min(_IDS_PER_TAR, num_ids - tar * _IDS_PER_TAR)))
            ids = [f"yfcc100m_{tar:04d}.tar/{key}" for key in keys]
            full.write("".join(f"{image_id}\n" for image_id in ids))
            chosen = keys[: num_mini * (tar + 1) // num_tars - num_mini * tar // num_tars]
            mini.write("".join(f"{key}\n" for key in chosen))
            number = _write_shard(epath.Path(folder), "distractor", tar, num_tars, ids)
            counts.append((number, number))
    core = {split: [(0, 0)] for split in ("image_query", "positive")}
    for split in core:
        _write_shard(epath.Path(folder), split, 0, 1, [])
    shards.write_metadata(
        images, shards.image_features(), {**core, "distractor": counts}, "synthetic"
    )


def measure(folder: pathlib.Path, name: str) -> dict[str, object]:
    """Runs one measurement in this process."""
    what, _, subset = name.partition("_")
    dataset = IliasDataset(epath.Path(folder), "full" if subset == "full" else "mini")
    if what == "look":
        assert dataset.selected is not None
    facts: dict[str, float]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if what == "read":
        found = dataset.read_expected()
        assert found is not None
        facts = {"ids": len(found), "array_mb": round(found.hashes.nbytes / 1e6, 1)}
    elif what == "check":
        check = check_dataset(dataset, truth=None)
        assert not check.problems, check.problems
        facts = {"ids": check.distractors.found or 0, "unselected": check.num_unselected}
    else:
        selected, keys = dataset.selected, [f"x.tar/{key}" for key in _keys(0, 100_000)]
        assert selected is not None
        start = time.process_time()
        count = sum(1 for key in keys if key in selected)
        facts = {"ids": len(keys), "found": count}
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        **facts,
        "cpu_seconds": round(seconds, 2),
        "us_per_id": round(1e6 * seconds / (facts["ids"] or 1), 2),
        "peak_mb": round((peak - before) / 1024),
    }


def main() -> None:
    """Writes the folder, measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=10_000_000, help="of all distractors")
    parser.add_argument("--mini", type=int, default=5_000_000, help="of the selection")
    parser.add_argument("--output", help="JSON file of the results")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(pathlib.Path(arguments.measure[0]), arguments.measure[1])))
        return
    results: dict[str, object] = {"num_ids": arguments.ids, "num_mini": arguments.mini}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "data"
        write_folder(folder, arguments.ids, arguments.mini)
        for name in _MEASURES:
            command = [sys.executable, __file__, "--measure", str(folder), name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, results[name], flush=True)
    if arguments.output:
        pathlib.Path(arguments.output).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
