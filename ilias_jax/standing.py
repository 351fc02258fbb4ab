"""Where a run stands: the published number of its own setting beside it, or why there is none.

A number is set beside a run only where everything that moves a score is the same. What differs is
named, never passed over.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ilias_jax.config import BenchmarkConfig
from ilias_jax.published import (
    CAVEATS,
    DATABASE_NAMES,
    NUM_DISTRACTORS,
    Database,
    PublishedScore,
    PublishedTable,
)
from ilias_jax.towers.variants import VARIANTS

_CORE = {"num_image_queries": 1_232, "num_text_queries": 1_000, "num_positives": 4_715}
# Sections and keys that move no score, or that have a check of their own below. Any other value
# must be the default: the published runs used no option.
_CHECKED_OR_NEUTRAL = (
    *("dataset.", "model.", "mesh.", "embed.", "metrics.", "report.", "adapter."),
    *("search.block_rows", "search.filter", "search.lists"),
    *("search.measure_ann_recall", "search.scann."),
    "rerank.database_averaging_gib",
)


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
        model: the report's model section.
        dataset: the report's dataset section.
        results: by section, as `Metrics.to_dict` gives them.

    Returns:
        By section either {"comparable": False, "reasons": [...]} or {"comparable": True, ...} with
        the published number, its caveat (None if it is sure), ours, the difference ours minus
        published in percentage points with our 95 % interval, and whether the published number
        lies inside our interval. The published number itself has no interval.
    """
    if model.get("name") not in table.test_resolutions:
        reason = f"the published table has no model {model.get('name')}"
        return {section: {"comparable": False, "reasons": [reason]} for section in results}
    database, reasons = _database(dataset)
    reasons = [*_model_reasons(table, model), *reasons, *_option_reasons(config)]
    adapter = str((config.get("adapter") or {}).get("path") or "")
    compared = {}
    for section, metrics in results.items():
        own = list(reasons)
        if section == "image_to_image":
            own += _adapter_reasons(adapter, str(model.get("name")))
        else:
            own += _text_reasons(model, config)
        adapted = bool(adapter) and section == "image_to_image"
        score = None
        if database is not None and not own:
            score = table.find(model["name"], section, database, adapted=adapted)
            if score is None:
                how = "with" if adapted else "without"
                own = [f"none is published for {DATABASE_NAMES[database]} {how} linear adaptation"]
        compared[section] = (
            {"comparable": False, "reasons": own} if score is None else _beside(score, metrics)
        )
    return compared


def _database(dataset: Mapping[str, Any]) -> tuple[Database | None, list[str]]:
    """Which official database was searched, or why it is none."""
    reasons = [
        f"{key.removeprefix('num_').replace('_', ' ')}: {dataset.get(key)}, officially {number:,}"
        for key, number in _CORE.items()
        if dataset.get(key) != number
    ]
    distractors = int(dataset.get("num_distractors") or 0)
    rejected = int(dataset.get("num_rejected") or 0)
    for database, number in NUM_DISTRACTORS.items():
        if distractors + rejected == number:
            if dataset.get("subset") == database:
                return database, reasons
            what = f"{number:,} distractors that the official list of {database} did not pick"
            return None, [*reasons, f"{what} (dataset.subset={dataset.get('subset')})"]
    sizes = " or ".join(f"{number:,}" for number in NUM_DISTRACTORS.values())
    return None, [*reasons, f"{distractors:,} distractors, published are {sizes}"]


def _model_reasons(table: PublishedTable, model: Mapping[str, Any]) -> list[str]:
    """What of the model differs from the published row of its name."""
    name, reasons = str(model.get("name")), []
    variant = VARIANTS.get(name)
    urls = [file.url for file in variant.files.values()] if variant else []
    checkpoint = str(model.get("checkpoint") or "")
    # Of most official weights the file's name is all that is known.
    if not any(_is_copy(checkpoint, url) for url in urls):
        names = " or ".join(url.rpartition("/")[2] for url in urls) or "of its authors"
        reasons.append(f"the weights {checkpoint or None} are not the official file {names}")
    if model.get("factory"):
        reasons.append(f"the model is the user's own, by model.factory={model['factory']}")
    if model.get("resolution") != table.test_resolutions[name]:
        found, expected = model.get("resolution"), table.test_resolutions[name]
        reasons.append(f"resolution {found}, published at {expected}")
    image = None if variant is None else variant.architecture_with("reference").image
    if image is not None and model.get("activation") != image.style.activation:
        ran = image.style.activation
        reasons.append(f"activation {model.get('activation')}, published with {ran}")
    return reasons


def _is_copy(path: str, url: str) -> bool:
    """Whether a path has the name of a published file; on a hub all models' files have one name."""
    name, found = url.rpartition("/")[2], path.split("/")
    on_hub = "/resolve/" in url
    return found[-1] == name and (not on_hub or url.split("/")[-4] in found)


def _option_reasons(config: Mapping[str, Any]) -> list[str]:
    """Values that the published runs did not have: another k, an index, re-ranking, views."""
    defaults = {
        field.name: _plain(field.default)
        for field in dataclasses.fields(BenchmarkConfig)
        if field.default is not dataclasses.MISSING
    }
    usual = dict(_leaves(defaults))
    return [
        f"{path}={value}, published with {usual.get(path)}"
        for path, value in _leaves(config)
        if not path.startswith(_CHECKED_OR_NEUTRAL) and value != usual.get(path)
    ]


def _plain(section: Any) -> Any:
    return section if section is None else dataclasses.asdict(section)


def _leaves(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{place}{key}.")
        else:
            yield place + key, value


def _adapter_reasons(adapter: str, name: str) -> list[str]:
    """The published adapted scores belong to the official layer of the model."""
    if adapter and adapter.rpartition("/")[2] != f"{name}.pth":
        return [f"the adapter {adapter} is not the official layer {name}.pth"]
    return []


def _text_reasons(model: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    variant = VARIANTS.get(str(model.get("name")))
    vocabulary = None if variant is None else variant.vocabulary
    is_clip = vocabulary is not None and vocabulary.kind == "clip"
    configured = config.get("model") or {}
    other = configured.get("text_checkpoint")
    if other:
        return [f"the text tower is of another file, {other}"]
    if variant is not None and variant.text_file is not None and configured.get("checkpoint"):
        return [f"the text tower is of {configured['checkpoint']}, published with another file's"]
    text = None if variant is None else variant.architecture_with("reference").text
    ran, wanted = model.get("text_activation"), text and text.style.activation
    if wanted is not None and ran is not None and ran != wanted:
        return [f"text activation {ran}, published with {wanted}"]
    cleaning, published = model.get("text_cleaning"), "clip" if is_clip else "canonicalize"
    if cleaning != published:
        return [f"text cleaning {cleaning}, published with {published}"]
    return []


def _beside(score: PublishedScore, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The two numbers and their difference."""
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
