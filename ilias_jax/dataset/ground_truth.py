"""The labels of the benchmark: which query belongs to which positives, and in which group."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from etils import epath

from ilias_jax.dataset.id_lists import IdRow, object_of, read_id_rows, read_text
from ilias_jax.errors import UserError, quoted
from ilias_jax.files import parse_json

_TAXONOMY = "expected JSON: coarse -> mid -> fine -> [objects]"

Taxonomy = Mapping[str, tuple[str, str, str]]


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """The ids and labels of the core images; every query's object has a positive and a category."""

    image_query_ids: tuple[str, ...]  # like "object/query/Q000_00.jpg"
    text_query_ids: tuple[str, ...]  # like "object/query/T000.txt"
    positive_ids: tuple[str, ...]  # [P] in database order: they are the rows 0..P-1
    # [P] float64, the share of the image that the object covers, finite and >= 0: in (0, 1] by
    # definition, but overlapping boxes may sum to more than 1.
    scale: np.ndarray
    clutter: np.ndarray  # [P] int32 >= 0, the clutter of the image
    taxonomy: Taxonomy  # object -> (coarse, mid, fine) category

    def objects(self) -> dict[str, tuple[str, str, str]]:
        """The objects that have a query, by name, with their (coarse, mid, fine) category."""
        names = {object_of(query) for query in self.image_query_ids + self.text_query_ids}
        return {name: self.taxonomy[name] for name in sorted(names)}


def read_ground_truth(
    directory: epath.PathLike, taxonomy_file: epath.PathLike | None = None
) -> GroundTruth:
    """Reads the official files below `directory`; the order of their lines is kept.

    Files: image_ids/image_query_ids.txt (comma separated, the id first), text_query_ids.txt (an
    id a line), positive_ids.txt (`id,scale,clutter`), and misc/taxonomy.json (coarse -> mid ->
    fine -> objects) unless `taxonomy_file` names another. Empty lines are skipped.

    Raises:
        UserError: a file is missing, or a line breaks the layout; names file, line and value.
    """
    directory = epath.Path(directory)
    ids = directory / "image_ids"
    taxonomy = read_taxonomy(epath.Path(taxonomy_file or directory / "misc" / "taxonomy.json"))
    positives = read_id_rows(ids / "positive_ids.txt", "id,scale,clutter")
    scale = [_number(row, 1, float) for row in positives.values()]
    clutter = [_number(row, 2, int) for row in positives.values()]
    image_queries = read_id_rows(ids / "image_query_ids.txt")
    text_queries = read_id_rows(ids / "text_query_ids.txt", "id")
    objects = {object_of(positive) for positive in positives}
    for query, row in (*image_queries.items(), *text_queries.items()):
        for known, what in ((objects, "has no positive"), (taxonomy, "is not in the taxonomy")):
            if (name := object_of(query)) not in known:
                raise UserError(f"{row.line}: query {quoted(query)}: object {quoted(name)} {what}")
    for query in text_queries.keys() & image_queries.keys():
        other = image_queries[query].line
        raise UserError(
            f"{text_queries[query].line}: {quoted(query)} is an image query too ({other})"
        )
    return GroundTruth(
        image_query_ids=tuple(image_queries),
        text_query_ids=tuple(text_queries),
        positive_ids=tuple(positives),
        scale=np.array(scale, np.float64),
        clutter=np.array(clutter, np.int32),
        taxonomy=taxonomy,
    )


def _number(row: IdRow, column: int, kind: type[float] | type[int]) -> float:
    text = row.columns[column]
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 2**31:
        name = {1: "scale", 2: "clutter"}[column]
        wanted = "a number" if kind is float else "an integer"
        raise UserError(f"{row.line}: {name} is {quoted(text)}; expected {wanted} >= 0 and < 2**31")
    return value


def read_taxonomy(path: epath.Path) -> dict[str, tuple[str, str, str]]:
    """Reads the official taxonomy file as object -> (coarse, mid, fine).

    Raises:
        UserError: there is no such file, it is not a taxonomy, or an object comes twice.
    """
    taxonomy: dict[str, tuple[str, str, str]] = {}
    try:
        for coarse, mids in parse_json(read_text(path), f"{path}", _TAXONOMY).items():
            for mid, fines in mids.items():
                for fine, names in fines.items():
                    for name in names:
                        labels = (coarse, mid, fine)
                        if (other := taxonomy.setdefault(name, labels)) is not labels:
                            both = f"under {other} and under {labels}"
                            raise UserError(f"{path}: object {quoted(name)} is {both}")
    except (AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a taxonomy ({error}); {_TAXONOMY}") from error
    return taxonomy
