"""The configuration of a run: frozen dataclasses, one a section, that validate themselves.

A recipe under `configs/` returns plain data (an `ml_collections.ConfigDict`); `read_words` reads it
with the overrides of the command line, and `parse` turns it into `BenchmarkConfig`. A key that no
section has, a value of another type and a value out of range are each a `UserError` that names the
key, the value and what is allowed.
"""

import argparse
import dataclasses
import difflib
import itertools
import math
import os
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import ml_collections
from absl import flags
from ml_collections import config_flags

from ilias_jax.errors import UserError, quoted
from ilias_jax.files import reading

T = TypeVar("T")
UserPath = Annotated[str, "a path in which `~` is the home directory"]
_SCHEMES = ("gs", "s3", "az", "hf")  # that etils reads
_MAX_BATCH = 2**20
MAX_K = 10_000  # rows of a list
_EXAMPLE = "for example --config configs/demo.py"
# What a check of a dataset may find and a run may go on with, by name and in the report. Queries
# and positives are not here: mAP is a mean over all of them, so without one there is no score.
ALLOWANCES = {
    "missing_distractors": "distractors that the official list has and no shard",
    "extra_distractors": "distractors that the official list does not have",
    "unchecked_distractors": "no image_ids/distractor_ids.txt.gz to check the full set against",
    "missing_inventories": "shards without inventory, so that only their number is checked",
    "no_text_queries": "no ilias_text/, so that image queries alone are run",
    "unlisted_files": "shards and inventories that dataset_info.json does not list",
}


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"{key}={value!r} is not allowed; it must be {allowed}")


def expand_home(text: str) -> str:
    """A path as a user gives it, `~` being the home directory; a ValueError says why it is none."""
    path = os.path.expanduser(text)
    if not text.strip() or "\0" in text:
        raise ValueError(f"{quoted(text)} is no path; '.' is the folder that you are in")
    if "://" in path and (scheme := path.partition("://")[0]) not in _SCHEMES:
        raise ValueError(f"{quoted(text)}: {quoted(scheme)} is none of {', '.join(_SCHEMES)}")
    if path.startswith("~"):
        raise ValueError(f"{quoted(text)}: no user of that name has a home; ./{path} is a file")
    return path


def path_flag(text: str) -> str:
    """As `expand_home`, for the `type` of a flag, whose name argparse adds to the message."""
    try:
        return expand_home(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def require_allowances(names: Sequence[str], place: str) -> None:
    """Raises UserError for names that `ALLOWANCES` does not have, given at `place`."""
    for name in names:
        allowed = "among " + ", ".join(ALLOWANCES)
        _require(name in ALLOWANCES, place, name, allowed)


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """A miniature world: how large it is and which one.

    Attributes:
        seed: picks the world.
        num_objects: particular objects, each with a text query.
        num_image_queries: at least one an object.
        num_positives: at least one an object.
        num_distractors: pictures of other things.
        num_tars: files that the distractors are spread over.
    """

    seed: int = 7
    num_objects: int = 100
    num_image_queries: int = 120
    num_positives: int = 450
    num_distractors: int = 5000
    num_tars: int = 10

    def __post_init__(self) -> None:
        """Checks ranges; no object may be left without a query or a positive."""
        place, objects = "dataset.world.", self.num_objects
        _require(self.seed >= 0, place + "seed", self.seed, ">= 0")
        _require(objects >= 1, place + "num_objects", objects, ">= 1")
        for name in ("num_image_queries", "num_positives"):
            value = getattr(self, name)
            _require(value >= objects, place + name, value, f">= num_objects={objects}")
        tars, most = self.num_tars, self.num_distractors
        allowed = f"in [1, num_distractors={most}]"
        _require(1 <= tars <= most, place + "num_tars", tars, allowed)


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """Which dataset.

    Attributes:
        name: for the report.
        data_dir: local folder or bucket with `ilias/`, `ilias_text/`, `image_ids/`, `misc/`.
        subset: "full", or "mini" for the official 5M selection of distractors.
        read_threads: threads that read, decode and resize.
        allow: names from `ALLOWANCES`, separated by commas, of what may be wrong with the dataset.
        world: None for a dataset that must be there.
    """

    name: str = "ilias"
    data_dir: UserPath = ""
    subset: Literal["full", "mini"] = "full"
    read_threads: int = 2
    allow: str = ""
    world: WorldConfig | None = None

    def __post_init__(self) -> None:
        _require(self.name.isprintable(), "dataset.name", self.name, "printable")
        _require(bool(self.data_dir), "dataset.data_dir", self.data_dir, "a folder")
        _require(self.read_threads >= 1, "dataset.read_threads", self.read_threads, ">= 1")
        require_allowances(self.allowed, "dataset.allow")

    @property
    def allowed(self) -> list[str]:
        """The names in `allow`."""
        return [name.strip() for name in self.allow.split(",") if name.strip()]


Dtype = Literal["auto", "float32", "float16", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which model and how it runs.

    Attributes:
        name: a row of the table of models (`ilias-jax models`).
        checkpoint: path or URI of the weights, in any format that `models.checkpoints` reads; empty
            for the published file, which is downloaded on first use.
        weights: which published file that is: "big_vision" or "open_clip" for both towers, "timm",
            "torch" (the authors' own) or "flax" for the image tower alone; empty for the model's
            first one that is suitable.
        towers: "both"; "image" to run image queries alone, for which only that tower is read.
        text_checkpoint: the text tower's weights if they are in another file than `checkpoint`.
        tokenizer: path or URI of the vocabulary; empty for the published one likewise.
        resolution: test size, pixels of the longest side; 0 for the model's usual one.
        activation: "native" as the model was trained, "reference" as the published numbers had it,
            where timm ran image towers and open_clip text towers, or a form of the GELU in both.
        dtype: of the computation; norms, softmax and sums are float32, and so is the final norm.
            "auto" is the one nearest to the published features, which were made in float16, at
            the device's speed: "float16" on GPUs, "bfloat16" on TPUs, "float32" on CPUs.
        text_cleaning: of SigLIP's texts, "canonicalize" as the reference ran it, "lower" as it was
            trained; CLIP's tokenizer has one way alone.
        factory: the user's own model instead of a row of the table: "package.module:function" or
            "folder/file.py:function", which returns a `Model`; see `models.custom`.
        factory_args: keyword arguments of the function, plain data.
        attention: "auto" for what suits the device, or one of the ways of `models.attention`.
    """

    name: str = ""
    checkpoint: UserPath = ""
    weights: Literal["", "big_vision", "open_clip", "timm", "torch", "flax"] = ""
    towers: Literal["both", "image"] = "both"
    text_checkpoint: UserPath = ""
    tokenizer: UserPath = ""
    resolution: int = 0
    activation: Literal["reference", "native", "gelu_tanh", "gelu_exact", "quick_gelu"] = "native"
    dtype: Dtype = "float32"
    text_cleaning: Literal["canonicalize", "lower"] = "canonicalize"
    factory: UserPath = ""
    factory_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    attention: Literal["auto", "xla", "cudnn", "grouped"] = "auto"

    def __post_init__(self) -> None:
        _require(self.resolution >= 0, "model.resolution", self.resolution, ">= 0")
        given, allowed = dict(self.factory_args), "empty without model.factory"
        _require(bool(self.factory) or not given, "model.factory_args", given, allowed)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged.

    Attributes:
        model_partitions: devices that share one copy of the parameters; 1 replicates them.
    """

    model_partitions: int = 1

    def __post_init__(self) -> None:
        value = self.model_partitions
        _require(value >= 1, "mesh.model_partitions", value, ">= 1")


@dataclasses.dataclass(frozen=True)
class ViewsConfig:
    """Which views of an image are embedded; the defaults embed the image as it is.

    With several scales or rotations every pair of one is a view, and an image's embedding is the
    mean of its views' normalised embeddings, normalised again.

    Attributes:
        scales: factors on the resized image; the official option is 0.707, 1, 1.414.
        rotations: degrees counter-clockwise; the official option is 0, 90, 180, 270.
        crop_to_box: cut core images to the union of their boxes before the resize.
        mask_outside_box: set the pixels of core images outside of all boxes to zero after the
            normalisation.
        boxes_of: whose boxes are used: "core" for queries and positives, "image_query" for queries
            alone. Boxes of positives are labels: with them a database knows what is asked for.
    """

    scales: tuple[float, ...] = (1.0,)
    rotations: tuple[int, ...] = (0,)
    crop_to_box: bool = False
    mask_outside_box: bool = False
    boxes_of: Literal["core", "image_query"] = "core"

    def __post_init__(self) -> None:
        for name, allowed, good in (
            ("scales", "numbers in (0, 4]", lambda scale: 0 < scale <= 4),
            ("rotations", "some of 0, 90, 180, 270", lambda angle: angle in (0, 90, 180, 270)),
        ):
            values = getattr(self, name)
            distinct = bool(values) and len(set(values)) == len(values)
            place = f"views.{name}"
            _require(distinct and all(map(good, values)), place, values, f"{allowed}, each once")

    @property
    def num_views(self) -> int:
        """Views of an image."""
        return len(self.scales) * len(self.rotations)

    @property
    def max_scale(self) -> float:
        """The largest scale, at least 1."""
        return max(1.0, *self.scales)

    def of(self, split: str) -> "ViewsConfig":
        """The views of a split's images: distractors have no boxes to crop to."""
        has_boxes = split == "image_query" or (split == "positive" and self.boxes_of == "core")
        return dataclasses.replace(
            self,
            crop_to_box=self.crop_to_box and has_boxes,
            mask_outside_box=self.mask_outside_box and has_boxes,
            boxes_of="core",
        )


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """How embeddings are computed.

    Attributes:
        batch_size_per_device: images a device takes at a time.
        num_buckets: token lengths that images are padded to, those of usual photos first; each is
            compiled once.
        canvas: side in pixels of the square in which decoded pictures go to the device, which
            resizes them; larger ones are resized on the host. 0 resizes all on the host.
        storage_dtype: "float16" as the reference stores, or "float32".
    """

    batch_size_per_device: int = 32
    num_buckets: int = 6
    canvas: int = 512
    storage_dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        size, buckets = self.batch_size_per_device, self.num_buckets
        _require(
            1 <= size <= _MAX_BATCH, "embed.batch_size_per_device", size, f"in [1, {_MAX_BATCH}]"
        )
        _require(buckets >= 1, "embed.num_buckets", buckets, ">= 1")
        canvas, most = self.canvas, 8192  # what `preprocessing.resize` can count
        _require(0 <= canvas <= most, "embed.canvas", canvas, f"in [0, {most}]")


@dataclasses.dataclass(frozen=True)
class ScannConfig:
    """ScaNN's partitioned index (Guo et al., 2020); 0 picks a value from the number of rows.

    Attributes:
        num_leaves: leaves that the rows of each part are divided into; 0 for the square root of
            their number.
        num_leaves_to_search: leaves of each part that a query visits; 0 for as many as would hold
            50 times k rows in one index of the whole database.
        dimensions_per_block: channels that share a quantisation code.
        anisotropic_threshold: of the anisotropic quantisation loss.
        reorder: candidates that are scored exactly; 0 for one and a half times k.
        soar_lambda: weight of SOAR (Sun et al., 2023), which puts every row into a second leaf;
            0 for off.
        overretrieve_factor: of SOAR, how many more candidates ScaNN keeps before it drops doubles.
        training_sample_size: rows of a part that leaves and codes are trained on, at most.
        memory_gb: memory in 10**9 bytes that building, saving or searching the index may add to
            what the process has already. A database that needs more is indexed in several parts.
    """

    num_leaves: int = 0
    num_leaves_to_search: int = 0
    dimensions_per_block: int = 2
    anisotropic_threshold: float = 0.2
    reorder: int = 0
    soar_lambda: float = 0.0
    overretrieve_factor: float = 2.0
    training_sample_size: int = 100_000
    memory_gb: float = 8.0

    def __post_init__(self) -> None:
        for name in ("num_leaves", "num_leaves_to_search", "reorder"):
            value = getattr(self, name)
            _require(value >= 0, f"search.scann.{name}", value, ">= 0")
        for name in ("dimensions_per_block", "training_sample_size"):
            value = getattr(self, name)
            _require(value >= 1, f"search.scann.{name}", value, ">= 1")
        threshold, weight = self.anisotropic_threshold, self.soar_lambda
        _require(0 <= threshold <= 1, "search.scann.anisotropic_threshold", threshold, "in [0, 1]")
        _require(0 <= weight < math.inf, "search.scann.soar_lambda", weight, ">= 0 and finite")
        factor, memory = self.overretrieve_factor, self.memory_gb
        _require(1 <= factor < math.inf, "search.scann.overretrieve_factor", factor, ">= 1")
        _require(0 < memory < math.inf, "search.scann.memory_gb", memory, "> 0 and finite")


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """How the database is searched.

    Attributes:
        backend: "exact", "scann" (the partitioned index) or another of `search.backends.BACKENDS`.
        k: length of the rankings and the k of mAP@k.
        block_rows: database rows a device multiplies at one time, at most.
        filter: precision of the products that choose the rows to be scored exactly, by exact
            search; "auto" takes the faster one. The result is the same.
        measure_ann_recall: whether to search exactly and approximately and report ANN recall@k.
        scann: of the partitioned index.
    """

    backend: str = "exact"
    k: int = 1000
    block_rows: int = 16384
    filter: Literal["auto", "float32", "bfloat16"] = "auto"
    measure_ann_recall: bool = False
    scann: ScannConfig = ScannConfig()

    def __post_init__(self) -> None:
        _require(1 <= self.k <= MAX_K, "search.k", self.k, f">= 1 and <= {MAX_K:,}")
        _require(self.block_rows >= 1, "search.block_rows", self.block_rows, ">= 1")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """The linear adapter of image queries and database in the image-to-image section.

    Attributes:
        path: `.pth` of the official toolkit or `.safetensors` of `ilias-jax adapt`; empty for none.
    """

    path: UserPath = ""


@dataclasses.dataclass(frozen=True)
class RerankConfig:
    """Query expansion, and re-ranking of the first entries of every image query's list.

    A neighbour's weight is its score to the power of alpha, 0 if the score is negative; with alpha
    0 all weights are 1.

    Attributes:
        query_expansion: neighbours that are averaged into a query, which is then searched again;
            0 for none.
        query_expansion_alpha: exponent of their scores.
        query_expansion_weights: with an adapter, whether neighbours are weighted as they are
            searched, after it, or before it, as the official toolkit does: there the norm after
            the adapter nearly cancels the weights, and negative scores turn vectors around.
        method: one of `rerank.reranker.RERANKERS`; empty for no re-ranking.
        shortlist: entries of a list that are re-ranked, M; the rest stays behind them.
        weights: path or URI of the method's weights.
        detector: likewise of those that choose local descriptors; empty for none.
        model: whose tokens are the local descriptors; without a name the method's usual one, with
            the name "own" that of the run.
        resolution: pixels of the longest side of the images that they are taken from; 0 for the
            method's usual one.
        query_descriptors, database_descriptors: at most so many of an image; 0 likewise.
        crop_queries: cut image queries to their boxes. Database images never are.
        similarity_weight: lambda in [0, 1], of the search's score in the final one; -1 for the
            method's published value.
        temperature: gamma > 0, which the method's score is multiplied by before the sigmoid; 0
            likewise.
        dtype: of the method's matrix products; as `model.dtype`.
    """

    query_expansion: int = 0
    query_expansion_alpha: float = 1.0
    query_expansion_weights: Literal["after_adapter", "before_adapter"] = "after_adapter"
    method: str = ""
    shortlist: int = 1000
    weights: UserPath = ""
    detector: UserPath = ""
    model: ModelConfig = ModelConfig()
    resolution: int = 0
    query_descriptors: int = 0
    database_descriptors: int = 0
    crop_queries: bool = False
    similarity_weight: float = -1.0
    temperature: float = 0.0
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        count, alpha = self.query_expansion, self.query_expansion_alpha
        _require(count >= 0, "rerank.query_expansion", count, ">= 0")
        allowed = ">= 0 and finite"
        _require(0 <= alpha < math.inf, "rerank.query_expansion_alpha", alpha, allowed)
        _require(self.shortlist >= 1, "rerank.shortlist", self.shortlist, ">= 1")
        for name in ("resolution", "query_descriptors", "database_descriptors"):
            _require(getattr(self, name) >= 0, f"rerank.{name}", getattr(self, name), ">= 0")
        share, gamma = self.similarity_weight, self.temperature
        good = share == -1 or 0 <= share <= 1
        _require(good, "rerank.similarity_weight", share, "in [0, 1], or -1")
        _require(0 <= gamma < math.inf, "rerank.temperature", gamma, ">= 0 and finite")


@dataclasses.dataclass(frozen=True)
class MetricsConfig:
    """How scores are computed.

    Attributes:
        num_resamples: bootstrap resamples of the objects.
        seed: of the resampling.
    """

    num_resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        count, seed = self.num_resamples, self.seed
        _require(count >= 40, "metrics.num_resamples", count, ">= 40, for a 95 % interval")
        _require(0 <= seed < 2**32, "metrics.seed", seed, "in [0, 2**32)")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What the report shows.

    Attributes:
        gallery_queries: best and worst queries shown, each, of either kind.
        gallery_results: top results shown for each.
    """

    gallery_queries: int = 4
    gallery_results: int = 8

    def __post_init__(self) -> None:
        for name in ("gallery_queries", "gallery_results"):
            _require(getattr(self, name) >= 0, f"report.{name}", getattr(self, name), ">= 0")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """A whole run; each attribute is a section."""

    dataset: DatasetConfig
    model: ModelConfig
    views: ViewsConfig = ViewsConfig()
    mesh: MeshConfig = MeshConfig()
    embed: EmbedConfig = EmbedConfig()
    search: SearchConfig = SearchConfig()
    adapter: AdapterConfig = AdapterConfig()
    rerank: RerankConfig = RerankConfig()
    metrics: MetricsConfig = MetricsConfig()
    report: ReportConfig = ReportConfig()

    def __post_init__(self) -> None:
        """Checks what two sections must agree on."""
        count, k = self.rerank.query_expansion, self.search.k
        _require(count <= k, "rerank.query_expansion", count, f"<= search.k={k}")
        if self.rerank.method:
            length = self.rerank.shortlist
            _require(length <= k, "rerank.shortlist", length, f"<= search.k={k}")
        weights = self.rerank.query_expansion_weights
        has_effect = weights == "after_adapter" or (count > 0 and bool(self.adapter.path))
        needed = "'after_adapter' without rerank.query_expansion and adapter.path"
        _require(has_effect, "rerank.query_expansion_weights", weights, needed)


def parse(config: Mapping[str, Any]) -> BenchmarkConfig:
    """Builds and validates the configuration from a recipe's plain data.

    Raises:
        UserError: unknown key, wrong type or value out of range.
    """
    return _section(BenchmarkConfig, config, "")


def _section(cls: type[T], values: Mapping[str, Any], place: str) -> T:
    hints = typing.get_type_hints(cls, include_extras=True)
    for key in values:
        if key not in hints:
            raise UserError(unknown_key(place + key, [place + name for name in hints]))
    filled = {key: _value(hints[key], value, place + key) for key, value in values.items()}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        defaults = (field.default, field.default_factory)
        if field.name not in filled and defaults == (dataclasses.MISSING, dataclasses.MISSING):
            raise UserError(f"the config has no section {place}{field.name}")
    return cls(**filled)


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a misspelt key."""
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{key} is no key of the config; {hint}Known here: {', '.join(sorted(known))}"


def _value(hint: Any, value: Any, key: str) -> Any:
    if hint == UserPath:
        return _path(_value(str, value, key), key)
    if isinstance(hint, types.UnionType):  # Section | None
        if value is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{key}={value!r} must be a section with keys of its own")
        return _section(typing.cast(type, hint), value, key + ".")
    if typing.get_origin(hint) is Mapping:  # keys of the user's own
        if not isinstance(value, Mapping):
            raise UserError(f"{key}={value!r} must be a section with keys of its own")
        return _plain(value, key)
    if typing.get_origin(hint) is tuple:  # tuple[item, ...]
        if not isinstance(value, list | tuple):
            raise UserError(f"{key}={value!r} is {type(value).__name__}, not a list of values")
        item = typing.get_args(hint)[0]
        return tuple(_value(item, one, f"{key}[{i}]") for i, one in enumerate(value))
    if typing.get_origin(hint) is Literal:
        allowed = typing.get_args(hint)
        _require(value in allowed, key, value, "one of " + ", ".join(map(repr, allowed)))
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{key}={value!r} is {type(value).__name__}, not {hint.__name__}")
    return value


def _path(value: str, key: str) -> str:
    """The path with its home directory; empty is what says that there is none."""
    try:
        return value and expand_home(value)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error


def _plain(value: Any, key: str) -> Any:
    """The value, if it is text, a number, a truth value, None, or sections and lists of those."""
    if isinstance(value, Mapping):
        for name in value:
            _require(isinstance(name, str), key, name, "a section whose keys are text")
        return {name: _plain(one, f"{key}.{name}") for name, one in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(one, f"{key}[{i}]") for i, one in enumerate(value))
    if value is not None and not isinstance(value, str | int | float):
        raise UserError(f"{key}={value!r} is {type(value).__name__}, not plain data")
    return value


def with_defaults(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """A recipe: what it says, and the defaults of all that it does not say.

    The command line can set only what is there, so a recipe must have every key.

    Args:
        values: sections of plain data; a key that no section has stays, for `parse` to refuse.
    """
    hints = typing.get_type_hints(BenchmarkConfig)
    return ml_collections.ConfigDict(
        _merged({name: _defaults(section) for name, section in hints.items()}, values)
    )


def _defaults(section: type) -> dict[str, Any]:
    """The defaults of a section and of those within it; one that may be left out is."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(field.default):
            plain[field.name] = _defaults(type(field.default))
        elif field.default_factory is not dataclasses.MISSING:
            plain[field.name] = field.default_factory()
        elif field.default is not None:
            plain[field.name] = field.default
    return plain


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            merged[key] = _merged(inner, value)
        else:
            merged[key] = value
    return merged


def read_words(
    program: str, words: Sequence[str], flag_names: Sequence[str] = ()
) -> BenchmarkConfig:
    """Reads `--config FILE[:ARGUMENT] --config.KEY=VALUE`, for main.py and every command alike.

    Args:
        program: name of the command.
        words: --config and its overrides, and whatever else there is, which is refused.
        flag_names: the command's other flags, which an unknown one may have meant.

    Raises:
        UserError: no recipe, one that cannot be read, an unknown flag or key, a word that is no
            flag, or values that are not allowed.
    """
    return parse(_read_recipe([program, *words], flag_names))


def _read_recipe(argv: Sequence[str], flag_names: Sequence[str]) -> dict[str, Any]:
    """The plain data of --config; what absl and ml_collections raise becomes a UserError."""
    if os.path.exists(name := _recipe_file(argv)):
        with reading(name):  # Python would read a pipe or a device without end
            pass
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", None, "The recipe.", flag_values=values, sys_argv=list(argv)
    )
    try:
        if rest := values(list(argv))[1:]:
            raise UserError(f"unknown arguments: {' '.join(rest)}; flags begin with --")
        if holder.value is None:
            raise UserError(f"--config is missing; {_EXAMPLE}")
        return holder.value if isinstance(holder.value, dict) else holder.value.to_dict()
    except flags.UnrecognizedFlagError as error:
        close = difflib.get_close_matches(error.flagname, ["config", *flag_names], n=1)
        hint = f"; did you mean --{close[0]}?" if close else ""
        raise UserError(f"unknown flag --{error.flagname}{hint}") from error
    except flags.Error as error:
        # An exception in a recipe comes with its traceback; the last line says what is wrong.
        raise UserError(str(error).strip().splitlines()[-1].strip()) from error
    except UserError:
        raise
    except Exception as error:  # a recipe is a program, which may raise anything
        _refuse_unknown_key(argv)
        is_file = not isinstance(error, OSError)
        told = f": {_told(error, name)}" if is_file else f"; {_EXAMPLE}"
        raise UserError(f"--config {name} cannot be read{told}") from error


def _recipe(argv: Sequence[str]) -> list[str]:
    """The word that names the recipe, as `--config=FILE`; none where there is none."""
    for word, after in itertools.pairwise([*argv, ""]):
        name, equals, value = word.lstrip("-").partition("=")
        if name == "config" and word.startswith("-"):
            return [f"--config={value if equals else after}"]
    return []


def _recipe_file(argv: Sequence[str]) -> str:
    return next(iter(_recipe(argv)), "").removeprefix("--config=").partition(":")[0]


def _told(error: Exception, recipe: str) -> str:
    """An exception, and the line of the recipe that it came from or what a recipe is."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename.endswith(recipe)]
    where = f"line {lines[-1]}" if lines else f"a recipe has get_config(), {_EXAMPLE}"
    return f"{type(error).__name__}: {error}; {where}"


def _refuse_unknown_key(argv: Sequence[str]) -> None:
    """Raises UserError if an override names no key of the recipe, read without overrides."""
    recipe = _recipe(argv)
    if [*argv[1:]] == recipe:
        return
    known = list(_paths(_read_recipe([argv[0], *recipe], ()))) if recipe else []
    for word in argv:
        flag, dot, key = word.lstrip("-").partition("=")[0].partition(".")
        if (flag, dot) == ("config", ".") and key not in known:
            raise UserError(unknown_key(key, known))


def _paths(values: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{place}{key}.")
        else:
            yield place + key
