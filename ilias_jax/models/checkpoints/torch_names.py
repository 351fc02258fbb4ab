"""Checkpoints of PyTorch's models: whose names a file has, and its tensors as our parameters.

timm's files, and those of most authors, hold an image tower alone (`blocks.0.attn.qkv.weight`).
open_clip's hold both: the image tower under `visual.`, in its own names or under `visual.trunk.` in
timm's, and the text tower under `text.` or without a prefix.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.names import Found, Table
from ilias_jax.models.checkpoints.torch_tables import Names, rules_of
from ilias_jax.models.dual_encoder import DualEncoderConfig, Towers
from ilias_jax.models.parameters import as_float32

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


def names_of(keys: Iterable[str]) -> Names:
    """Whose names these unwrapped ones are."""
    found = set(keys)
    text = next((p for p in ("text.", "") if f"{p}token_embedding.weight" in found), None)
    if "visual.conv1.weight" in found and "visual.class_embedding" in found:
        return Names("clip", "visual.", text)
    for prefix in (TIMM_AND_TEXT.image_prefix, ""):
        if any(key.startswith(f"{prefix}blocks.0.") for key in found):
            return Names("timm", prefix, text)
    return Names(None, text_prefix=text)


def _is_of(towers: Towers, key: str, names: Names) -> bool:
    """Whether a tensor is wanted; of an image tower alone is what belongs to no tower, too."""
    stems = names.text_prefix or _TEXT_STEMS
    of_text = names.text_prefix is not None and key.startswith(stems)
    of_loss = key in _LOSS
    return {"both": True, "image": not of_text and not of_loss, "text": of_text and not of_loss}[
        towers
    ]


def _found(arrays: Mapping[str, np.ndarray], source: str, towers: Towers) -> tuple[Found, Names]:
    """A file's arrays of the towers that are asked for, and whose names they have.

    Raises:
        UserError: it has no such tower, by its names.
    """
    items = ((unwrapped(key), key, value) for key, value in arrays.items())
    found = Found.of(item for item in items if not _BESIDE.search(item[0]))
    names = names_of(found.arrays)
    if names.towers is None:
        first = ", ".join(sorted(arrays)[:3])
        raise UserError(
            f"{source} has names of no known model ({first}, ...); they should be those of timm, "
            "open_clip or CLIP"
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


def _apply_masks(arrays: dict[str, np.ndarray]) -> None:
    """Multiplies DINOv3's masks into the biases that they mask, as at every step there."""
    for key in [key for key in arrays if key.endswith(_BIAS_MASK)]:
        mask, bias = arrays.pop(key), key.removesuffix("_mask")
        if bias in arrays and arrays[bias].shape == mask.shape:
            arrays[bias] = as_float32(arrays[bias]) * as_float32(mask)


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
    whose = {"timm": "timm's", "clip": "CLIP's", None: "open_clip's"}[names.image]
    rules = rules_of(config, names, towers)
    return Table.of(rules, config, towers, whose, source).fill(found, source)
