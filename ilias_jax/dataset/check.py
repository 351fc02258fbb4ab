"""Checks a data folder against the official id files: what is missing, extra, repeated, rejected.

Inventories say what the shards hold, so no image is read. A database that lacks distractors is an
easier benchmark, so a run makes this check too and goes on only with what is allowed by name.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterator, Sequence

from ilias_jax.dataset.contents import find_unlisted_files, read_contents
from ilias_jax.dataset.findings import NUM_EXAMPLES, Findings, Problem
from ilias_jax.dataset.reader import IliasDataset, Subset
from ilias_jax.dataset.tally import Tally
from ilias_jax.ground_truth import GroundTruth
from ilias_jax.progress import track
from ilias_jax.records import OFFICIAL_CORE, OFFICIAL_DISTRACTORS, Split


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """The images or texts of one split.

    Attributes:
        split: its name.
        official: how many the published dataset has.
        listed: how many the id file has, None without file.
        found: how many of the subset the shards hold, None if only reading them would tell.
        missing: listed, but neither found nor rejected.
        extra: found, but not listed.
        repeated: found again.
        rejected: listed, and put aside when the shards were made.
    """

    split: str
    official: int
    listed: int | None
    found: int | None
    missing: int
    extra: int
    repeated: int
    rejected: int


@dataclasses.dataclass(frozen=True)
class DatasetCheck:
    """What a check found.

    Attributes:
        subset: "full" or "mini".
        is_by_id: whether every distractor's id was compared, rather than their number.
        counts: of the splits that were checked; distractors last.
        num_unselected: distractors in the shards that are not in the subset.
        rejected: (id, reason) of images that were put aside when the shards were made; with
            mini, of the listed ones.
        problems: all that is wrong.
    """

    subset: Subset
    is_by_id: bool
    counts: tuple[SplitCount, ...]
    num_unselected: int
    rejected: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...]

    @property
    def distractors(self) -> SplitCount:
        """The distractors' count."""
        return self.counts[-1]

    def failures(self, allowed: Collection[str]) -> list[Problem]:
        """The problems that are not allowed by name."""
        return [problem for problem in self.problems if problem.name not in allowed]

    def reasons(self) -> dict[str, int]:
        """Reason -> number of rejected images, most frequent first."""
        return dict(collections.Counter(reason for _, reason in self.rejected).most_common())


def check_dataset(
    dataset: IliasDataset, truth: GroundTruth | None, num_threads: int | None = None
) -> DatasetCheck:
    """Compares a data folder with its id files.

    Args:
        dataset: the folder and the subset.
        truth: queries and positives to expect; None to look at the distractors alone.
        num_threads: None to read inventories alone; otherwise all records are read too, by so
            many threads.

    Raises:
        UserError: metadata are missing or damaged, or an id file is.
    """
    findings = Findings()
    counts: list[SplitCount] = []
    rejected: list[tuple[str, str]] = []
    if truth is not None:
        core: dict[Split, Sequence[str]] = {
            "image_query": truth.image_query_ids,
            "positive": truth.positive_ids,
        }
        for split, listed in core.items():
            found, aside = _core_ids(dataset, split, findings, num_threads)
            counts.append(_compare_core(split, found, listed, dict(aside), findings))
            rejected += aside
        texts = [query.query_id for query in dataset.text_queries()]
        if dataset.has_texts:
            counts.append(_compare_core("text_query", texts, truth.text_query_ids, {}, findings))
        else:
            findings.add("no_text_queries", ["ilias_text/"])
    count, tally, aside, is_by_id = _check_distractors(dataset, findings, num_threads)
    find_unlisted_files(dataset, findings)
    return DatasetCheck(
        subset=dataset.subset,
        is_by_id=is_by_id,
        counts=(*counts, count),
        num_unselected=tally.num_unselected,
        rejected=(*rejected, *aside),
        problems=findings.problems(),
    )


def _core_ids(
    dataset: IliasDataset, split: Split, findings: Findings, num_threads: int | None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Ids of a small split in stored order, and what was rejected."""
    contents = list(read_contents(dataset, split, findings, num_threads))
    rejected = [pair for part in contents for pair in part.rejected]
    ids = [part.ids for part in contents]
    known = [part for part in ids if part is not None]
    there = all(path.exists() for path, _ in dataset.files(split))
    if len(known) < len(ids) and there:
        return dataset.ids(split), rejected
    return [image_id for part in known for image_id in part], rejected


def _compare_core(
    split: str,
    found: Sequence[str],
    listed: Sequence[str],
    rejected: dict[str, str],
    findings: Findings,
) -> SplitCount:
    """Compares the ids of a split that must be whole and in order."""
    there, wanted = set(found), set(listed)
    missing = [image_id for image_id in listed if image_id not in there]
    extra = [image_id for image_id in dict.fromkeys(found) if image_id not in wanted]
    repeated = [image_id for image_id, n in collections.Counter(found).items() if n > 1]
    name = {"image_query": "image_queries", "text_query": "text_queries"}.get(split, "positives")
    lost = [f"{i} (rejected: {rejected[i]})" if i in rejected else i for i in missing]
    findings.add(f"missing_{name}", lost)
    findings.add(f"extra_{name}", extra)
    findings.add(f"repeated_{name}", repeated)
    if not (missing or extra or repeated) and list(found) != list(listed):
        pairs = zip(found, listed, strict=True)
        findings.add(f"misordered_{name}", [a for a, b in pairs if a != b])
    return SplitCount(
        split,
        OFFICIAL_CORE[split],
        len(listed),
        len(found),
        sum(1 for image_id in missing if image_id not in rejected),
        len(extra),
        len(found) - len(there),
        sum(1 for image_id in missing if image_id in rejected),
    )


def _check_distractors(
    dataset: IliasDataset, findings: Findings, num_threads: int | None
) -> tuple[SplitCount, Tally, list[tuple[str, str]], bool]:
    """Compares the distractors with the list of the subset."""
    expected = dataset.read_expected()
    is_selection = dataset.selected is not None
    if expected is None:
        findings.add("unchecked_distractors", ["image_ids/distractor_ids.txt.gz"])
    tally = Tally(expected, is_selection=is_selection)
    unknown, aside = 0, []
    with track("check distractors", len(dataset.files("distractor"))) as advance:
        for contents in read_contents(dataset, "distractor", findings, num_threads):
            if contents.ids is None:
                unknown += contents.num_records
            else:
                tally.add(contents.ids)
            wanted = tally.add_rejected([image_id for image_id, _ in contents.rejected])
            pairs = zip(contents.rejected, wanted, strict=True)
            aside += [pair for pair, is_wanted in pairs if is_wanted or not is_selection]
            advance(1)
    count = _count_distractors(dataset.subset, tally, unknown, expected is not None)
    _name_distractors(dataset, tally, count, unknown > 0, findings, num_threads)
    return count, tally, aside, expected is not None and not unknown


def _count_distractors(subset: Subset, tally: Tally, unknown: int, is_listed: bool) -> SplitCount:
    """The counts, where `unknown` records have no known id: as many of them as can be are listed.

    Without a list everything found counts, and nothing is missing or extra.
    """
    missing = tally.num_missing
    is_whole = subset == "full" or not unknown
    return SplitCount(
        split="distractor",
        official=OFFICIAL_DISTRACTORS[subset],
        listed=tally.num_listed if is_listed else None,
        found=tally.num_found + unknown if is_whole else None,
        missing=max(0, missing - unknown),
        extra=tally.num_extra + (max(0, unknown - missing) if is_listed and is_whole else 0),
        repeated=tally.num_repeated,
        rejected=tally.num_rejected,
    )


def _name_distractors(
    dataset: IliasDataset,
    tally: Tally,
    count: SplitCount,
    is_partial: bool,
    findings: Findings,
    num_threads: int | None,
) -> None:
    """Notes missing, extra and repeated distractors; only now are the first ones looked up."""
    names: list[str] = []
    if count.missing and not is_partial:
        names = tally.missing_names(NUM_EXAMPLES)
    findings.add("missing_distractors", names, count.missing)
    extra = tally.extra_names(_all_ids(dataset, num_threads), NUM_EXAMPLES)
    findings.add("extra_distractors", extra, count.extra)
    repeated = tally.repeated_names(_all_ids(dataset, num_threads), NUM_EXAMPLES)
    findings.add("repeated_distractors", repeated, count.repeated)


def _all_ids(dataset: IliasDataset, num_threads: int | None) -> Iterator[Sequence[str]]:
    """The known ids of all distractors, shard by shard; images are read only for want of better."""
    numbers = range(len(dataset.files("distractor")))
    if all(dataset.inventory_path("distractor", number).exists() for number in numbers):
        num_threads = None
    for contents in read_contents(dataset, "distractor", Findings(), num_threads):
        if contents.ids is not None:
            yield contents.ids
