"""timm's and open_clip's names of SigLIP's parameters: the table.

timm's files hold the image tower alone (`blocks.0.attn.qkv.weight`), open_clip's both: the image
tower under `visual.trunk.`, the text tower under `text.`, beside `logit_scale` and `logit_bias`.
"""

import dataclasses
from collections.abc import Iterable

from ilias_jax.towers.parameters import Towers
from ilias_jax.towers.siglip import SiglipConfig

_TRUNK = "visual.trunk."


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of theirs.

    Attributes:
        key: its name, with `{}` for the number of a block.
        paths: our parameters, joined along its first axis.
    """

    key: str
    paths: tuple[str, ...]


def _layer(theirs: str, *ours: str) -> list[Rule]:
    """Weight and bias of a dense layer."""
    return [
        Rule(f"{theirs}.{name}", tuple(f"{path}.{leaf}" for path in ours))
        for name, leaf in (("weight", "kernel"), ("bias", "bias"))
    ]


def _norm(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", (f"{ours}.scale",)),
        Rule(f"{theirs}.bias", (f"{ours}.bias",)),
    ]


def _mlp(theirs: str, up: str, down: str, ours: str) -> list[Rule]:
    return [*_layer(f"{theirs}.{up}", f"{ours}.up"), *_layer(f"{theirs}.{down}", f"{ours}.down")]


def _projections(ours: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{ours}.{name}" for name in names or ("query", "key", "value"))


def _image_rules(config: SiglipConfig) -> list[Rule]:
    """timm's `VisionTransformer` with a MAP head; its `NaFlexVit` has other names at the start."""
    patches, position = "patch_embed.proj", "pos_embed"
    if config.naflex:
        patches, position = "embeds.proj", "embeds.pos_embed"
    block, head = "image.encoder.blocks", "image.head"
    return [
        *_layer(patches, "image.embedding"),
        Rule(position, ("image.position",)),
        *_norm("blocks.{}.norm1", f"{block}.norm1"),
        *_layer("blocks.{}.attn.qkv", *_projections(f"{block}.attention")),
        *_layer("blocks.{}.attn.proj", f"{block}.attention.out"),
        *_norm("blocks.{}.norm2", f"{block}.norm2"),
        *_mlp("blocks.{}.mlp", "fc1", "fc2", f"{block}.mlp"),
        *_norm("norm", "image.encoder.norm"),
        Rule("attn_pool.latent", (f"{head}.probe",)),
        *_layer("attn_pool.q", f"{head}.attention.query"),
        *_layer("attn_pool.kv", *_projections(f"{head}.attention", "key", "value")),
        *_layer("attn_pool.proj", f"{head}.attention.out"),
        *_norm("attn_pool.norm", f"{head}.norm"),
        *_mlp("attn_pool.mlp", "fc1", "fc2", f"{head}.mlp"),
    ]


def _text_rules(config: SiglipConfig) -> list[Rule]:
    """open_clip's `TextTransformer`."""
    theirs, block = "text.transformer.resblocks.{}", "text.encoder.blocks"
    projections = _projections(f"{block}.attention")
    return [
        Rule("text.token_embedding.weight", ("text.embedding.embedding",)),
        Rule("text.positional_embedding", ("text.position",)),
        *_norm(f"{theirs}.ln_1", f"{block}.norm1"),
        Rule(f"{theirs}.attn.in_proj_weight", tuple(f"{path}.kernel" for path in projections)),
        Rule(f"{theirs}.attn.in_proj_bias", tuple(f"{path}.bias" for path in projections)),
        *_layer(f"{theirs}.attn.out_proj", f"{block}.attention.out"),
        *_norm(f"{theirs}.ln_2", f"{block}.norm2"),
        *_mlp(f"{theirs}.mlp", "c_fc", "c_proj", f"{block}.mlp"),
        *_norm("text.ln_final", "text.encoder.norm"),
        *(_layer("text.text_projection", "text.head") if config.text_head else []),
    ]


def rules_of(config: SiglipConfig, towers: Towers, *, in_both: bool) -> list[Rule]:
    """The table of a model.

    Args:
        config: the architecture.
        towers: whose parameters.
        in_both: whether the file is open_clip's of both towers, or timm's of the image tower.
    """
    prefix = _TRUNK if in_both else ""
    rules = [Rule(prefix + rule.key, rule.paths) for rule in _image_rules(config)]
    if towers == "both":
        rules += _text_rules(config)
        rules += [Rule("logit_scale", ("t",)), Rule("logit_bias", ("b",))]
    return rules


def towers_of(keys: Iterable[str]) -> Towers | None:
    """Whose names these are: open_clip's of both towers, timm's of an image tower, or nobody's."""
    names = list(keys)
    if any(key.startswith(_TRUNK) for key in names):
        return "both"
    return "image" if any(key.startswith("blocks.0.") for key in names) else None
