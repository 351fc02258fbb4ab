"""Checkpoints of PyTorch's models: whose names a file has, and its tensors as our parameters.

timm's files, and those of most authors, hold an image tower alone (`blocks.0.attn.qkv.weight`).
open_clip's hold both: the image tower under `visual.`, in its own names or under `visual.trunk.` in
timm's, and the text tower under `text.` or without a prefix.
"""

import dataclasses
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from ilias_jax.errors import UserError, quoted
from ilias_jax.models.checkpoints.cnn_names import LANDMARKS, cnn_rules, is_beside, respelled
from ilias_jax.models.checkpoints.names import Found, Kind, Rule, Table
from ilias_jax.models.dual_encoder import DualEncoderConfig, ImageConfig, TextConfig, Towers
from ilias_jax.models.parameters import as_float32, holds_floats
from ilias_jax.models.vit import VitConfig

_QKV = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Names:
    """Whose names a file has.

    Attributes:
        image: of the image tower: timm's or CLIP's of a transformer, a CNN's, or None if there is
            none that is known.
        image_prefix: before them.
        text_prefix: before those of the text tower; None if there is none.
    """

    image: Literal["timm", "clip", "cnn"] | None
    image_prefix: str = ""
    text_prefix: str | None = None

    @property
    def towers(self) -> Towers | None:
        """The towers that there are; None for none."""
        if self.image is None:
            return None if self.text_prefix is None else "text"
        return "image" if self.text_prefix is None else "both"


def _layer(theirs: str, *ours: str, bias: bool = True, separator: str = ".") -> list[Rule]:
    kernels, biases = ([f"{path}.{leaf}" for path in ours] for leaf in ("kernel", "bias"))
    rules = [Rule((f"{theirs}{separator}weight",), tuple(kernels), "dense")]
    if bias:
        rules.append(Rule((f"{theirs}{separator}bias",), tuple(biases), "vector"))
    return rules


def _norm(ours: str, *theirs: str) -> list[Rule]:
    """Scale and bias of a LayerNorm; further names are other spellings."""
    return [
        Rule(tuple(f"{name}.{their}" for name in theirs), (f"{ours}.{leaf}",), "vector")
        for their, leaf in (("weight", "scale"), ("bias", "bias"))
    ]


def _parts(ours: str, names: Iterable[str] = _QKV) -> list[str]:
    return [f"{ours}.{name}" for name in names]


def _timm_block(config: VitConfig) -> list[Rule]:
    block, theirs, ours = config.block, "blocks.{}", "image.encoder.blocks"
    attention, mlp = f"{ours}.attention", f"{ours}.mlp"
    rules = _norm(f"{ours}.norm1", f"{theirs}.norm1")
    if block.biases == "no_key":  # EVA02 keeps the three apart
        for name in _QKV:
            part = f"{theirs}.attn.{name[0]}_proj"
            rules += _layer(part, f"{attention}.{name}", bias=name != "key")
    else:
        bias = block.biases == "all"
        rules += _layer(f"{theirs}.attn.qkv", *_parts(attention), bias=bias)
    if block.attention_norm:
        rules += _norm(f"{attention}.norm", f"{theirs}.attn.norm")
    rules += _layer(f"{theirs}.attn.proj", f"{attention}.out")
    rules += _norm(f"{ours}.norm2", f"{theirs}.norm2")
    if block.gated_mlp:
        rules += _layer(f"{theirs}.mlp.fc1_g", f"{mlp}.gate")
        rules += _layer(f"{theirs}.mlp.fc1_x", f"{mlp}.up")
        rules += _norm(f"{mlp}.norm", f"{theirs}.mlp.norm")
    else:
        rules += _layer(f"{theirs}.mlp.fc1", f"{mlp}.up")
    rules += _layer(f"{theirs}.mlp.fc2", f"{mlp}.down")
    for i in (1, 2) if block.layer_scale else ():
        keys = (f"{theirs}.ls{i}.gamma", f"{theirs}.gamma_{i}")
        rules.append(Rule(keys, (f"{ours}.scale{i}.factor",), "vector"))
    return rules


def _timm_tokens(config: VitConfig) -> list[Rule]:
    naflex = config.position == "bilinear"
    name = "embeds.proj" if naflex else "patch_embed.proj"
    kind: Kind = "dense" if naflex else "convolution"
    rules = [Rule((f"{name}.weight",), ("image.embedding.kernel",), kind)]
    if config.patch_bias:
        rules.append(Rule((f"{name}.bias",), ("image.embedding.bias",), "vector"))
    if config.class_token:
        rules.append(Rule(("cls_token",), ("image.class_token",), "tokens"))
    if config.num_registers:
        keys = ("register_tokens", "reg_token", "storage_tokens")
        rules.append(Rule(keys, ("image.registers",), "tokens"))
    if naflex:
        rules.append(Rule(("embeds.pos_embed",), ("image.position",), "grid"))
    elif config.position is not None:
        rules.append(Rule(("pos_embed",), _positions(config), "tokens"))
    if config.rope is not None and config.rope.learned:
        rules.append(Rule(("rope_embed.periods",), ("image.periods",), "vector"))
    return rules + (_norm("image.pre_norm", "norm_pre") if config.pre_norm else [])


def _positions(config: VitConfig) -> tuple[str, ...]:
    grid = ("image.position",)
    return ("image.class_position", *grid) if config.has_class_position else grid


def _timm_head(config: VitConfig) -> list[Rule]:
    head, rules = "image.head", []
    if config.pool == "flatten":
        return [
            *_layer("feature.0", f"{head}.first", bias=False),
            *_batch_norm("feature.1", f"{head}.norm1"),
            *_layer("feature.2", f"{head}.second", bias=False),
            *_batch_norm("feature.3", f"{head}.norm2"),
        ]
    if config.pool == "map":
        rules = [
            Rule(("attn_pool.latent",), (f"{head}.probe",)),
            *_layer("attn_pool.q", f"{head}.attention.query"),
            *_layer("attn_pool.kv", *_parts(f"{head}.attention", _QKV[1:])),
            *_layer("attn_pool.proj", f"{head}.attention.out"),
            *_norm(f"{head}.norm", "attn_pool.norm"),
            *_layer("attn_pool.mlp.fc1", f"{head}.mlp.up"),
            *_layer("attn_pool.mlp.fc2", f"{head}.mlp.down"),
        ]
    if config.head is not None:
        if config.head.norm == "affine":  # RS@k's, whose file has the power of a pooling, too
            rules += [*_norm("image.projection.norm", "layer_norm"), Rule(("gem.p",), ())]
        rules += _layer("head", "image.projection.dense")
    elif config.pool == "class":  # the classes that it was trained for
        rules += [Rule(("head.weight",), ()), Rule(("head.bias",), ())]
    return rules


def _batch_norm(theirs: str, ours: str) -> list[Rule]:
    leaves = ("weight", "scale"), ("bias", "bias"), ("running_mean", "mean")
    return [
        Rule((f"{theirs}.{their}",), (f"{ours}.{leaf}",), "vector")
        for their, leaf in (*leaves, ("running_var", "variance"))
    ]


def _timm_rules(config: VitConfig) -> list[Rule]:
    """timm's `VisionTransformer`, `Eva` and `NaFlexVit`, and what is named after them."""
    last = ("fc_norm", "norm") if config.pool == "mean" else ("norm",)
    norm = _norm("image.encoder.norm", *last)
    return [*_timm_tokens(config), *_timm_block(config), *norm, *_timm_head(config)]


def _clip_encoder(ours: str, last_norm: str) -> list[Rule]:
    theirs, blocks = "transformer.resblocks.{}", f"{ours}.blocks"
    attention = f"{blocks}.attention"
    return [
        *_norm(f"{blocks}.norm1", f"{theirs}.ln_1"),
        *_layer(f"{theirs}.attn.in_proj", *_parts(attention), separator="_"),
        *_layer(f"{theirs}.attn.out_proj", f"{attention}.out"),
        *_norm(f"{blocks}.norm2", f"{theirs}.ln_2"),
        *_layer(f"{theirs}.mlp.c_fc", f"{blocks}.mlp.up"),
        *_layer(f"{theirs}.mlp.c_proj", f"{blocks}.mlp.down"),
        *_norm(f"{ours}.norm", last_norm),
    ]


def _clip_rules(config: VitConfig) -> list[Rule]:
    """CLIP's own `VisionTransformer`; its projection has no bias."""
    dense = "image.projection.dense"
    has_head = config.head is not None
    return [
        Rule(("conv1.weight",), ("image.embedding.kernel",), "convolution"),
        Rule(("class_embedding",), ("image.class_token",), "vector"),
        Rule(("positional_embedding",), _positions(config), "rows"),
        *_norm("image.pre_norm", "ln_pre"),
        *_clip_encoder("image.encoder", "ln_post"),
        Rule(("proj",), (f"{dense}.kernel",) if has_head else ()),
        *([Rule((), (f"{dense}.bias",))] if has_head else []),
    ]


def _text_rules(config: TextConfig) -> list[Rule]:
    rules = [
        Rule(("token_embedding.weight",), ("text.embedding.embedding",)),
        Rule(("positional_embedding",), ("text.position",)),
        *_clip_encoder("text.encoder", "ln_final"),
    ]
    if config.head == "dense":
        rules += _layer("text_projection", "text.head")
    elif config.head == "matrix":
        rules.append(Rule(("text_projection",), ("text.head.kernel",)))
    return rules


def _with_prefix(prefix: str, rules: Iterable[Rule]) -> list[Rule]:
    return [
        dataclasses.replace(rule, keys=tuple(prefix + key for key in rule.keys)) for rule in rules
    ]


def _image_rules(config: ImageConfig | None, names: Names) -> list[Rule]:
    """The table of an image tower; one of no parameter if the names are of another kind."""
    if isinstance(config, VitConfig) and names.image != "cnn":
        return _timm_rules(config) if names.image == "timm" else _clip_rules(config)
    if config is None or not config.whole or names.image != "cnn":
        return []
    return cnn_rules(config, names.image_prefix)


def rules_of(config: DualEncoderConfig, names: Names, towers: Towers) -> list[Rule]:
    """The table of the parameters of towers that the architecture and the names have."""
    rules: list[Rule] = []
    if towers != "text":
        rules += _with_prefix(names.image_prefix, _image_rules(config.image, names))
    if towers != "image":
        assert config.text is not None and names.text_prefix is not None
        rules += _with_prefix(names.text_prefix, _text_rules(config.text))
    if towers == "both":
        scale, bias = (("t",), ("b",)) if config.sigmoid_loss else ((), ())
        rules += [Rule(("logit_scale",), scale, "scalar"), Rule(("logit_bias",), bias, "scalar")]
    return rules


TIMM = Names("timm")
TIMM_AND_TEXT = Names("timm", "visual.trunk.", "text.")
CLIP = Names("clip", "visual.", "")
_LOSS = ("logit_scale", "logit_bias")
_BIAS_MASK = "bias_mask"  # of DINOv3: zero where the bias of a projection has no effect
_TEXT_STEMS = (
    "token_embedding.",
    "positional_embedding",
    "transformer.",
    "ln_final.",
    "text_projection",
)

# A tensor of a tower, with what lies around the tower's own names: the keys of a training's
# dictionaries, the modules that it wrapped around a model. `body` and the like are authors' names.
_OF_TOWER = re.compile(
    r"((?:.*?\.)??)(?:(?:base_encoder|encoder|body)\.)?(?:"
    r"(?:visual\.trunk\.)?blocks\.(?:\d+\.)+(?:norm1|attn)\."
    r"|visual\.(?:conv1\.weight|class_embedding)$|(?:text\.)?token_embedding\.weight$"
    rf"|(?:visual\.(?:trunk\.)?)?(?:{'|'.join(LANDMARKS)})$)"
)
_CNN = re.compile(rf"((?:visual\.(?:trunk\.)?)?)(?:{'|'.join(LANDMARKS)})")
# Words in names of what is evaluated. DINOv3 has an average of the student beside a teacher.
_MEANS = (frozenset({"ema", "averaged", "swa"}), frozenset({"teacher"}))
# Sets of a tower's names that are never evaluated: an optimizer's moments, the second encoder of
# MoCo and CVNet, MAE's decoder, the teacher of DINOv3's last step.
_NO_TOWER = re.compile(
    r"(^|[._])(opt|optim|optimizers?|momentum_encoder|encoder_k|decoder|gram_teacher)[._]"
)
# What FSDP, activation checkpointing and torch.compile put around any part of a model.
_AROUND = re.compile(r"(?<![^.])(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")

# Authors' own names: MoCo and UDON, RS@k, HIER; a chunk of blocks, as in DINOv2's code; the last
# layer of HIER; and open_clip's head behind a network of timm's.
_WRAPPINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(base_encoder|encoder|body)\.", ""),
        (r"^blocks\.\d+\.(?=\d+\.(?:norm|attn|mlp|ls|gamma))", "blocks."),
        (r"^last_layer\.1\.", "head."),
        (r"^visual\.head\.(proj|mlp\.fc2)\.", "visual.trunk.head.fc."),
        (r"^visual\.head\.mlp\.fc1\.", "visual.trunk.head.pre_logits.fc."),
    )
)
# What trainings keep beside a tower: optimizers, MoCo's second encoder and its projections, UNIC's
# projectors, MAE's decoder, DINOv2's token for masked patches; and buffers that are no weights, of
# floats too, as the mask of causal attention is and all are after `half()`.
_BESIDE = re.compile(
    r"^(optimizer|scaler|fp16_scaler|momentum_encoder|predictor|lp|teacher_ft_stats)\."
    r"|^head\.\d|^mask_token$|^decoder_|(^|\.)(attn_mask|position_ids|num_batches_tracked|rng_state"
    r"|n_averaged|total_ops|total_params|input_resolution|context_length|vocab_size)$"
)


def _chosen_prefix(prefixes: Iterable[str], source: str) -> str:
    """What the names of the weights begin with, "" or up to a dot, of all that there are.

    Trainings write a moving average or a teacher beside the weights that they train, and evaluate
    it: DINO, DINOv2, timm. So it is taken where there are two sets, and a warning says so.

    Raises:
        UserError: there are several sets, and their names do not say which is to be evaluated.
    """
    prefixes = [each for each in prefixes if not _NO_TOWER.search(each)]
    if len(prefixes) > 1:
        words = {each: set(re.split(r"[._]", each)) for each in prefixes}
        ranked = ([each for each in prefixes if mean & words[each]] for mean in _MEANS)
        means = next(filter(None, ranked), [])
        others = ", ".join(repr(each) for each in prefixes if each not in means[:1])
        if len(means) != 1:
            raise UserError(
                f"{source} holds several sets of weights, whose names begin with "
                f"{', '.join(map(quoted, prefixes[:9]))}; save the one that is to be evaluated "
                "alone"
            )
        logging.warning("%s: weights %r are taken, not %s", source, means[0], others)
        return means[0]
    return prefixes[0] if prefixes else ""


def unwrapped(
    arrays: Mapping[str, np.ndarray], source: str
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (a tower's own name, the file's, array) of the weights; not what lies beside them."""
    names = {key: _AROUND.sub("", key) for key in arrays}
    prefixes = {match[1]: None for name in names.values() if (match := _OF_TOWER.match(name))}
    chosen = _chosen_prefix(prefixes, source)
    others = tuple(each for each in prefixes if each != chosen and each.startswith(chosen))
    for key, value in arrays.items():
        name = names[key]
        if (beside := chosen.removesuffix("model.")) != chosen and name == f"{beside}gem.p":
            name = f"{chosen}gem.p"  # RS@k has the power of its pooling beside its model
        if name.startswith(chosen) and not name.startswith(others):
            name = name.removeprefix(chosen)
            for pattern, replacement in _WRAPPINGS:
                name = pattern.sub(replacement, name)
            if not _BESIDE.search(name):
                yield name, key, value


def names_of(keys: Iterable[str]) -> Names:
    """Whose names these unwrapped ones are."""
    found = set(keys)
    text = next((p for p in ("text.", "") if f"{p}token_embedding.weight" in found), None)
    if "visual.conv1.weight" in found and "visual.class_embedding" in found:
        return Names("clip", "visual.", text)
    for key in found:
        if match := _CNN.fullmatch(key):
            return Names("cnn", match[1], text)
    for prefix in (TIMM_AND_TEXT.image_prefix, ""):
        if any(key.startswith(f"{prefix}blocks.0.") for key in found):
            return Names("timm", prefix, text)
    return Names(None, text_prefix=text)


def _is_of(towers: Towers, key: str, names: Names) -> bool:
    """Whether a tensor is wanted; of an image tower alone is what belongs to no tower, too."""
    stems = names.text_prefix or _TEXT_STEMS
    of_text = names.text_prefix is not None and key.startswith(stems)
    return towers == "both" or (key not in _LOSS and of_text == (towers == "text"))


def _found(arrays: Mapping[str, np.ndarray], source: str, towers: Towers) -> tuple[Found, Names]:
    """A file's arrays of the towers that are asked for, and whose names they have."""
    found = Found.of(unwrapped(arrays, source))
    names = names_of(found.arrays)
    if names.towers is None:
        first = ", ".join(sorted(arrays)[:3])
        raise UserError(
            f"{source} has names of no known model ({first:.200}, ...); they should be those of "
            "timm, open_clip or CLIP"
        )
    if names.towers == "image" and towers != "image":
        raise UserError(
            f"{source} has no text tower, by its names it is an image tower's: run image queries "
            "alone with model.towers=image, or give a file of both towers, or one of the text "
            "tower as model.text_checkpoint"
        )
    if names.towers == "text" and towers != "text":
        raise UserError(f"{source} has no image tower of a known kind, by its names a text tower's")
    for key in [key for key in found.arrays if not _is_of(towers, key, names)]:
        del found.arrays[key]
    return found, names


def _respelled(found: Found, config: ImageConfig, names: Names, rules: Sequence[Rule]) -> Found:
    """A file with a CNN, its names as the table has them, without what is no part of the tower."""
    prefix, known = names.image_prefix, {key for rule in rules for key in rule.keys}

    def table_name(key: str) -> str:
        if names.text_prefix is not None and not key.startswith(prefix):
            return key
        return prefix + respelled(key.removeprefix(prefix), config)

    spelled = ((table_name(key), found.called[key], value) for key, value in found.arrays.items())
    return Found.of(
        item for item in spelled if item[0] in known or not is_beside(item[0].removeprefix(prefix))
    )


def _apply_masks(arrays: dict[str, np.ndarray]) -> None:
    """Multiplies DINOv3's masks into the biases that they mask, as at every step there."""
    for key in [key for key in arrays if key.endswith(_BIAS_MASK)]:
        mask, bias = arrays.pop(key), key.removesuffix("_mask")
        value = arrays.get(bias)
        if value is not None and value.shape == mask.shape and holds_floats(value.dtype):
            arrays[bias] = as_float32(value) * as_float32(mask)


def from_torch(
    arrays: Mapping[str, np.ndarray],
    config: DualEncoderConfig,
    source: str,
    towers: Towers = "both",
) -> dict[str, np.ndarray]:
    """Maps a checkpoint's arrays to our parameters.

    Args:
        arrays: name -> array; may be views of a file.
        config: the architecture that the checkpoint must have.
        source: name of the checkpoint for messages.
        towers: "image" or "text" to take one tower alone, whatever else is there.

    Returns:
        Path of our parameter -> float32 array of our shape.

    Raises:
        UserError: the file lacks a tower that is asked for; or one message with every unmapped key,
            unfilled parameter and wrong shape.
    """
    found, names = _found(arrays, source, towers)
    _apply_masks(found.arrays)
    whose = {"timm": "timm's", "clip": "CLIP's", "cnn": "a CNN's", None: "open_clip's"}[names.image]
    rules = rules_of(config, names, towers)
    if names.image == "cnn" and config.image is not None:
        found = _respelled(found, config.image, names, rules)
    return Table.of(rules, config, towers, whose, source).fill(found, source)
