"""What is read from the report's document, with the names and number formats that people read.

The HTML page, the markdown and the comparison of two runs share them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ilias_jax.dataset.layout import OFFICIAL_CORE, OFFICIAL_DISTRACTORS

Metrics = Mapping[str, Any]  # one section's results, as the document holds them

SECTION_NAMES = {
    "image_to_image": "Image-to-image",
    "image_to_image_reranked": "Image-to-image, re-ranked",
    "text_to_image": "Text-to-image",
}


class Grouping(NamedTuple):
    """How a grouping of the scores is shown; `unit` is what its counts count."""

    heading: str
    column: str
    unit: str
    note: str


_BOUNDED = (
    "{}; the lower bound is included. Positives of other groups are taken out before scoring."
)
_SCALE = _BOUNDED.format("The share of the picture's area that the object covers")
_CLUTTER = _BOUNDED.format("How much else is in the picture, as counted by ILIAS")
GROUPINGS = {
    "scale": Grouping("By object scale", "Object area", "queries", _SCALE),
    "clutter": Grouping("By clutter", "Clutter", "queries", _CLUTTER),
    "categories": Grouping(
        "By category", "Category", "objects", "Mean over the objects of a category."
    ),
    "subcategories": Grouping(
        "By subcategory", "Subcategory", "objects", "Mean over the objects of a subcategory."
    ),
}

_CORE = {
    "num_image_queries": OFFICIAL_CORE["image_query"],
    "num_text_queries": OFFICIAL_CORE["text_query"],
    "num_positives": OFFICIAL_CORE["positive"],
}
_SUBSET_NAMES = {"mini": "mini-ILIAS", "full": "full ILIAS"}

_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_BOUNDS = re.compile(rf"({_NUMBER})-({_NUMBER}|inf)")


def map_name(metrics: Metrics) -> str:
    """Returns the metric's name as people write it, for example "mAP@1000"."""
    (key,) = [key for key in metrics if re.fullmatch(r"map@\d+", key)]
    return "mAP" + key.removeprefix("map")


def map_value(metrics: Metrics) -> float:
    """Returns mAP@k in percent."""
    return float(metrics[map_name(metrics).lower()])


def with_group(results: Mapping[str, Metrics], group: str) -> dict[str, Metrics]:
    """Returns the sections that have scores of a grouping."""
    return {section: metrics for section, metrics in results.items() if metrics.get(group)}


def group_interval(metrics: Metrics, group: str, key: str) -> Sequence[float] | None:
    """Returns the 95 % interval of `metrics[group][key]` in percent, None if there is none."""
    pair: Sequence[float] | None = metrics.get("intervals", {}).get(group, {}).get(key)
    return pair


def group_count(metrics: Metrics, group: str, key: str) -> int | None:
    """Returns over how many queries or objects `metrics[group][key]` is a mean."""
    count: int | None = metrics.get("counts", {}).get(group, {}).get(key)
    return count


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Returns (dotted key, leaf) pairs of nested dicts, in order; lists are leaves."""
    if not isinstance(value, Mapping):
        return [(path, value)]
    pairs = []
    for key, item in value.items():
        pairs += flatten(item, f"{path}.{key}" if path else key)
    return pairs


def percent(value: float | None, digits: int = 1) -> str:
    """Returns a percentage without its sign, an en dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(pair: Sequence[float] | None, digits: int = 1) -> str:
    """Returns "low–high", an en dash alone for None."""
    return "–" if pair is None else f"{pair[0]:.{digits}f}–{pair[1]:.{digits}f}"


def seconds(value: float | None) -> str:
    """Returns a duration in the unit that reads best."""
    if value is None:
        return "–"
    if value < 100:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def plain(value: Any) -> str:
    """Returns a leaf of the document as text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or "–"
    return str(value)


def rate(stage: str, items_per_s: float | None) -> str:
    """Returns "412 images/s"; stages that embed count images or texts, others items."""
    if items_per_s is None:
        return "–"
    embedded = "texts" if "text" in stage else "images"
    unit = embedded if stage.startswith("embed") else "items"
    return f"{items_per_s:,.{0 if items_per_s >= 100 else 1}f} {unit}/s"


def device_sentences(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns what kept the devices busy, a sentence for each stage that measured it."""
    sentences = []
    for stage, time in stages.items():
        parts = []
        if (fill := time.get("fill_rate")) is not None:
            parts.append(f"{percent(100 * fill)} % of what was computed was real (fill rate)")
        if (idle := time.get("device_idle_share")) is not None:
            parts.append(f"the devices idled {percent(100 * idle)} % of the steady time")
        if parts:
            sentences.append(f"{words(stage).capitalize()}: {'; '.join(parts)}.")
    return sentences


def words(name: str) -> str:
    """Returns a key as words."""
    return name.replace("_", " ")


def _bounds_label(key: str, bound: Callable[[float], str], unit: str) -> str:
    match = _BOUNDS.fullmatch(key)
    if match is None:
        return key
    low, high = float(match[1]), float(match[2])
    if match[2] == "inf":
        return f"≥ {bound(low)}{unit}"
    return f"< {bound(high)}{unit}" if low == 0 else f"{bound(low)}–{bound(high)}{unit}"


def group_label(group: str, key: str) -> str:
    """Returns the human name of an official group key.

    "0-0.0688..." of "scale" becomes "< 6.9 %", "53-inf" of "clutter" becomes "≥ 53".
    """
    if group == "scale":
        return _bounds_label(key, lambda ratio: f"{100 * ratio:.1f}", " %")
    if group == "clutter":
        return _bounds_label(key, lambda count: f"{count:g}", "")
    return words(key)


def group_order(group: str, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a grouping's keys, in one order for all sections.

    Intervals of numbers go up; names go by falling score of the first section that has them.
    """
    keys: dict[str, float] = {}
    for metrics in results.values():
        for key, value in (metrics.get(group) or {}).items():
            keys.setdefault(key, -1.0 if value is None else float(value))
    if group not in ("scale", "clutter"):
        return sorted(keys, key=lambda key: (-keys[key], key))
    bounds = {key: _BOUNDS.fullmatch(key) for key in keys}
    return sorted(keys, key=lambda key: float(match[1]) if (match := bounds[key]) else -1.0)


def comparability(dataset: Mapping[str, Any]) -> tuple[bool, str]:
    """Returns whether the dataset has an official size, and sentences that say so.

    A smaller database is an easier benchmark, so the page must never leave its size unsaid.
    """
    distractors = int(dataset.get("num_distractors") or 0)
    rejected = int(dataset.get("num_rejected") or 0)
    differences = _differences(dataset)
    core = [key for key, number in _CORE.items() if dataset.get(key) != number]
    for subset, size in OFFICIAL_DISTRACTORS.items():
        if distractors + rejected == size and not core and not differences:
            name, lost = _SUBSET_NAMES[subset], _rejected(dataset)
            return True, f"The official size of {name}: {size:,} distractors{lost}."
    sentence = (
        f"A different benchmark from published ILIAS: this database holds {distractors:,} "
        "distractors, where mini-ILIAS has 5,000,000 and full ILIAS 100,000,000"
    )
    if core:
        sentence += ", and the queries and positives are not the official 1,232 + 1,000 and 4,715"
    sentence += ". A smaller database is easier: compare only with runs of this size."
    return False, " ".join([sentence, *differences])


def _rejected(dataset: Mapping[str, Any]) -> str:
    """Returns how many listed distractors are known but not searched, empty for none."""
    at_conversion = int(dataset.get("num_rejected_at_conversion") or 0)
    at_decoding = int(dataset.get("num_rejected") or 0) - at_conversion
    first = f", {at_conversion:,} of which were rejected at conversion" if at_conversion else ""
    return first + (f", {at_decoding:,} of which could not be decoded" if at_decoding else "")


def _differences(dataset: Mapping[str, Any]) -> list[str]:
    """Returns sentences on how the distractors differ from their list; none if they do not."""
    expected = dataset.get("num_expected_distractors", 0)
    if expected is None:
        return ["There was no list to check the distractors against."]
    found = [
        f"{what}: {count:,} ({key}_distractors was allowed)."
        for key, what in (("missing", "Missing from the shards"), ("extra", "Not on the list"))
        if (count := int(dataset.get(f"num_{key}_distractors") or 0))
    ]
    return [f"Listed distractors: {plain(expected)}.", *found] if found else []


def search_facts(search: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (name, value) pairs that describe the search.

    Agreement with exact search is always called ANN recall@k: it is not retrieval recall.
    """
    k, compared = search.get("k", "k"), ("ann_recall", "map_minus_exact")
    facts = [(words(key), plain(value)) for key, value in search.items() if key not in compared]
    for section, fraction in (search.get("ann_recall") or {}).items():
        name = f"ANN recall@{k} of ScaNN against exact, {SECTION_NAMES.get(section, section)}"
        facts.append((name, f"{percent(None if fraction is None else 100 * fraction, 2)} %"))
    for section, difference in (search.get("map_minus_exact") or {}).items():
        name = f"mAP@{k} of ScaNN minus exact, {SECTION_NAMES.get(section, section)}"
        facts.append((name, f"{difference:+.3f}"))
    return facts


def published_number(entry: Mapping[str, Any]) -> str:
    """Returns a published number as printed, with "(unsure)" or the like where it is not sure."""
    mark = "" if entry["status"] == "published" else f" ({entry['status']})"
    return f"{entry['published']:.1f}{mark}"


def published_setting(entry: Mapping[str, Any]) -> str:
    """Returns what a published number belongs to."""
    adapted = "with" if entry["adapted"] else "without"
    return f"{' or '.join(entry['databases'])}, {adapted} linear adaptation"


def published_sentences(published: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns what a reader must know of the comparison, one sentence for each section.

    Sections that cannot be compared for the same reasons share one.
    """
    sentences = []
    refused: dict[tuple[str, ...], list[str]] = {}
    for section, entry in published.items():
        name = SECTION_NAMES.get(section, section)
        if not entry["comparable"]:
            refused.setdefault(tuple(entry["reasons"]), []).append(name)
            continue
        where = "inside" if entry["inside_ci95"] else "outside"
        caveat = f" Its number is uncertain: {entry['caveat']}." if entry["caveat"] else ""
        sentences.append(
            f"{name}: the published number lies {where} our 95 % interval. It has one decimal and "
            f"no interval of its own.{caveat}"
        )
    for reasons, names in refused.items():
        why = f"not comparable with the published table: {'; '.join(reasons)}."
        sentences.append(f"{' and '.join(names)}: {why}")
    return sentences


def reranking_sentence(rerank: Mapping[str, Any]) -> str:
    """Returns what was re-ranked, and the most that it could have reached."""
    oracle = percent(rerank["shortlist_recall"], 2)
    return (
        f"{rerank['method']} put the first {rerank['shortlist']:,} entries of each image query's "
        f"list into a new order; the rest follows in its old one. These entries hold {oracle} % of "
        "the positives (oracle), which no order of them can exceed."
    )


def reranking_rows(rerank: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns (name, paired difference) of all queries, then by clutter and by scale."""
    difference = rerank["difference"]
    rows = [("All queries", difference["map"])]
    for group in ("clutter", "scale"):
        keys = group_order(group, {"": {group: dict.fromkeys(difference.get(group, {}), 0.0)}})
        column = GROUPINGS[group].column
        rows += [(f"{column} {group_label(group, key)}", difference[group][key]) for key in keys]
    return rows


def reranking_facts(rerank: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (name, value) pairs that say how it was done."""
    return [(words(key), plain(value)) for key, value in rerank.items() if key != "difference"]
