"""Names of the towers' parameters in PyTorch's files: the tables.

timm's files, and those of most authors, hold an image tower alone (`blocks.0.attn.qkv.weight`).
open_clip's hold both: the image tower under `visual.`, in its own names or under `visual.trunk.` in
timm's, and the text tower under `text.` or without a prefix.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Literal

from ilias_jax.towers.parameters import Towers
from ilias_jax.towers.text import TextConfig
from ilias_jax.towers.two_towers import TowersConfig
from ilias_jax.towers.vit import VitConfig

Kind = Literal[
    "dense", "matrix", "convolution", "vector", "tokens", "rows", "grid", "scalar", "same"
]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of theirs.

    Attributes:
        keys: its name, with `{}` for the number of a block; further ones are other spellings. None
            for a parameter of ours that is zero.
        paths: our parameters, joined along its axis of outputs or tokens. None for a tensor that is
            known and not needed, which may be missing.
        kind: how it lies there: "dense" [outputs, inputs]; "matrix" [inputs, outputs];
            "convolution" [outputs, 3, patch, patch]; "vector" [size]; "tokens" [1, count,
            channels]; "rows" [count, channels]; "grid" [1, side, side, channels]; "scalar" [];
            "same" as ours.
    """

    keys: tuple[str, ...]
    paths: tuple[str, ...]
    kind: Kind


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


TIMM = Names("timm")
TIMM_AND_TEXT = Names("timm", "visual.trunk.", "text.")
CLIP = Names("clip", "visual.", "")
_TEXT_STEMS = (
    "token_embedding.",
    "positional_embedding",
    "transformer.",
    "ln_final.",
    "text_projection",
)

# What trainings wrap around a tower, outermost first; a chunk of blocks, as in DINOv2's code; and
# the last layer of HIER.
_WRAPPINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(state_dict|model|stduent|student)\.", ""),
        (r"^module\.", ""),
        (r"^_orig_mod\.", ""),
        (r"^(base_encoder|encoder|body)\.", ""),
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"^last_layer\.1\.", "head."),
    )
)
# What trainings keep beside a tower: optimizers, MoCo's second encoder and its projections, UNIC's
# projectors, DINOv2's token for masked patches.
_BESIDE = re.compile(
    r"^(optimizer|scaler|fp16_scaler|momentum_encoder|predictor|lp|teacher_ft_stats|gem)\."
    r"|^head\.\d|^mask_token$|\.num_batches_tracked$"
)


def unwrapped(key: str) -> str:
    """A tensor's name without what a training wrapped around it."""
    for pattern, replacement in _WRAPPINGS:
        key = pattern.sub(replacement, key)
    return key


def is_beside(key: str) -> bool:
    """Whether a tensor, by its unwrapped name, belongs to a training and to no tower."""
    return _BESIDE.search(key) is not None


def names_of(keys: Iterable[str]) -> Names:
    """Whose names these unwrapped ones are."""
    found = set(keys)
    text = next((p for p in ("text.", "") if f"{p}token_embedding.weight" in found), None)
    if "visual.conv1.weight" in found and "visual.class_embedding" in found:
        return Names("clip", "visual.", text)
    trunk = TIMM_AND_TEXT.image_prefix
    for prefix in (trunk, ""):
        if any(key.startswith(f"{prefix}blocks.0.") for key in found):
            return Names("timm", prefix, text)
    return Names(None, text_prefix=text)


def is_of_text(key: str, names: Names) -> bool:
    """Whether a tensor belongs to the text tower or to the loss of both."""
    if key in ("logit_scale", "logit_bias"):
        return True
    if names.text_prefix:
        return key.startswith(names.text_prefix)
    return names.text_prefix == "" and key.startswith(_TEXT_STEMS)


def _layer(theirs: str, *ours: str, bias: bool = True) -> list[Rule]:
    """Weight and bias of a dense layer."""
    rules = [Rule((f"{theirs}.weight",), tuple(f"{path}.kernel" for path in ours), "dense")]
    if bias:
        rules.append(Rule((f"{theirs}.bias",), tuple(f"{path}.bias" for path in ours), "vector"))
    return rules


def _norm(ours: str, *theirs: str) -> list[Rule]:
    """Scale and bias of a LayerNorm; further names are other spellings."""
    return [
        Rule(tuple(f"{name}.{their}" for name in theirs), (f"{ours}.{leaf}",), "vector")
        for their, leaf in (("weight", "scale"), ("bias", "bias"))
    ]


def _projections(ours: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{ours}.{name}" for name in names or ("query", "key", "value"))


def _timm_block(config: VitConfig) -> list[Rule]:
    style, theirs, ours = config.style, "blocks.{}", "image.encoder.blocks"
    attention = f"{ours}.attention"
    rules = _norm(f"{ours}.norm1", f"{theirs}.norm1")
    if style.biases == "no_key":  # EVA02 keeps the three apart
        for name, our in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            rules += _layer(f"{theirs}.attn.{name}", f"{attention}.{our}", bias=our != "key")
    else:
        bias = style.biases == "all"
        rules += _layer(f"{theirs}.attn.qkv", *_projections(attention), bias=bias)
    if style.attention_norm:
        rules += _norm(f"{attention}.norm", f"{theirs}.attn.norm")
    rules += _layer(f"{theirs}.attn.proj", f"{attention}.out")
    rules += _norm(f"{ours}.norm2", f"{theirs}.norm2")
    if style.gated_mlp:
        rules += _layer(f"{theirs}.mlp.fc1_g", f"{ours}.mlp.gate")
        rules += _layer(f"{theirs}.mlp.fc1_x", f"{ours}.mlp.up")
        rules += _norm(f"{ours}.mlp.norm", f"{theirs}.mlp.norm")
    else:
        rules += _layer(f"{theirs}.mlp.fc1", f"{ours}.mlp.up")
    rules += _layer(f"{theirs}.mlp.fc2", f"{ours}.mlp.down")
    for i in (1, 2) if style.layer_scale else ():
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
    head = "image.head"
    if config.pool == "map":
        rules = [
            Rule(("attn_pool.latent",), (f"{head}.probe",), "same"),
            *_layer("attn_pool.q", f"{head}.attention.query"),
            *_layer("attn_pool.kv", *_projections(f"{head}.attention", "key", "value")),
            *_layer("attn_pool.proj", f"{head}.attention.out"),
            *_norm(f"{head}.norm", "attn_pool.norm"),
            *_layer("attn_pool.mlp.fc1", f"{head}.mlp.up"),
            *_layer("attn_pool.mlp.fc2", f"{head}.mlp.down"),
        ]
    elif config.pool == "flatten":
        return [
            *_layer("feature.0", f"{head}.first", bias=False),
            *_batch_norm("feature.1", f"{head}.norm1"),
            *_layer("feature.2", f"{head}.second", bias=False),
            *_batch_norm("feature.3", f"{head}.norm2"),
        ]
    else:
        rules = []
    if config.head is not None:
        if config.head.norm == "affine":
            rules += _norm("image.projection.norm", "layer_norm")
        rules += _layer("head", "image.projection.dense")
    elif config.pool == "class":  # the classes that it was trained for
        rules += [Rule(("head.weight",), (), "dense"), Rule(("head.bias",), (), "vector")]
    return rules


def _batch_norm(theirs: str, ours: str) -> list[Rule]:
    leaves = {
        "weight": "scale",
        "bias": "bias",
        "running_mean": "mean",
        "running_var": "variance",
    }
    return [
        Rule((f"{theirs}.{their}",), (f"{ours}.{leaf}",), "vector")
        for their, leaf in leaves.items()
    ]


def _timm_rules(config: VitConfig) -> list[Rule]:
    """timm's `VisionTransformer`, `Eva` and `NaFlexVit`, and what is named after them."""
    last = ("fc_norm", "norm") if config.pool == "mean" else ("norm",)
    norm = _norm("image.encoder.norm", *last)
    return [*_timm_tokens(config), *_timm_block(config), *norm, *_timm_head(config)]


def _clip_block(theirs: str, ours: str) -> list[Rule]:
    """A block of CLIP, whose two towers share it."""
    projections = _projections(f"{ours}.attention")
    kernels = tuple(f"{path}.kernel" for path in projections)
    biases = tuple(f"{path}.bias" for path in projections)
    return [
        *_norm(f"{ours}.norm1", f"{theirs}.ln_1"),
        Rule((f"{theirs}.attn.in_proj_weight",), kernels, "dense"),
        Rule((f"{theirs}.attn.in_proj_bias",), biases, "vector"),
        *_layer(f"{theirs}.attn.out_proj", f"{ours}.attention.out"),
        *_norm(f"{ours}.norm2", f"{theirs}.ln_2"),
        *_layer(f"{theirs}.mlp.c_fc", f"{ours}.mlp.up"),
        *_layer(f"{theirs}.mlp.c_proj", f"{ours}.mlp.down"),
    ]


def _clip_rules(config: VitConfig) -> list[Rule]:
    """CLIP's own `VisionTransformer`; its projection has no bias."""
    rules = [
        Rule(("conv1.weight",), ("image.embedding.kernel",), "convolution"),
        Rule(("class_embedding",), ("image.class_token",), "vector"),
        Rule(("positional_embedding",), _positions(config), "rows"),
        *_norm("image.pre_norm", "ln_pre"),
        *_clip_block("transformer.resblocks.{}", "image.encoder.blocks"),
        *_norm("image.encoder.norm", "ln_post"),
    ]
    if config.head is None:
        return [*rules, Rule(("proj",), (), "matrix")]
    dense = "image.projection.dense"
    return [
        *rules,
        Rule(("proj",), (f"{dense}.kernel",), "matrix"),
        Rule((), (f"{dense}.bias",), "vector"),
    ]


def _text_rules(config: TextConfig) -> list[Rule]:
    """open_clip's `TextTransformer`."""
    rules = [
        Rule(("token_embedding.weight",), ("text.embedding.embedding",), "same"),
        Rule(("positional_embedding",), ("text.position",), "same"),
        *_clip_block("transformer.resblocks.{}", "text.encoder.blocks"),
        *_norm("text.encoder.norm", "ln_final"),
    ]
    if config.head == "dense":
        rules += _layer("text_projection", "text.head")
    elif config.head == "matrix":
        rules.append(Rule(("text_projection",), ("text.head.kernel",), "matrix"))
    return rules


def _with_prefix(prefix: str, rules: Iterable[Rule]) -> list[Rule]:
    return [
        dataclasses.replace(rule, keys=tuple(prefix + key for key in rule.keys)) for rule in rules
    ]


def rules_of(config: TowersConfig, names: Names, towers: Towers) -> list[Rule]:
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
