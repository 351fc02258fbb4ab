"""`ilias-jax adapt`: trains a linear adapter on embeddings with classes."""

import argparse
import functools
import hashlib
import pathlib
from typing import TYPE_CHECKING

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError, quoted

if TYPE_CHECKING:
    import numpy as np


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("adapt", help="train a linear adapter on embeddings")
    parser.add_argument(
        "--features",
        type=path_flag,
        required=True,
        nargs="+",
        help="official .hdf5 or our .safetensors files of the training pictures",
    )
    parser.add_argument(
        "--info", type=path_flag, required=True, help="file with lines path,class,domain"
    )
    parser.add_argument(
        "--output", type=path_flag, required=True, help="the adapter, a .safetensors file"
    )
    parser.add_argument("--epochs", type=int, default=5, help="passes over the data")
    parser.add_argument("--batch_size", type=int, default=128, help="embeddings of a step")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--dim", type=int, default=512, help="channels of the adapted embedding")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and batch order")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax import files
    from ilias_jax.adaptation import train

    output = epath.Path(arguments.output)
    if output.suffix != ".safetensors":
        raise UserError(f"--output {output} must end in .safetensors")
    files.check_output(output, [*arguments.features, arguments.info])
    names = ("dim", "epochs", "batch_size", "seed")
    recipe = train.Recipe(
        learning_rate=arguments.lr, **{name: getattr(arguments, name) for name in names}
    )
    listed = train.read_training_list(arguments.info)
    train.check(recipe, len(listed.paths), listed.num_classes)
    rows, ids = read_features(arguments.features)
    classes = train.classes_of(listed, ids, ", ".join(arguments.features))
    print(f"{len(rows):,} embeddings of {rows.shape[1]} channels, {listed.num_classes:,} classes")
    origin = {
        "features": hashlib.sha256(rows.data.cast("B")).hexdigest(),
        "info": files.sha256(arguments.info),
        "files": [pathlib.Path(name).name for name in [*arguments.features, arguments.info]],
    }

    tell = functools.partial(print, flush=True)
    adapter = train.fit(recipe, rows, classes, listed.num_classes, origin, tell)
    adapter.save(output)
    print(f"adapter: {output}, {adapter.input_dim} to {adapter.dim} channels")


def read_features(paths: list[str]) -> "tuple[np.ndarray, list[str]]":
    """Rows [N, D] float16 or float32 of all files in order, and their ids; checks files and D."""
    import numpy as np
    from etils import epath

    from ilias_jax.embeddings.files import EmbeddingFiles
    from ilias_jax.official.features import read_as_stored

    parts, ids = [], []
    for name in paths:
        path = epath.Path(name)
        if path.suffix == ".safetensors":
            files = EmbeddingFiles([path])
            part, names = files.vectors(), files.ids()
        else:
            part, names = read_as_stored(path)
        parts.append(part)
        ids += names
    shapes = sorted({part.shape[1] for part in parts})
    if len(shapes) > 1:
        raise UserError(f"--features: the files have embeddings of {shapes} channels")
    rows = np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise UserError(
            f"--features: {bad.size:,} rows are not finite, first {quoted(ids[bad[0]])}"
        )
    return rows, ids
