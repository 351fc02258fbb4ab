"""One part of a ScaNN index: trained from rows, kept in one file, loaded again."""

import os
import shutil
import tempfile
import zipfile
from typing import Any

import numpy as np
from etils import epath

from ilias_jax import atomic
from ilias_jax.config import ScannConfig
from ilias_jax.errors import UserError


def build(rows: np.ndarray, num_leaves: int, config: ScannConfig) -> Any:
    """Trains and fills an index of the rows [n, D] float32.

    It keeps codes alone and no vectors: its candidates are scored elsewhere.

    Returns:
        ScaNN's own object.
    """
    from scann.scann_ops.py import scann_ops_pybind  # loads a large library: only when needed

    sample = min(len(rows), config.training_sample_size)
    soar = {
        "soar_lambda": config.soar_lambda,
        "overretrieve_factor": config.overretrieve_factor,
    }
    # The numbers of neighbours and of leaves to search are given again with every search.
    return (
        scann_ops_pybind.builder(rows, 1, "dot_product")
        .tree(num_leaves, 1, training_sample_size=sample, **(soar if config.soar_lambda else {}))
        .score_ah(
            config.dimensions_per_block,
            anisotropic_quantization_threshold=config.anisotropic_threshold,
            training_sample_size=sample,
        )
        .build()
    )


def save(searcher: Any, path: epath.Path, mark: str) -> None:
    """Writes an index as one file, an uncompressed zip, whole or not at all.

    Args:
        searcher: of `build`.
        path: may lie in a bucket; ScaNN itself writes to local disks alone.
        mark: what the part belongs to; `load` compares it.
    """
    with tempfile.TemporaryDirectory() as folder:
        searcher.serialize(folder, True)
        with (
            atomic.replacing(path) as temporary,
            temporary.open("wb") as file,
            zipfile.ZipFile(file, "w") as archive,
        ):
            archive.comment = mark.encode()
            for name in sorted(os.listdir(folder)):
                entry = zipfile.ZipInfo(name)  # without the time of day
                with (
                    open(os.path.join(folder, name), "rb") as source,
                    archive.open(entry, "w", force_zip64=True) as target,
                ):
                    shutil.copyfileobj(source, target, 2**20)


def load(path: epath.Path, mark: str) -> Any:
    """Reads an index that `save` wrote.

    Raises:
        UserError: the file is damaged, or belongs to something else.
    """
    from scann.scann_ops.py import scann_ops_pybind

    with tempfile.TemporaryDirectory() as folder:
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                found = archive.comment.decode(errors="replace")
                if found != mark:
                    raise UserError(
                        f"{path} is a part of another index ({found!r}, not {mark!r}); remove it "
                        "and run again"
                    )
                archive.extractall(folder)
        except (zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{path} is damaged ({error}); remove it and run again") from error
        return scann_ops_pybind.load_searcher(folder)
