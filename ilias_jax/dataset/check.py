"""Checks a data folder against the official id files: what is missing, extra, repeated, rejected.

Inventories say what the shards hold, so no image is read unless that is asked for. A database that
lacks distractors is an easier benchmark, so a run makes this check too and goes on only with
problems that it is told to ignore.
"""

import collections
import dataclasses
import logging
from collections.abc import Collection, Iterator, Sequence

from google.protobuf.message import DecodeError

from ilias_jax.config import ALLOWANCES
from ilias_jax.dataset import layout
from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.dataset.inventory import Inventory, read_inventory
from ilias_jax.dataset.layout import Shard, Split, Subset
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.dataset.tars import image_problem
from ilias_jax.dataset.validation import NUM_EXAMPLES, IdCounter, Problem, ValidationReport
from ilias_jax.errors import UserError, quoted
from ilias_jax.progress import track


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """The images or texts of one split."""

    split: str  # its name
    official: int  # how many the published dataset has
    listed: int | None  # how many the id file has, None without file
    found: int | None  # how many the shards hold, None if only reading them would tell
    missing: int  # listed, but neither found nor rejected
    extra: int  # found, but not listed
    repeated: int  # found again
    rejected: int  # listed, and put aside when the shards were made


@dataclasses.dataclass(frozen=True)
class DatasetCheck:
    """What a check found."""

    subset: Subset  # "full" or "mini"
    is_by_id: bool  # whether every distractor's id was compared, rather than their number
    counts: tuple[SplitCount, ...]  # of the splits that were checked; distractors last
    num_unselected: int  # distractors in the shards that are not in the subset
    rejected: tuple[tuple[str, str], ...]  # (id, reason), as in inventories; with mini, of listed
    problems: tuple[Problem, ...]  # all that is wrong

    @property
    def distractors(self) -> SplitCount:
        """The distractors' count."""
        return self.counts[-1]

    def failures(self, ignore: Collection[str]) -> list[Problem]:
        """The problems but for those of the names to ignore."""
        return [problem for problem in self.problems if problem.name not in ignore]

    def reasons(self) -> dict[str, int]:
        """Reason -> number of rejected images, most frequent first."""
        return dict(collections.Counter(reason for _, reason in self.rejected).most_common())


def check_dataset(
    dataset: IliasDataset, truth: GroundTruth | None, num_threads: int | None = None
) -> DatasetCheck:
    """Compares a data folder with its id files.

    Without `truth` it looks at the distractors alone, without `num_threads` at inventories alone;
    otherwise all records are read too, by so many threads.

    Raises:
        UserError: metadata are missing or damaged, or an id file is.
    """
    check = _Check(dataset, num_threads)
    if truth is not None:
        check.images("image_query", truth.image_query_ids)
        check.images("positive", truth.positive_ids)
        check.texts(truth.text_query_ids)
    is_by_id = check.distractors()
    check.unlisted_files()
    counts, rejected, problems = check.counts, check.rejected, check.report.problems()
    return DatasetCheck(
        dataset.subset, is_by_id, tuple(counts), check.num_unselected, tuple(rejected), problems
    )


@dataclasses.dataclass(frozen=True)
class _Contents:
    num_records: int  # by dataset_info.json
    ids: tuple[str, ...] | None  # None if they are not known
    rejected: Sequence[tuple[str, str]]  # (id, reason)


class _Check:
    def __init__(self, dataset: IliasDataset, num_threads: int | None) -> None:
        self._dataset, self._num_threads = dataset, num_threads
        self.report = ValidationReport()
        self.counts: list[SplitCount] = []
        self.rejected: list[tuple[str, str]] = []
        self.num_unselected = 0

    def images(self, split: Split, listed: Sequence[str]) -> None:
        """Compares a small split, which must be whole and in order."""
        contents = list(self._contents(split))
        rejected = [pair for part in contents for pair in part.rejected]
        found = [image_id for part in contents for image_id in part.ids or ()]
        is_unknown = any(part.ids is None for part in contents)
        if is_unknown and all(path.exists() for path, _ in self._dataset.files(split)):
            found = self._dataset.ids(split)
        self._compare(split, found, listed, dict(rejected))
        self.rejected += rejected

    def texts(self, listed: Sequence[str]) -> None:
        """Compares the text queries, which may all be missing."""
        if self._dataset.has_texts:
            found = [query.query_id for query in self._dataset.text_queries()]
            self._compare(layout.TEXT_SPLIT, found, listed, {})
        else:
            self.report.add("no_text_queries", ["ilias_text/"])

    def _compare(
        self, split: str, found: Sequence[str], listed: Sequence[str], rejected: dict[str, str]
    ) -> None:
        name = f"{split}s".replace("querys", "queries")
        there, wanted = set(found), set(listed)
        missing = [image_id for image_id in listed if image_id not in there]
        extra = [image_id for image_id in dict.fromkeys(found) if image_id not in wanted]
        repeated = [image_id for image_id, n in collections.Counter(found).items() if n > 1]
        lost = [f"{i} (rejected: {rejected[i]})" if i in rejected else i for i in missing]
        for kind, ids in (("missing", lost), ("extra", extra), ("repeated", repeated)):
            self.report.add(f"{kind}_{name}", ids)
        if not (missing or extra or repeated):
            pairs = zip(found, listed, strict=True)
            self.report.add(f"misordered_{name}", [a for a, b in pairs if a != b])
        num_rejected = sum(image_id in rejected for image_id in missing)
        self.counts.append(
            SplitCount(
                split=split,
                official=layout.OFFICIAL_CORE[split],
                listed=len(listed),
                found=len(found),
                missing=len(missing) - num_rejected,
                extra=len(extra),
                repeated=len(found) - len(there),
                rejected=num_rejected,
            )
        )

    def distractors(self) -> bool:
        """Compares the distractors with the subset's list; returns whether every id could be."""
        expected = self._dataset.read_expected()
        is_selection = self._dataset.selected is not None
        if expected is None:
            self.report.add("unchecked_distractors", [f"image_ids/{layout.FULL_LIST}"])
        counter, unknown = IdCounter(expected, is_selection=is_selection), 0
        with track("check distractors", len(self._dataset.files("distractor"))) as advance:
            for contents in self._contents("distractor"):
                if contents.ids is None:
                    unknown += contents.num_records
                else:
                    counter.add(contents.ids)
                wanted = counter.add_rejected([image_id for image_id, _ in contents.rejected])
                pairs = zip(contents.rejected, wanted, strict=True)
                self.rejected += [p for p, is_wanted in pairs if is_wanted or not is_selection]
                advance(1)
        self.counts.append(
            _count_distractors(self._dataset.subset, counter, unknown, expected is not None)
        )
        self._name_distractors(counter, self.counts[-1], is_partial=unknown > 0)
        self.num_unselected = counter.num_unselected
        return expected is not None and not unknown

    def _name_distractors(self, counter: IdCounter, count: SplitCount, is_partial: bool) -> None:
        """Notes missing, extra and repeated distractors; only here are the first ones looked up."""
        missing = counter.missing_names(NUM_EXAMPLES) if count.missing and not is_partial else []
        self.report.add("missing_distractors", missing, count.missing)
        extra = counter.extra_names(self._distractor_ids(), NUM_EXAMPLES)
        self.report.add("extra_distractors", extra, count.extra)
        repeated = counter.repeated_names(self._distractor_ids(), NUM_EXAMPLES)
        self.report.add("repeated_distractors", repeated, count.repeated)

    def _distractor_ids(self) -> Iterator[Sequence[str]]:
        """Known ids of all distractors, shard by shard; images are read for want of better."""
        numbers = range(len(self._dataset.files("distractor")))
        paths = (self._dataset.inventory_path("distractor", number) for number in numbers)
        num_threads = None if all(path.exists() for path in paths) else self._num_threads
        every = _Check(self._dataset, num_threads)._contents("distractor")
        yield from (contents.ids for contents in every if contents.ids is not None)

    def _contents(self, split: Split) -> Iterator[_Contents]:
        """Yields what the shards of a split hold, in order, and notes what does not fit."""
        payload_bytes, all_there, files = 0, True, self._dataset.files(split)
        for number, (path, num_records) in enumerate(files):
            found = self._inventory(split, number)
            ids = None if found is None else found.ids
            payload_bytes += 0 if found is None else found.shard.payload_bytes
            all_there &= found is not None
            if not path.exists():
                self.report.add("missing_shards", [path.name])
            elif self._num_threads:
                shard = Shard(split, number, len(files), num_records, path.name, 0, "")
                ids = self._read_ids(shard, ids, self._num_threads)
            yield _Contents(num_records, ids, () if found is None else found.rejected)
        expected = self._dataset.num_payload_bytes(split)
        if all_there and payload_bytes != expected:
            note = f"{split}: {expected:,} bytes, not {payload_bytes:,}"
            self.report.add("wrong_dataset_info", [note])

    def _inventory(self, split: Split, number: int) -> Inventory | None:
        """A shard's inventory, compared with its file; None if it has none that can be read."""
        path, num_records = self._dataset.files(split)[number]
        inventory_path = self._dataset.inventory_path(split, number)
        if not inventory_path.exists():
            # A folder without any was made before there were inventories; its records say all.
            if not self._num_threads or inventory_path.parent.exists():
                self.report.add("missing_inventories", [path.name])
            return None
        try:
            found = read_inventory(inventory_path)
        except UserError as error:
            self.report.add("damaged_inventories", [str(error)])
            return None
        size = path.stat().length if path.exists() else None
        if size is not None and (found.shard.file, found.shard.num_bytes) != (path.name, size):
            said = f"{found.shard.file} of {found.shard.num_bytes:,} bytes"
            self.report.add("stale_inventories", [f"{path.name} of {size:,} bytes, not {said}"])
        if len(found.ids) != num_records:
            note = f"{path.name}: {num_records:,} records, not {len(found.ids):,}"
            self.report.add("wrong_dataset_info", [note])
        return found

    def _read_ids(
        self, shard: Shard, expected: tuple[str, ...] | None, num_threads: int
    ) -> tuple[str, ...] | None:
        """Reads all records of a shard; returns their ids, or `expected` if they cannot be read."""
        full = IliasDataset(self._dataset.data_dir).read
        try:
            looked = list(full(shard, lambda r: (r.image_id, image_problem(r.jpeg)), num_threads))
        # What Grain, TFDS and ArrayRecord raise for damage depends on where it is.
        except (UserError, RuntimeError, ValueError, KeyError, IndexError, DecodeError) as error:
            self.report.add("damaged_shards", [f"{shard.file_name} ({error})"])
            return expected
        ids = tuple(image_id for image_id, _ in looked)
        self.report.add("no_jpeg", [image_id for image_id, problem in looked if problem])
        if expected is not None and ids != expected:
            pairs = zip(ids, expected, strict=False)
            notes = [
                f"{shard.file_name}, record {number}: {quoted(found)}, not {quoted(said)}"
                for number, (found, said) in enumerate(pairs)
                if found != said
            ]
            count = len(notes) + abs(len(ids) - len(expected))
            self.report.add("other_records", notes, count)
        return ids

    def unlisted_files(self) -> None:
        """Notes shard files and inventories that belong to no shard of dataset_info.json."""
        listed = {
            path
            for split in layout.IMAGE_SPLITS
            for number, (shard, _) in enumerate(self._dataset.files(split))
            for path in (shard, self._dataset.inventory_path(split, number))
        }
        found = [
            path.name
            for folder in {path.parent for path in listed}
            if folder.exists()
            for path in folder.iterdir()
            if ".array_record-" in path.name or folder.name == "inventory"
            if path not in listed and not path.name.startswith(".")
        ]
        self.report.add("unlisted_files", sorted(found))


def _count_distractors(
    subset: Subset, counter: IdCounter, unknown: int, is_listed: bool
) -> SplitCount:
    """The counts, where `unknown` records have no known id: as many of them as can be are listed.

    Without a list everything found counts, and nothing is missing or extra.
    """
    missing = counter.num_missing
    is_whole = subset == "full" or not unknown
    return SplitCount(
        split="distractor",
        official=layout.OFFICIAL_DISTRACTORS[subset],
        listed=counter.num_listed if is_listed else None,
        found=counter.num_found + unknown if is_whole else None,
        missing=max(0, missing - unknown),
        extra=counter.num_extra + (max(0, unknown - missing) if is_listed and is_whole else 0),
        repeated=counter.num_repeated,
        rejected=counter.num_rejected,
    )


def check_texts(dataset: IliasDataset, allowed: Collection[str]) -> None:
    """Raises UserError if there are no text queries and that is not allowed."""
    if "no_text_queries" not in allowed and not dataset.has_texts:
        raise UserError(
            f"dataset.data_dir: {dataset.data_dir} has no text queries (ilias_text/); convert "
            "ilias_core.tar, which has them, or run image queries alone with "
            "dataset.allow=no_text_queries"
        )


def check_core(dataset: IliasDataset, truth: GroundTruth) -> None:
    """Raises UserError unless the shards' queries and positives are the truth's, in its order."""
    roles = [
        ("image queries", dataset.ids("image_query"), truth.image_query_ids),
        ("positives", dataset.ids("positive"), truth.positive_ids),
    ]
    if dataset.has_texts:  # check_texts has let it pass otherwise
        ids = [query.query_id for query in dataset.text_queries()]
        roles.append(("text queries", ids, truth.text_query_ids))
    for what, found, expected in roles:
        missing = sorted(set(expected) - set(found))
        extra = sorted(set(found) - set(expected))
        if missing or extra or found != list(expected):
            raise UserError(
                f"{dataset.data_dir}: the shards' {what} are not those of image_ids/: "
                f"{len(missing)} missing {missing[:3]}, {len(extra)} extra {extra[:3]}, "
                f"{len(found)} in all for {len(expected)}, or another order"
            )


def check_distractors(dataset: IliasDataset, allowed: Collection[str]) -> DatasetCheck:
    """Checks the shards' distractors against the official list, from their inventories.

    A folder without any inventory was made before there were some: then the number alone is
    compared here, and the ids once they are embedded.

    Raises:
        UserError: something is wrong that is not among the `allowed`.
    """
    checked = check_dataset(dataset, truth=None)
    ignored = set(allowed)
    if not dataset.inventory_path("distractor", 0).parent.exists():
        ignored.add("missing_inventories")
        logging.warning(
            "%s has no inventories: the number of distractors is checked now and their ids when "
            "they are embedded; `ilias-jax convert` writes inventories",
            dataset.data_dir,
        )
    if failures := checked.failures(ignored):
        lines = "\n".join(f"  {problem}" for problem in failures)
        raise UserError(
            f"dataset.data_dir: {dataset.data_dir} does not hold the distractors of "
            f"dataset.subset={dataset.subset}:\n{lines}\n"
            f"A database of another size is another benchmark. dataset.allow takes the names "
            f"{', '.join(ALLOWANCES)}; the report then says so"
        )
    for problem in checked.problems:
        if problem.name in allowed:
            logging.warning("%s: allowed: %s", dataset.data_dir, problem)
    return checked
