"""big_vision's npz checkpoints of SigLIP: one table of names, read and written.

A checkpoint is a flat npz whose keys join the parameter tree by "/", with or without a leading
"params/". An encoder's blocks come one by one (`encoderblock_{i}/...`) or stacked
(`encoderblock/...` with a leading depth axis); either layout is read for either tower.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import jax
import ml_dtypes
import numpy as np
from etils import epath
from flax import nnx

from ilias_jax.errors import UserError
from ilias_jax.towers.siglip import Siglip, SiglipConfig

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


def _theirs_shape(key: str, shape: tuple[int, ...], config: SiglipConfig) -> tuple[int, ...]:
    """Shape in the checkpoint of a parameter of ours; only three are laid out differently."""
    patch, side = config.patch_size, config.native_grid
    return {
        "img/embedding/kernel": (patch, patch, 3, config.image.width),
        "img/pos_embedding": (1, side * side, config.image.width),
        "txt/pos_embedding": (1, config.text_length, config.text.width),
    }.get(key, shape)


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


def _as_float32(value: np.ndarray) -> np.ndarray:
    """float32 copy; two-byte void is how numpy reads bfloat16."""
    if value.dtype == np.dtype("V2"):
        value = value.view(ml_dtypes.bfloat16)
    return np.asarray(value, np.float32)


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
        stacked["txt/pos_embedding"] = _as_float32(once) + _as_float32(twice)
        del stacked["txt/Encoder_0/pos_embedding"]
    return stacked


def from_arrays(
    arrays: Mapping[str, np.ndarray], config: SiglipConfig, source: str
) -> dict[str, np.ndarray]:
    """Maps a checkpoint's arrays to our parameters.

    Args:
        arrays: npz key -> array.
        config: the architecture that the checkpoint must have.
        source: name of the checkpoint for messages.

    Returns:
        Path of our parameter -> float32 array of our shape.

    Raises:
        UserError: one message with every unmapped key, unfilled parameter and wrong shape.
    """
    problems: list[str] = []
    stacked = _canonical(arrays, problems)
    expected = parameter_shapes(config)
    problems += [f"unmapped key: {key}" for key in sorted(stacked.keys() - NAMES.keys())]
    filled: dict[str, np.ndarray] = {}
    for key, path in NAMES.items():
        want = _theirs_shape(key, expected[path], config)
        if key not in stacked:
            problems.append(f"unfilled parameter: {key} of shape {want}")
        elif stacked[key].shape != want:
            problems.append(f"wrong shape: {key} is {stacked[key].shape}, expected {want}")
        else:
            filled[path] = _as_float32(stacked[key]).reshape(expected[path])
    if problems:
        raise UserError(
            f"{source} does not fit the model; {len(problems)} differences:\n  "
            + "\n  ".join(problems)
        )
    return filled


def to_arrays(
    parameters: Mapping[str, np.ndarray], config: SiglipConfig, *, stacked: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a checkpoint's (key, array) pairs from our parameters, in either layout."""
    for key, path in NAMES.items():
        value = np.asarray(parameters[path])
        value = value.reshape(_theirs_shape(key, value.shape, config))
        if stacked or "encoderblock/" not in key:
            yield key, value
            continue
        for i, block in enumerate(value):
            yield key.replace("encoderblock/", f"encoderblock_{i}/"), block


def parameter_shapes(config: SiglipConfig) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter, without allocating any."""
    abstract = nnx.eval_shape(lambda: Siglip(config, nnx.Rngs(0)))
    return {path: tuple(leaf.shape) for path, leaf in _flat(nnx.state(abstract, nnx.Param))}


def parameters_of(model: Siglip) -> dict[str, np.ndarray]:
    """Path -> value of every parameter, fetched to the host."""
    return {
        path: np.asarray(jax.device_get(leaf)) for path, leaf in _flat(nnx.state(model, nnx.Param))
    }


def _flat(state: nnx.State) -> Iterator[tuple[str, jax.Array]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    for path, leaf in leaves:
        yield ".".join(str(entry.key) for entry in path), leaf


def load(path: epath.PathLike, config: SiglipConfig) -> dict[str, np.ndarray]:
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
                arrays = {key: archive[key] for key in archive.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is no big_vision npz checkpoint ({error})") from error
    return from_arrays(arrays, config, str(path))
