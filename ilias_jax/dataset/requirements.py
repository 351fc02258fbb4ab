"""What a run requires of a dataset: its queries and positives, and the listed distractors."""

import logging
from collections.abc import Collection

from ilias_jax.config import ALLOWANCES
from ilias_jax.dataset.check import DatasetCheck, check_dataset
from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.errors import UserError


def check_texts(dataset: IliasDataset, allowed: Collection[str]) -> None:
    """Raises UserError if there are no text queries and that is not allowed."""
    if "no_text_queries" not in allowed and not dataset.has_texts:
        raise UserError(
            f"dataset.data_dir: {dataset.data_dir} has no text queries (ilias_text/); convert "
            "ilias_core.tar, which has them, or run image queries alone with "
            "dataset.allow=no_text_queries"
        )


def check_core(dataset: IliasDataset, truth: GroundTruth) -> None:
    """Checks that the shards' queries and positives are the ground truth's, in its order.

    Raises:
        UserError: some are missing, extra or in another order.
    """
    for what, found, expected in (
        ("image queries", dataset.ids("image_query"), truth.image_query_ids),
        ("positives", dataset.ids("positive"), truth.positive_ids),
        (
            "text queries",
            [q.query_id for q in dataset.text_queries()],
            truth.text_query_ids,
        ),
    ):
        if what == "text queries" and not dataset.has_texts:
            continue  # check_texts has let it pass
        missing, extra = (
            sorted(set(expected) - set(found)),
            sorted(set(found) - set(expected)),
        )
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
