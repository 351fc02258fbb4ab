"""Names of our parameters in Flax's checkpoints: big_vision's SigLIP, Scenic's ViT and CLIP.

Layers lie there as in ours. A big_vision file is a flat npz whose keys join the parameter tree by
"/", with or without a leading "params/". Its blocks come one by one (`encoderblock_{i}/...`) or
stacked (`encoderblock/...` with a leading depth axis); either layout is read for either tower.
NaFlex models embed patches by a dense layer and keep their position grid as a grid.

A file of Scenic, which USCRR and UDON were trained with, is the msgpack of a train state. Beside
the tower are a projection to 64 channels, which the benchmark's numbers do without, and what the
losses of the training needed.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.names import Found, Kind, Rule, Table
from ilias_jax.models.dual_encoder import DualEncoderConfig, Towers
from ilias_jax.models.parameters import as_float32, holds_floats, parameter_shapes
from ilias_jax.models.vit import VitConfig

_NORM, _DENSE = ("scale", "bias"), ("kernel", "bias")
_PARAMS = "params/"
_STATE = ("opt/", "chrono/")  # beside the parameters, where a training goes on from
_MAX_BLOCKS = 1000  # an array of no channels may have any number
_TEXT_POSITION, _SECOND_POSITION = "txt/pos_embedding", "txt/Encoder_0/pos_embedding"
_OF_TOWERS = {
    "both": re.compile(""),
    "image": re.compile(r"(?!txt/|[tb]$)"),
    "text": re.compile(r"(?!img/|[tb]$)"),
}
# The other parts of a train state, and of its parameters those that belong to a loss.
_BESIDE = re.compile(
    r"^(opt_state|model_state|metadata)/|^rng$"
    r"|^params/(output_projection|teacher_projection|teacher_output_projection)"
    r"|^params/(universal_student_output_projection|universal_student_projection|projection)"
)


def _layer(theirs: str, ours: str, leaves: tuple[str, ...]) -> list[Rule]:
    return [Rule((f"{theirs}/{leaf}",), (f"{ours}.{leaf}",)) for leaf in leaves]


def _attention(theirs: str, ours: str) -> list[Rule]:
    parts = ("query", "key", "value", "out")
    return [rule for part in parts for rule in _layer(f"{theirs}/{part}", f"{ours}.{part}", _DENSE)]


def _mlp(theirs: str, ours: str) -> list[Rule]:
    up = _layer(f"{theirs}/Dense_0", f"{ours}.up", _DENSE)
    return up + _layer(f"{theirs}/Dense_1", f"{ours}.down", _DENSE)


def _encoder(theirs: str, ours: str) -> list[Rule]:
    block, blocks = f"{theirs}/encoderblock_{{}}", f"{ours}.blocks"
    return [
        *_layer(f"{block}/LayerNorm_0", f"{blocks}.norm1", _NORM),
        *_attention(f"{block}/MultiHeadDotProductAttention_0", f"{blocks}.attention"),
        *_layer(f"{block}/LayerNorm_1", f"{blocks}.norm2", _NORM),
        *_mlp(f"{block}/MlpBlock_0", f"{blocks}.mlp"),
        *_layer(f"{theirs}/encoder_norm", f"{ours}.norm", _NORM),
    ]


def _big_vision_rules(config: DualEncoderConfig, towers: Towers) -> list[Rule]:
    kernel: Kind = "patches"
    position: Kind = "tokens"
    head = "img/MAPHead_0"
    if isinstance(config.image, VitConfig) and config.image.position == "bilinear":  # NaFlex
        kernel = position = "same"
    rules = [
        Rule(("t",), ("t",)),
        Rule(("b",), ("b",)),
        Rule(("img/embedding/kernel",), ("image.embedding.kernel",), kernel),
        Rule(("img/embedding/bias",), ("image.embedding.bias",)),
        Rule(("img/pos_embedding",), ("image.position",), position),
        *_encoder("img/Transformer", "image.encoder"),
        Rule((f"{head}/probe",), ("image.head.probe",)),
        *_attention(f"{head}/MultiHeadDotProductAttention_0", "image.head.attention"),
        *_layer(f"{head}/LayerNorm_0", "image.head.norm", _NORM),
        *_mlp(f"{head}/MlpBlock_0", "image.head.mlp"),
        Rule(("txt/Embed_0/embedding",), ("text.embedding.embedding",)),
        Rule((_TEXT_POSITION,), ("text.position",), "tokens"),
        *_encoder("txt/Encoder_0", "text.encoder"),
        *_layer("txt/head", "text.head", _DENSE),
    ]
    shapes = parameter_shapes(config, towers)
    return [rule for rule in rules if rule.paths[0] in shapes]


def _numbered(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(Name in the layout of one array a block, name in the file, array) of every array."""
    for key, value in arrays.items():
        name = key.removeprefix(_PARAMS)
        if "encoderblock/" not in name or value.ndim == 0 or len(value) > _MAX_BLOCKS:
            yield name, key, value
            continue
        for i, block in enumerate(value):
            yield name.replace("encoderblock/", f"encoderblock_{i}/"), key, block


def _can_add(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and holds_floats(one.dtype) and holds_floats(other.dtype)


def from_big_vision(
    arrays: Mapping[str, np.ndarray],
    config: DualEncoderConfig,
    source: str,
    towers: Towers = "both",
) -> dict[str, np.ndarray]:
    """Maps the arrays of an npz of big_vision to our parameters; see `torch_names.from_torch`."""
    wanted = _OF_TOWERS[towers]
    if any(key.startswith(_PARAMS) for key in arrays):
        arrays = {key: value for key, value in arrays.items() if not key.startswith(_STATE)}
    found = Found.of(item for item in _numbered(arrays) if wanted.match(item[0]))
    once, twice = (found.arrays.get(key) for key in (_TEXT_POSITION, _SECOND_POSITION))
    if once is not None and twice is not None and _can_add(once, twice):
        # Some old files add a second position embedding; big_vision's loader sums the two.
        found.arrays[_TEXT_POSITION] = as_float32(once) + as_float32(twice)
        del found.arrays[_SECOND_POSITION]
    rules = _big_vision_rules(config, towers)
    return Table.of(rules, config, towers, "big_vision's", source).fill(found, source)


def to_big_vision(
    parameters: Mapping[str, np.ndarray], config: DualEncoderConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a big_vision checkpoint's (key, array) pairs from our parameters, block by block."""
    rules = _big_vision_rules(config, "both")
    return Table.of(rules, config, "both", "big_vision's").write(parameters)


def _scenic_rules(image: VitConfig) -> list[Rule]:
    blocks, norm = "image.encoder.blocks", "image.encoder.norm"
    positions = ("image.class_position", "image.position")
    if not image.pre_norm:
        position = Rule(("params/Transformer/posembed_input/pos_embedding",), positions, "rows")
        return [
            *_layer("params/embedding", "image.embedding", _DENSE),
            Rule(("params/cls",), ("image.class_token",)),
            *_encoder("params/Transformer", "image.encoder"),
            position,
        ]
    block = "params/transformer/resblocks.{}"
    return [
        Rule(("params/conv1/kernel",), ("image.embedding.kernel",)),
        Rule(("params/class_embedding",), ("image.class_token",)),
        *_layer("params/ln_pre", "image.pre_norm", _NORM),
        *_layer(f"{block}/ln_1", f"{blocks}.norm1", _NORM),
        *_attention(f"{block}/attn", f"{blocks}.attention"),
        *_layer(f"{block}/ln_2", f"{blocks}.norm2", _NORM),
        *_layer(f"{block}/mlp/c_fc", f"{blocks}.mlp.up", _DENSE),
        *_layer(f"{block}/mlp/c_proj", f"{blocks}.mlp.down", _DENSE),
        *_layer("params/ln_post", norm, _NORM),
        Rule(("params/positional_embedding",), positions, "rows"),
    ]


def _same_channels(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether shapes differ in leading axes alone.

    A patch embedding is a convolution there, and the class token may have an axis of one.
    """
    return np.prod(found) == np.prod(wanted) and found[-1:] == wanted[-1:]


def from_scenic(
    arrays: Mapping[str, np.ndarray],
    config: DualEncoderConfig,
    source: str,
    towers: Towers = "image",
) -> dict[str, np.ndarray]:
    """Maps a train state of an image tower to our parameters; see `torch_names.from_torch`."""
    if towers != "image":
        raise UserError(
            f"{source} is a checkpoint of Scenic, which has no text tower: run image queries alone "
            "with model.towers=image"
        )
    found = Found.of(
        (_PARAMS + key.removeprefix(_PARAMS), key, value)
        for key, value in arrays.items()
        if not _BESIDE.search(key)
    )
    rules = _scenic_rules(config.image) if isinstance(config.image, VitConfig) else []
    table = Table.of(rules, config, "image", "Scenic's", source)
    return table.fill(found, source, _same_channels)
