"""Tables of the parameters in PyTorch's files: timm's, CLIP's and open_clip's names."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from ilias_jax.models.checkpoints.names import Kind, Rule
from ilias_jax.models.dual_encoder import DualEncoderConfig, Towers
from ilias_jax.models.text import TextConfig
from ilias_jax.models.vit import VitConfig

_QKV = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Names:
    """Whose names a file has.

    Attributes:
        image: of the image tower: timm's, CLIP's, or None if there is none that is known.
        image_prefix: before them.
        text_prefix: before those of the text tower; None if there is none.
    """

    image: Literal["timm", "clip"] | None
    image_prefix: str = ""
    text_prefix: str | None = None

    @property
    def towers(self) -> Towers | None:
        """Which towers there are."""
        if self.image is None:
            return None if self.text_prefix is None else "text"
        return "image" if self.text_prefix is None else "both"


def _layer(theirs: str, *ours: str, bias: bool = True, separator: str = ".") -> list[Rule]:
    """Weight and bias of a dense layer."""
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
    """Everything before the blocks."""
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
    """Everything behind the blocks' last norm."""
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
        if config.head.norm == "affine":
            rules += _norm("image.projection.norm", "layer_norm")
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
    """The encoder that CLIP's two towers share."""
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
    """open_clip's `TextTransformer`."""
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


def rules_of(config: DualEncoderConfig, names: Names, towers: Towers) -> list[Rule]:
    """The table of a model.

    Args:
        config: the architecture; it has the towers.
        names: whose names; there is one for each of the towers.
        towers: whose parameters.
    """
    rules: list[Rule] = []
    if towers != "text":
        assert config.image is not None
        table = _timm_rules if names.image == "timm" else _clip_rules
        rules += _with_prefix(names.image_prefix, table(config.image))
    if towers != "image":
        assert config.text is not None and names.text_prefix is not None
        rules += _with_prefix(names.text_prefix, _text_rules(config.text))
    if towers == "both":
        scale, bias = (("t",), ("b",)) if config.sigmoid_loss else ((), ())
        rules += [Rule(("logit_scale",), scale, "scalar"), Rule(("logit_bias",), bias, "scalar")]
    return rules
