"""The table of named models, and `resolve`: what a configuration's model is made of.

Names are those of the published table and of timm. A model that shares its architecture with others
is one row in its family's module.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
from etils import epath

from ilias_jax import files
from ilias_jax.config import Dtype, ModelConfig, unknown_key
from ilias_jax.errors import UserError
from ilias_jax.models import hub
from ilias_jax.models.attention import choose_here
from ilias_jax.models.checkpoints.formats import read_arrays
from ilias_jax.models.checkpoints.torch_names import unwrapped
from ilias_jax.models.custom import Factory, resolve_factory
from ilias_jax.models.dual_encoder import DualEncoderConfig, TextConfig
from ilias_jax.models.registry.clip import CLIP_ROWS
from ilias_jax.models.registry.cnn import CNN_ROWS
from ilias_jax.models.registry.entry import (
    ModelSpec,
    PublishedFile,
    ResolvedModel,
    Variant,
    WantedFile,
    Weights,
    preprocessing_of,
)
from ilias_jax.models.registry.siglip import SIGLIP_ROWS
from ilias_jax.models.registry.vit import VIT_ROWS
from ilias_jax.models.vit import VitConfig

VARIANTS: dict[str, Variant] = {**SIGLIP_ROWS, **CLIP_ROWS, **VIT_ROWS, **CNN_ROWS}
_BOTH_TOWERS: tuple[Weights, ...] = ("big_vision", "open_clip")  # whose files hold both
# Downloads files; raises UserError with the `problem` of each that cannot be had.
Bring = Callable[[Sequence[WantedFile]], None]


def resolve(
    config: ModelConfig,
    *,
    max_scale: float = 1.0,
    num_buckets: int = 1,
    bring: Bring | None = None,
) -> ResolvedModel | Factory:
    """Finds everything that a run's model is made of; reads no weights.

    Args:
        config: of the model.
        max_scale: of the views that will be embedded.
        num_buckets: token lengths that images will be padded to.
        bring: downloads published files that are missing.

    Raises:
        UserError: the model is unknown, it cannot be what the configuration asks for, or files are
            missing: all of them in one message, each with the command that brings it.
    """
    if config.factory:
        config = dataclasses.replace(config, dtype=computed_dtype(config.dtype))
        return resolve_factory(config, max_scale, num_buckets)
    return resolve_row(config, max_scale=max_scale, bring=bring)


def resolve_row(
    config: ModelConfig,
    *,
    max_scale: float = 1.0,
    bring: Bring | None = None,
) -> ResolvedModel:
    """As `resolve`, for a model of the table."""
    spec = specify(config, max_scale=max_scale)
    paths = _find(wanted_files(config, spec.variant), bring)
    checkpoint, text = paths["model.checkpoint"], paths.get("model.text_checkpoint")
    if spec.variant.open_grid:
        architecture = _with_stored_grid(spec.architecture, checkpoint)
        spec = dataclasses.replace(spec, architecture=architecture)
    return ResolvedModel(
        **vars(spec),
        checkpoint=checkpoint,
        text_checkpoint=None if text == checkpoint else text,
        tokenizer=paths.get("model.tokenizer"),
    )


def specify(config: ModelConfig, *, max_scale: float = 1.0) -> ModelSpec:
    """Finds what a model of the table is, apart from its files; see `resolve`."""
    variant = find_variant(config.name)
    _check_towers(config, variant)
    _refuse_unused(config, variant)
    architecture = variant.architecture_with(config.activation)
    if config.towers == "image":
        architecture = dataclasses.replace(architecture, text=None, sigmoid_loss=False)
    assert architecture.image is not None  # as every row has it
    resolution = config.resolution or variant.test_resolution
    preprocessing = preprocessing_of(
        architecture.image, resolution, variant.normalization, max_scale
    )
    _check_attention(config, architecture)
    options = computed_dtype(config.dtype), config.attention, config.text_cleaning
    return ModelSpec(config.name, variant, architecture, preprocessing, *options)


def _with_stored_grid(config: DualEncoderConfig, path: epath.Path) -> DualEncoderConfig:
    """The image tower with the position grid of a file in timm's names, if it has one."""
    assert isinstance(config.image, VitConfig)  # no other leaves the grid open
    for name, _, value in unwrapped(read_arrays(path).arrays, str(path)):
        if name == "pos_embed" and value.ndim == 3:
            side = math.isqrt(value.shape[1] - config.image.has_class_position)
            image = dataclasses.replace(config.image, native_grid=side)
            return dataclasses.replace(config, image=image)
    return config


def computed_dtype(dtype: Dtype) -> Dtype:
    """What `model.dtype` is on this machine: "auto" depends on the device."""
    by_platform: dict[str, Dtype] = {"gpu": "float16", "tpu": "bfloat16"}
    return by_platform.get(jax.default_backend(), "float32") if dtype == "auto" else dtype


def find_variant(name: str) -> Variant:
    """The table's row of a model; raises UserError if there is no such model."""
    if name not in VARIANTS:
        message = unknown_key(name or "''", list(VARIANTS))
        raise UserError(message.replace("is no key of the config", "is no model (model.name)"))
    return VARIANTS[name]


def _check_towers(config: ModelConfig, variant: Variant) -> None:
    if variant.architecture.text is None and config.towers != "image":
        alone = "run image queries alone with model.towers=image"
        raise UserError(f"model.towers={config.towers!r}: {config.name} has no text tower; {alone}")


def _refuse_unused(config: ModelConfig, variant: Variant) -> None:
    vocabulary, text_checkpoint = variant.vocabulary, config.text_checkpoint
    unused = f"would have no effect with model.towers={config.towers}"
    if text_checkpoint and config.towers == "image":
        raise UserError(f"model.text_checkpoint={text_checkpoint} {unused}; leave one of them out")
    if vocabulary and vocabulary.kind == "clip" and config.text_cleaning == "lower":
        raise UserError(
            f"model.text_cleaning='lower' would have no effect: {config.name} has CLIP's "
            "tokenizer, which cleans texts in one way; leave it out"
        )


def _check_attention(config: ModelConfig, architecture: DualEncoderConfig) -> None:
    towers = architecture.image, architecture.text
    sizes = [each.size for each in towers if isinstance(each, VitConfig | TextConfig)]
    if not sizes:
        if config.attention != "auto":
            raise UserError(
                f"model.attention={config.attention!r} would have no effect: {config.name} is a "
                "CNN; leave it out"
            )
        return
    head_dim = sizes[0].head_dim
    dtype = computed_dtype(config.dtype)
    if config.attention == "cudnn" and choose_here(dtype, head_dim) != "cudnn":
        kind = jax.local_devices()[0].device_kind
        raise UserError(
            "model.attention='cudnn' needs an NVIDIA GPU from Ampere on, bfloat16 and heads of 8, "
            f"16, ... 128 channels; here: {kind}, {dtype}, {head_dim} channels. Use "
            "'auto'"
        )


def _has_text_file(config: ModelConfig, variant: Variant) -> bool:
    return bool(config.text_checkpoint or (variant.text_file and not config.checkpoint))


def _choose_weights(config: ModelConfig, variant: Variant) -> PublishedFile | None:
    """The published file that a configuration asks for, or could have asked for.

    None if there is none and the configuration gives a file of its own.
    """
    # The text tower is to come from this file too.
    both = config.towers != "image" and not _has_text_file(config, variant)
    suitable = [weights for weights in variant.files if weights in _BOTH_TOWERS or not both]
    usual: Weights | None = next(iter([*suitable, *variant.files]), None)
    wanted = config.weights or usual
    if config.checkpoint:
        return variant.files.get(wanted or "timm")
    known = ", ".join(map(repr, variant.files))
    if wanted is None or not variant.files:
        raise UserError(f"model.checkpoint: {config.name} has no published file: {variant.note}")
    if wanted not in variant.files:
        raise UserError(f"model.weights={wanted!r}: {config.name} has {known}")
    if both and wanted not in _BOTH_TOWERS:
        raise UserError(
            f"model.weights={wanted!r} is a file of the image tower alone, and {config.name} has "
            f"{known}; run image queries alone with model.towers=image"
        )
    return variant.files[wanted]


def _wanted(
    key: str, configured: str, published: PublishedFile | None, bundled: bool
) -> WantedFile:
    """The configured file, else the bundled one, else the published one in the cache."""
    if published is None:
        return WantedFile(key, epath.Path(configured), None, "Give the path of a file that does")
    if bundled:
        path = epath.Path(configured or files.bundled_folder() / published.url)
        remedy = f"The bundled one is data/{published.url} of the checkout"
        return WantedFile(key, path, None, remedy)
    path = epath.Path(configured) if configured else hub.cached_path(published)
    remedy = f"Get it: curl --create-dirs -Lo {path} {published.url}"
    return WantedFile(key, path, None if configured else published, remedy)


def wanted_files(config: ModelConfig, variant: Variant) -> list[WantedFile]:
    """The files of the towers that run; raises UserError if the model has no such weights."""
    published = _choose_weights(config, variant)
    wanted = [_wanted("model.checkpoint", config.checkpoint, published, variant.bundled)]
    if config.towers == "image":
        return wanted
    if _has_text_file(config, variant):
        own = None if config.checkpoint else variant.text_file
        wanted.append(_wanted("model.text_checkpoint", config.text_checkpoint, own, False))
    assert variant.vocabulary is not None  # a row with a text tower has one
    vocabulary = variant.vocabulary.file
    return [*wanted, _wanted("model.tokenizer", config.tokenizer, vocabulary, variant.bundled)]


def _find(wanted: Sequence[WantedFile], bring: Bring | None) -> dict[str, epath.Path]:
    """The files' paths by the configuration's keys; raises UserError if any is not there."""
    missing = [file for file in wanted if not file.path.exists()]
    problems = [file.problem() for file in missing if bring is None or file.published is None]
    published = [file for file in missing if file.published is not None]
    if bring is not None and published:
        try:
            bring(published)
        except UserError as error:
            problems.append(str(error))
    keys = [file.key for file in wanted if file in missing]
    if problems and keys == ["model.tokenizer"] and len(wanted) > len(keys):
        problems.append("An image tower alone needs none: model.towers=image runs image queries")
    if problems:
        raise UserError("\n".join(problems))
    return {file.key: file.path for file in wanted}
