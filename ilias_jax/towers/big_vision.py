"""big_vision's npz checkpoints of SigLIP: one table of names, read and written.

A checkpoint is a flat npz whose keys join the parameter tree by "/", with or without a leading
"params/". An encoder's blocks come one by one (`encoderblock_{i}/...`) or stacked
(`encoderblock/...` with a leading depth axis); either layout is read for either tower. NaFlex
models embed patches by a dense layer and keep their position grid as a grid.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.towers.parameters import (
    Towers,
    as_float32,
    parameter_shapes,
    require_family,
    require_fit,
)
from ilias_jax.towers.two_towers import TowersConfig

_ATTENTION = {
    f"{name}/{leaf}": f"{name}.{leaf}"
    for name in ("query", "key", "value", "out")
    for leaf in ("kernel", "bias")
}
_NORM = {"scale": "scale", "bias": "bias"}
_MLP = {
    f"{theirs}/{leaf}": f"{ours}.{leaf}"
    for theirs, ours in (("Dense_0", "up"), ("Dense_1", "down"))
    for leaf in ("kernel", "bias")
}


def _under(theirs: str, ours: str, table: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}/{key}": f"{ours}.{value}" for key, value in table.items()}


_BLOCK = {
    **_under("LayerNorm_0", "norm1", _NORM),
    **_under("MultiHeadDotProductAttention_0", "attention", _ATTENTION),
    **_under("LayerNorm_1", "norm2", _NORM),
    **_under("MlpBlock_0", "mlp", _MLP),
}
_MAP_HEAD = {
    "probe": "probe",
    **_under("MultiHeadDotProductAttention_0", "attention", _ATTENTION),
    **_under("LayerNorm_0", "norm", _NORM),
    **_under("MlpBlock_0", "mlp", _MLP),
}


def _encoder(theirs: str, ours: str) -> dict[str, str]:
    return {
        **_under(f"{theirs}/encoderblock", f"{ours}.blocks", _BLOCK),
        **_under(f"{theirs}/encoder_norm", f"{ours}.norm", _NORM),
    }


# big_vision key (stacked layout) -> path of our parameter.
NAMES: dict[str, str] = {
    "t": "t",
    "b": "b",
    "img/embedding/kernel": "image.embedding.kernel",
    "img/embedding/bias": "image.embedding.bias",
    "img/pos_embedding": "image.position",
    **_encoder("img/Transformer", "image.encoder"),
    **_under("img/MAPHead_0", "image.head", _MAP_HEAD),
    "txt/Embed_0/embedding": "text.embedding.embedding",
    "txt/pos_embedding": "text.position",
    **_encoder("txt/Encoder_0", "text.encoder"),
    "txt/head/kernel": "text.head.kernel",
    "txt/head/bias": "text.head.bias",
}
_NUMBERED = re.compile(r"encoderblock_(\d+)/")


def _theirs_shape(key: str, shape: tuple[int, ...], config: TowersConfig) -> tuple[int, ...]:
    """Shape in the checkpoint of a parameter of ours; at most three are laid out differently."""
    image, text = config.image, config.text
    different: dict[str, tuple[int, ...]] = {}
    if text is not None:
        different["txt/pos_embedding"] = (1, text.length, text.size.width)
    if image is not None and image.position != "bilinear":  # NaFlex
        patch, side, width = image.patch_size, image.native_grid, image.size.width
        different["img/embedding/kernel"] = (patch, patch, 3, width)
        different["img/pos_embedding"] = (1, side * side, width)
    return different.get(key, shape)


def _stack_blocks(arrays: Mapping[str, np.ndarray], problems: list[str]) -> dict[str, np.ndarray]:
    """Turns `encoderblock_{i}` keys into `encoderblock` keys with a leading depth axis."""
    stacked: dict[str, np.ndarray] = {}
    numbered: dict[str, dict[int, np.ndarray]] = {}
    for key, value in arrays.items():
        match = _NUMBERED.search(key)
        if match:
            name = key.replace(match.group(), "encoderblock/")
            numbered.setdefault(name, {})[int(match.group(1))] = value
        else:
            stacked[key] = value
    for name, blocks in numbered.items():
        shapes = {block.shape for block in blocks.values()}
        if name in stacked:
            problems.append(f"both stacked and numbered: {name}")
        elif sorted(blocks) != list(range(len(blocks))):
            problems.append(f"block numbers with gaps: {name} has {sorted(blocks)}")
        elif len(shapes) > 1:
            problems.append(f"blocks of different shapes: {name} has {sorted(shapes)}")
        else:
            stacked[name] = np.stack([blocks[i] for i in range(len(blocks))])
    return stacked


def _canonical(arrays: Mapping[str, np.ndarray], problems: list[str]) -> dict[str, np.ndarray]:
    """The checkpoint in the stacked layout, without the variations of old files."""
    plain: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        name = key.removeprefix("params/")
        if name in plain:
            problems.append(f"both with and without params/: {name}")
        plain[name] = value
    stacked = _stack_blocks(plain, problems)
    once, twice = (stacked.get(f"txt/{name}pos_embedding") for name in ("", "Encoder_0/"))
    if once is not None and twice is not None and once.shape == twice.shape:
        # Some old files add a second position embedding; big_vision's loader sums the two.
        stacked["txt/pos_embedding"] = as_float32(once) + as_float32(twice)
        del stacked["txt/Encoder_0/pos_embedding"]
    return stacked


def from_arrays(
    arrays: Mapping[str, np.ndarray], config: TowersConfig, source: str, towers: Towers = "both"
) -> dict[str, np.ndarray]:
    """Maps a checkpoint's arrays to our parameters.

    Args:
        arrays: npz key -> array.
        config: the architecture that the checkpoint must have.
        source: name of the checkpoint for messages.
        towers: "image" to take the image tower alone, whatever else is there.

    Returns:
        Path of our parameter -> float32 array of our shape.

    Raises:
        UserError: one message with every unmapped key, unfilled parameter and wrong shape.
    """
    problems: list[str] = []
    stacked = _canonical(_of_towers(arrays, towers), problems)
    expected = parameter_shapes(config, towers)
    names = {key: path for key, path in NAMES.items() if path in expected}
    require_family(source, "big_vision's", names.values(), expected)
    problems += [f"unmapped key: {key}" for key in sorted(stacked.keys() - names.keys())]
    filled: dict[str, np.ndarray] = {}
    for key, path in names.items():
        want = _theirs_shape(key, expected[path], config)
        if key not in stacked:
            problems.append(f"unfilled parameter: {key} of shape {want}")
        elif stacked[key].shape != want:
            problems.append(f"wrong shape: {key} is {stacked[key].shape}, expected {want}")
        else:
            filled[path] = as_float32(stacked[key]).reshape(expected[path])
    require_fit(source, problems)
    return filled


def _of_towers(arrays: Mapping[str, np.ndarray], towers: Towers) -> dict[str, np.ndarray]:
    """Without the arrays of a text tower that nobody asked for; what is in no tower stays."""
    others = {"both": (), "image": ("txt/", "t", "b"), "text": ("img/", "t", "b")}[towers]
    return {key: arrays[key] for key in arrays if not _begins(key.removeprefix("params/"), others)}


def _begins(key: str, names: Sequence[str]) -> bool:
    return any(key.startswith(name) if name.endswith("/") else key == name for name in names)


def to_arrays(
    parameters: Mapping[str, np.ndarray], config: TowersConfig, *, stacked: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a checkpoint's (key, array) pairs from our parameters, in either layout."""
    for key, path in NAMES.items():
        if path not in parameters:  # some have no text head
            continue
        value = np.asarray(parameters[path])
        value = value.reshape(_theirs_shape(key, value.shape, config))
        if stacked or "encoderblock/" not in key:
            yield key, value
            continue
        for i, block in enumerate(value):
            yield key.replace("encoderblock/", f"encoderblock_{i}/"), block


def load(
    path: epath.PathLike, config: TowersConfig, towers: Towers = "both"
) -> dict[str, np.ndarray]:
    """Reads a checkpoint file; see `from_arrays` for the result.

    Raises:
        UserError: the file is no npz, is damaged, holds pickled objects, or does not fit the model.
    """
    path = epath.Path(path)
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise UserError(f"{path} is no big_vision npz checkpoint, or only a part of one")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = _of_towers(archive, towers)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is no big_vision npz checkpoint ({error})") from error
    return from_arrays(arrays, config, str(path), towers)
