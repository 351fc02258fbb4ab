"""The published table of scores, as it ships with the code under `data/published/`.

A score says what it belongs to: the kind of query, the database, whether the official linear layer
was applied, and how sure its place in the table is.
"""

import csv
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Literal, cast, get_args

from ilias_jax import bundled
from ilias_jax.errors import UserError

Database = Literal["mini", "full"]
NUM_DISTRACTORS: dict[Database, int] = {"mini": 5_000_000, "full": 100_000_000}
DATABASE_NAMES: dict[Database, str] = {"mini": "mini-ILIAS", "full": "full ILIAS"}
Status = Literal["published", "secondary", "unsure"]
# What a reader must know before using a number.
CAVEATS: dict[Status, str | None] = {
    "published": None,
    "secondary": "quoted elsewhere, not in the published table",
    "unsure": "the source lost a cell of this row: it may be the number of the other database",
}


@dataclasses.dataclass(frozen=True)
class PublishedScore:
    """One published number.

    Attributes:
        model: name of the row.
        section: "image_to_image" or "text_to_image".
        databases: the database searched; both where the source leaves it open.
        adapted: whether the official linear layer was applied.
        map: mAP@1000 in percent, one decimal.
        status: how sure the number is, a key of `CAVEATS`.
    """

    model: str
    section: str
    databases: tuple[Database, ...]
    adapted: bool
    map: float
    status: Status


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """All published numbers.

    Attributes:
        test_resolutions: model -> pixels of the longest side.
        scores: every number, in the order of the file.
    """

    test_resolutions: Mapping[str, int]
    scores: tuple[PublishedScore, ...]

    def find(
        self, model: str, section: str, database: Database, *, adapted: bool
    ) -> PublishedScore | None:
        """The number of one model in one setting, None where none is published."""
        for score in self.scores:
            same = (score.model, score.section, score.adapted) == (model, section, adapted)
            if same and database in score.databases:
                return score
        return None


def read_published(folder: pathlib.Path | None = None) -> PublishedTable:
    """Reads the table.

    Args:
        folder: holds models.csv and scores.csv; by default the bundled one.

    Raises:
        UserError: a file is missing or a line breaks the layout.
    """
    folder = folder or bundled.folder() / "published"
    models = {row["model"]: int(row["test_res"]) for _, row in _rows(folder / "models.csv")}
    scores = []
    for place, row in _rows(folder / "scores.csv"):
        try:
            scores.append(_score(row, models))
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"{place}: {error!r} in {row}; install the package again") from error
    return PublishedTable(models, tuple(scores))


def _rows(path: pathlib.Path) -> list[tuple[str, dict[str, str]]]:
    """(place, row) of every line of a CSV file with a header."""
    if not path.exists():
        raise UserError(f"{path}: no such file; it ships with the code, install it again")
    with path.open(encoding="utf-8", newline="") as file:
        return [(f"{path}, row {i}", row) for i, row in enumerate(csv.DictReader(file), 1)]


def _score(row: Mapping[str, str], models: Mapping[str, int]) -> PublishedScore:
    """One row of scores.csv; ValueError for a word that has no meaning."""
    databases = tuple(row["database"].split(" or "))
    for value, allowed in (
        *((database, get_args(Database)) for database in databases),
        (row["section"], ("image_to_image", "text_to_image")),
        (row["adapted"], ("yes", "no")),
        (row["status"], get_args(Status)),
        (row["model"], models),
    ):
        if value not in allowed:
            raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
    return PublishedScore(
        row["model"],
        row["section"],
        cast(tuple[Database, ...], databases),
        row["adapted"] == "yes",
        float(row["map"]),
        cast(Status, row["status"]),
    )
