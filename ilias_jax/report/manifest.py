"""What a report says of its own making: data, model, versions, commit, machine and date."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

import jax
import numpy as np

from ilias_jax.embeddings.extract import EmbeddedDataset
from ilias_jax.metrics.published import describe_dtype
from ilias_jax.model import Model, Preprocessing

_PACKAGES = (
    *("ilias-jax", "jax", "jaxlib", "flax", "numpy", "pillow", "grain", "array_record"),
    *("tensorflow-datasets", "scann"),
)


def _commit() -> str | None:
    """Commit of the checkout that this code runs from, with "+changes"; None outside of one."""
    folder = pathlib.Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # no git on this machine, or no commit yet: the report then has no commit


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine() -> dict[str, object]:
    """The machine and its devices, in plain values."""
    devices = jax.local_devices()
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "backend": jax.default_backend(),
        "processes": jax.process_count(),
    }


def make_manifest(config: dict[str, object], dataset: dict[str, object]) -> dict[str, object]:
    """The report's manifest, of a run's configuration as plain values and its dataset section."""
    return {
        "config": config,
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in _PACKAGES},
        },
        "dataset_counts": {key: value for key, value in dataset.items() if key.startswith("num_")},
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
    }


def _describe_canvas(preprocessing: Preprocessing) -> dict[str, object]:
    """What a model of whole squares sees, which the published protocol has not."""
    if preprocessing.max_side > 1:
        return {}  # the image's own grid of patches, padded to whole patches alone
    side = preprocessing.patch_size
    return {"canvas": f"{side} x {side}, padded with the mean colour"}


def describe_model(model: Model, embedded: EmbeddedDataset) -> dict[str, object]:
    """The report's model section."""
    leaves = jax.tree.leaves(model.parameters)
    return {
        "name": model.name,
        "checkpoint": model.checkpoint,
        "sha256": model.fingerprint.get("sha256"),
        **{key: value for key, value in model.fingerprint.items() if key != "name"},
        **model.text_fingerprint,
        **model.origin,
        "dtype_error": describe_dtype(str(model.fingerprint.get("dtype"))),
        "resolution": model.preprocessing.resolution,
        "patch_size": model.preprocessing.patch_size,
        **_describe_canvas(model.preprocessing),
        "embedding_dim": embedded.images["image_query"].dim,
        "num_parameters": sum(int(np.prod(leaf.shape)) for leaf in leaves),
    }
