"""The embedded database: that its rows are those it should have, and what to say of it."""

import dataclasses
from collections.abc import Collection

from ilias_jax.config import DatasetConfig
from ilias_jax.dataset.check import DatasetCheck
from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.dataset.validation import NUM_EXAMPLES, IdCounter, ValidationReport
from ilias_jax.embeddings.extract import EmbeddedDataset
from ilias_jax.embeddings.file import read_ids
from ilias_jax.embeddings.files import check_lengths, check_models
from ilias_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DatabaseCounts:
    """The rows that are searched, and the distractors that are not among them.

    Attributes:
        num_rows: N, positives and distractors.
        num_text_queries: 0 for a dataset without them.
        expected: distractors of the official list, None without list.
        missing, extra: of the list in no shard, and in a shard but not on the list.
        rejected_at_conversion, rejected_at_decoding: put aside when the shards were made, and when
            they were embedded.
    """

    num_rows: int
    num_text_queries: int
    expected: int | None
    missing: int
    extra: int
    rejected_at_conversion: int
    rejected_at_decoding: int


def check_embeddings(embedded: EmbeddedDataset) -> None:
    """Raises UserError, from headers alone, as `check_models` and `check_lengths` of all files."""
    roles = [*embedded.images.values(), *([embedded.texts] if embedded.texts else [])]
    check_models(files.headers for files in roles)
    check_lengths((h.path, h.num_rows, h.dim) for files in roles for h in files.headers)


def count_database(
    embedded: EmbeddedDataset,
    truth: GroundTruth,
    dataset: IliasDataset,
    checked: DatasetCheck,
    allowed: Collection[str],
) -> DatabaseCounts:
    """Counts the database rows, after a check that they are the rows they should be.

    Args:
        embedded: of the dataset; the ground truth's positives are the rows 0..P-1.
        truth: likewise of the dataset.
        dataset: that was embedded.
        checked: what its check found before it was embedded.
        allowed: names of problems to go on with.

    Raises:
        UserError: as `check_embeddings`, or queries or positives are not the ground truth's, an id
            comes twice, there is no distractor at all, or the distractors are not the listed ones
            and that is not allowed.
    """
    check_embeddings(embedded)
    images, texts = embedded.images, embedded.texts
    problems = {
        "the embedded image queries are not the ground truth's": (
            images["image_query"].ids() != list(truth.image_query_ids)
        ),
        "the embedded positives are not the ground truth's": (
            images["positive"].ids() != list(truth.positive_ids)
        ),
        "the embedded text queries are not the ground truth's": (
            texts is not None and texts.ids() != list(truth.text_query_ids)
        ),
        "database ids come twice": embedded.database.num_repeated() > 0,
        "no distractor was embedded": images["distractor"].num_rows() == 0,
    }
    found = [problem for problem, there in problems.items() if there]
    missing, extra = checked.distractors.missing, checked.distractors.extra
    if not checked.is_by_id and checked.distractors.listed is not None:
        missing, extra, report = _compare_ids(embedded, dataset, checked)
        found += [str(p) for p in report.problems() if p.name not in allowed]
    if found:
        raise UserError("; ".join(found) + "; do the shards fit image_ids/?")
    listed = checked.distractors.listed
    return DatabaseCounts(
        num_rows=embedded.database.num_rows(),
        num_text_queries=len(truth.text_query_ids) if dataset.has_texts else 0,
        expected=listed,
        missing=missing,
        extra=extra,
        rejected_at_conversion=(
            len(checked.rejected) if listed is None else checked.distractors.rejected
        ),
        rejected_at_decoding=len(embedded.database.rejected()),
    )


def _compare_ids(
    embedded: EmbeddedDataset, dataset: IliasDataset, checked: DatasetCheck
) -> tuple[int, int, ValidationReport]:
    """Compares embedded ids with the list, for shards whose inventories could not tell."""
    files, report = embedded.images["distractor"], ValidationReport()
    counter = IdCounter(dataset.read_expected(), is_selection=dataset.selected is not None)
    for path in files.paths:
        counter.add(read_ids(path))
    counter.add_rejected([image_id for image_id, _ in (*files.rejected(), *checked.rejected)])
    missing, extra = counter.num_missing, counter.num_extra
    report.add("missing_distractors", counter.missing_names(NUM_EXAMPLES), missing)
    names = counter.extra_names((read_ids(path) for path in files.paths), NUM_EXAMPLES)
    report.add("extra_distractors", names, extra)
    names = counter.repeated_names((read_ids(path) for path in files.paths), NUM_EXAMPLES)
    report.add("repeated_distractors", names, counter.num_repeated)
    return missing, extra, report


def describe_dataset(
    config: DatasetConfig, truth: GroundTruth, counts: DatabaseCounts
) -> dict[str, object]:
    """The report's dataset section: what was searched, and how that differs from the list."""
    return {
        "name": config.name,
        "subset": config.subset,
        "num_image_queries": len(truth.image_query_ids),
        "num_text_queries": counts.num_text_queries,
        "num_positives": len(truth.positive_ids),
        "num_distractors": counts.num_rows - len(truth.positive_ids),
        "num_expected_distractors": counts.expected,
        "num_missing_distractors": counts.missing,
        "num_extra_distractors": counts.extra,
        "num_rejected": counts.rejected_at_conversion + counts.rejected_at_decoding,
        "num_rejected_at_conversion": counts.rejected_at_conversion,
        "num_rejected_at_decoding": counts.rejected_at_decoding,
        "allowed": config.allowed,
    }
