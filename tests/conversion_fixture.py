"""Copies of a world in the official layout alone, and what a data folder holds."""

import hashlib
import pathlib
import shutil

import tensorflow_datasets as tfds

RAW = {"image": tfds.decode.SkipDecoding()}
IMAGES = "ilias/1.0.0"


def official_copy(world: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """A copy of the official layout without shards, to be damaged."""
    for name in ("ilias_core", "image_ids", "yfcc100m", "misc"):
        shutil.copytree(world / name, root / name)
    return root


def hashes(folder: pathlib.Path) -> dict[str, str]:
    """Relative path -> sha256 of every file, hidden ones included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def mtimes(folder: pathlib.Path) -> dict[str, int]:
    """Relative path -> time of the last change."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stored(data_dir: pathlib.Path, split: str) -> list[tuple[str, bytes, list[list[float]]]]:
    """(id, JPEG, boxes) of all records of a split, read through TFDS."""
    source = tfds.builder_from_directory(data_dir / IMAGES).as_data_source(split, decoders=RAW)
    return [(e["id"].decode(), e["image"], e["boxes"].tolist()) for e in source]
