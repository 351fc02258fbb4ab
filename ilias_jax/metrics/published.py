"""The published table that ships with the code, and a run beside the number of its setting.

`data/published/` holds the published scores, `data/parity.csv` the last comparison of every network
with its reference. A published number is set beside a run only where everything that moves a score
is the same; what differs is named.
"""

import csv
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, cast

from ilias_jax.config import BenchmarkConfig
from ilias_jax.dataset.layout import OFFICIAL_CORE, OFFICIAL_DISTRACTORS, Subset
from ilias_jax.errors import UserError
from ilias_jax.files import bundled_folder
from ilias_jax.models.registry.registry import VARIANTS

Status = Literal["published", "secondary", "unsure"]
Modality = Literal["image", "text"]
DATABASE_NAMES: dict[Subset, str] = {"mini": "mini-ILIAS", "full": "full ILIAS"}
# What a reader must know before using a number.
CAVEATS: dict[Status, str | None] = {
    "published": None,
    "secondary": "quoted elsewhere, not in the published table",
    "unsure": "the source lost a cell of this row: it may be the number of the other database",
}
_CORE = {
    "num_image_queries": OFFICIAL_CORE["image_query"],
    "num_text_queries": OFFICIAL_CORE["text_query"],
    "num_positives": OFFICIAL_CORE["positive"],
}
# Sections and keys that move no score, or that have a check of their own below. Any other value
# must be the default: the published runs used no option.
_CHECKED_OR_NEUTRAL = (
    *("dataset.", "model.", "mesh.", "embed.", "metrics.", "report.", "adapter."),
    *("search.block_rows", "search.filter", "search.measure_ann_recall", "search.scann."),
)
_Row = TypeVar("_Row")


@dataclasses.dataclass(frozen=True)
class PublishedScore:
    """One published number."""

    model: str  # name of the row
    section: str  # "image_to_image" or "text_to_image"
    databases: tuple[Subset, ...]  # the one searched; both where the source leaves it open
    adapted: bool  # the official linear layer was applied
    map: float  # mAP@1000 in percent, one decimal
    status: Status  # how sure the number is


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """All published numbers, in the order of the file."""

    test_resolutions: Mapping[str, int]  # model -> pixels of the longest side
    scores: tuple[PublishedScore, ...]

    def find(
        self, model: str, section: str, database: Subset, *, adapted: bool
    ) -> PublishedScore | None:
        """The number of one model in one setting, None where none is published."""
        for score in self.scores:
            same = (score.model, score.section, score.adapted) == (model, section, adapted)
            if same and database in score.databases:
                return score
        return None


@dataclasses.dataclass(frozen=True)
class Parity:
    """The comparison of one tower with its reference: full depth, float32, the same weights.

    Models whose weights alone differ share a network, and so its result. The file is written by
    `scripts/measure_parity.py`.
    """

    model: str  # name of the row
    modality: Modality
    graph: str  # the network that was compared
    reference: str  # which code ran beside ours
    inputs: int  # number of pictures or texts
    resolution: int  # pixels of the longest side; 0 for texts
    cosine: float  # smallest between an output of ours and the reference's
    error: float  # largest distance of two such outputs / mean distance of different inputs
    largest_difference: float  # of any channel

    def __str__(self) -> str:
        where = f" at {self.resolution}" if self.resolution else ""
        return (
            f"{self.modality} tower: cosine {self.cosine:.7f}, error {self.error:.1e} of the "
            f"distance between different inputs, largest difference "
            f"{self.largest_difference:.1e} ({self.inputs} inputs{where}; network {self.graph}, "
            f"reference {self.reference})"
        )


def read_published(folder: pathlib.Path | None = None) -> PublishedTable:
    """Reads the published scores.

    `folder` holds models.csv and scores.csv; by default it is the bundled one.

    Raises:
        UserError: a file is missing or a line breaks the layout.
    """
    folder = folder or bundled_folder() / "published"
    pairs = _read(folder / "models.csv", lambda row: (row["model"], int(row["test_res"])))
    return PublishedTable(dict(pairs), tuple(_read(folder / "scores.csv", _score)))


@functools.cache
def load_parity() -> dict[tuple[str, str], Parity]:
    """(model, modality) -> result; models that are not there are unproven.

    Raises:
        UserError: the file is missing or a line breaks the layout.
    """
    rows = _read(bundled_folder() / "parity.csv", _parity)
    return {(row.model, row.modality): row for row in rows}


def describe_dtype(dtype: str) -> str | None:
    """What a dtype of the computation costs beside float32; None where nothing was measured.

    Of `data/dtypes.csv`, which `scripts/measure_dtypes.py` writes: the smallest cosine and the
    largest error of the networks there.
    """
    rows = [row for row in _read(bundled_folder() / "dtypes.csv", dict) if row["dtype"] == dtype]
    told = []
    for modality in ("image", "text"):
        found = [row for row in rows if row["modality"] == modality]
        cosines, errors = ([float(row[key]) for row in found] for key in ("cosine", "error"))
        if found:
            told.append(
                f"{modality}s: cosine {min(cosines):.6f}, error {max(errors):.1e} of the spread"
            )
    return f"{'; '.join(told)}, at worst of {len(rows)} measurements" if told else None


def _read(path: pathlib.Path, parse: Callable[[dict[str, str]], _Row]) -> list[_Row]:
    if not path.exists():
        raise UserError(f"{path}: no such file; it ships with the code, install it again")
    parsed = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 1):
            try:
                parsed.append(parse(row))
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(
                    f"{path}, row {number}: {error!r} in {row}; install the package again"
                ) from error
    return parsed


def _score(row: Mapping[str, str]) -> PublishedScore:
    databases = cast(tuple[Subset, ...], tuple(row["database"].split(" or ")))
    status, adapted = cast(Status, row["status"]), row["adapted"] == "yes"
    number = float(row["map"])
    return PublishedScore(row["model"], row["section"], databases, adapted, number, status)


def _parity(row: Mapping[str, str]) -> Parity:
    numbers: dict[str, type] = {"inputs": int, "resolution": int}
    numbers |= dict.fromkeys(("cosine", "error", "largest_difference"), float)
    names = [field.name for field in dataclasses.fields(Parity)]
    return Parity(**{name: numbers.get(name, str)(row[name]) for name in names})


def compare_with_published(
    table: PublishedTable,
    config: Mapping[str, Any],
    model: Mapping[str, Any],
    dataset: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """The report's `published` section.

    Args:
        table: the published numbers.
        config: of the run, as nested plain values.
        model, dataset: the report's sections of these names.
        results: by section, as `Metrics.to_dict` gives them.

    Returns:
        By section either {"comparable": False, "reasons": [...]} or {"comparable": True, ...} with
        the published number, its caveat (None if it is sure), ours, the difference ours minus
        published in percentage points with our 95 % interval, and whether the published number,
        which has no interval of its own, lies inside ours.
    """
    name = str(model.get("name"))
    if name not in table.test_resolutions:
        reasons = [f"the published table has no model {name}"]
        return {section: {"comparable": False, "reasons": reasons} for section in results}
    database, reasons = _database(dataset)
    reasons = [*_model_reasons(table, model), *reasons, *_option_reasons(config)]
    adapter = str((config.get("adapter") or {}).get("path") or "")
    compared = {}
    for section, metrics in results.items():
        is_image, score = section == "image_to_image", None
        own, adapted = list(reasons), bool(adapter) and is_image
        if adapted and adapter.rpartition("/")[2] != f"{name}.pth":
            own.append(f"the adapter {adapter} is not the official layer {name}.pth")
        if not is_image:
            own += _text_reasons(model, config)
        if database is not None and not own:
            score = table.find(name, section, database, adapted=adapted)
            how = "with" if adapted else "without"
            own = [f"none is published for {DATABASE_NAMES[database]} {how} linear adaptation"]
        refused = {"comparable": False, "reasons": own}
        compared[section] = refused if score is None else _beside(score, metrics)
    return compared


def _database(dataset: Mapping[str, Any]) -> tuple[Subset | None, list[str]]:
    reasons = [
        f"{key.removeprefix('num_').replace('_', ' ')}: {dataset.get(key)}, officially {number:,}"
        for key, number in _CORE.items()
        if dataset.get(key) != number
    ]
    distractors = int(dataset.get("num_distractors") or 0)
    rejected = int(dataset.get("num_rejected") or 0)
    for database in DATABASE_NAMES:
        number = OFFICIAL_DISTRACTORS[database]
        if distractors + rejected == number:
            if dataset.get("subset") == database:
                return database, reasons
            what = f"{number:,} distractors that the official list of {database} did not pick"
            return None, [*reasons, f"{what} (dataset.subset={dataset.get('subset')})"]
    sizes = " or ".join(f"{number:,}" for number in OFFICIAL_DISTRACTORS.values())
    return None, [*reasons, f"{distractors:,} distractors, published are {sizes}"]


def _model_reasons(table: PublishedTable, model: Mapping[str, Any]) -> list[str]:
    name, reasons = str(model.get("name")), []
    variant = VARIANTS.get(name)
    urls = [file.url for file in variant.files.values()] if variant else []
    path = str(model.get("checkpoint") or "")
    # Of most official weights the file's name is all that is known.
    if not any(_is_copy(path, url) for url in urls):
        names = " or ".join(url.rpartition("/")[2] for url in urls) or "of its authors"
        reasons.append(f"the weights {path or None} are not the official file {names}")
    if model.get("factory"):
        reasons.append(f"the model is the user's own, by model.factory={model['factory']}")
    if (found := model.get("resolution")) != (expected := table.test_resolutions[name]):
        reasons.append(f"resolution {found}, published at {expected}")
    image = None if variant is None else variant.architecture_with("reference").image
    if image is not None and (ran := model.get("activation")) != image.activation:
        reasons.append(f"activation {ran}, published with {image.activation}")
    return reasons


def _is_copy(path: str, url: str) -> bool:
    """Whether a path has the name of a published file; on a hub all models' files have one name."""
    name, found = url.rpartition("/")[2], path.split("/")
    on_hub = "/resolve/" in url
    return found[-1] == name and (not on_hub or url.split("/")[-4] in found)


def _option_reasons(config: Mapping[str, Any]) -> list[str]:
    """Values that the published runs did not have: another k, an index, re-ranking, views."""
    sections = {field.name: field.default for field in dataclasses.fields(BenchmarkConfig)}
    given = {k: v for k, v in sections.items() if v is not dataclasses.MISSING}
    usual = dict(_leaves({k: dataclasses.asdict(v) for k, v in given.items()}))
    return [
        f"{path}={value}, published with {usual.get(path)}"
        for path, value in _leaves(config)
        if not path.startswith(_CHECKED_OR_NEUTRAL) and value != usual.get(path)
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text_reasons(model: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    variant = VARIANTS.get(str(model.get("name")))
    vocabulary = None if variant is None else variant.vocabulary
    is_clip = vocabulary is not None and vocabulary.kind == "clip"
    configured = config.get("model") or {}
    if other := configured.get("text_checkpoint"):
        return [f"the text tower is of another file, {other}"]
    if variant is not None and variant.text_file is not None and configured.get("checkpoint"):
        return [f"the text tower is of {configured['checkpoint']}, published with another file's"]
    text = None if variant is None else variant.architecture_with("reference").text
    ran, wanted = model.get("text_activation"), text and text.activation
    if wanted is not None and ran is not None and ran != wanted:
        return [f"text activation {ran}, published with {wanted}"]
    cleaning, published = model.get("text_cleaning"), "clip" if is_clip else "canonicalize"
    if cleaning != published:
        return [f"text cleaning {cleaning}, published with {published}"]
    return []


def _beside(score: PublishedScore, metrics: Mapping[str, Any]) -> dict[str, Any]:
    ours, (low, high) = metrics["map@1000"], metrics["ci95"]
    return {
        "comparable": True,
        "published": score.map,
        "status": score.status,
        "caveat": CAVEATS[score.status],
        "databases": [DATABASE_NAMES[database] for database in score.databases],
        "adapted": score.adapted,
        "ours": ours,
        "difference": ours - score.map,
        "difference_ci95": [low - score.map, high - score.map],
        "inside_ci95": low <= score.map <= high,
    }
