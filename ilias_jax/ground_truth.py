"""The labels of the benchmark: which query belongs to which positives, and in which group."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from etils import epath

from ilias_jax.errors import UserError

Taxonomy = Mapping[str, tuple[str, str, str]]


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """The ids and labels of the core images.

    Attributes:
        image_query_ids: ids of the image queries, like "object/query/Q000_00.jpg".
        text_query_ids: ids of the text queries, like "object/query/T000.txt".
        positive_ids: [P] ids of the positives in database order: they are the rows 0..P-1.
        scale: [P] float64, the share of the image that the object covers, finite and >= 0. It is
            a share in (0, 1] by definition, but overlapping boxes may sum to more than 1.
        clutter: [P] int32 >= 0, the clutter of the image.
        taxonomy: object -> (coarse, mid, fine) category.

    Raises:
        ValueError: an id is repeated, a shape, dtype or value is wrong, or a query's object has
            no positive or no category.
    """

    image_query_ids: tuple[str, ...]
    text_query_ids: tuple[str, ...]
    positive_ids: tuple[str, ...]
    scale: np.ndarray
    clutter: np.ndarray
    taxonomy: Taxonomy

    def __post_init__(self) -> None:
        """Checks the rules of the class docstring."""
        queries = self.image_query_ids + self.text_query_ids
        for name, ids in (("query", queries), ("positive", self.positive_ids)):
            if len(set(ids)) != len(ids):
                repeated = next(i for n, i in enumerate(ids) if i in ids[:n])
                raise ValueError(f"{name} id {repeated!r} occurs more than once")
        for name, dtype in (("scale", np.float64), ("clutter", np.int32)):
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (len(self.positive_ids),):
                raise ValueError(
                    f"{name} is {array.dtype}{list(array.shape)}; expected "
                    f"{np.dtype(dtype)}[{len(self.positive_ids)}], one value a positive"
                )
            if not np.all(np.isfinite(array) & (array >= 0)):
                raise ValueError(f"{name} holds a value that is not a finite number >= 0")
        objects = {object_of(positive) for positive in self.positive_ids}
        for query in queries:
            if problem := _problem_of(query, objects, self.taxonomy):
                raise ValueError(problem)

    def objects(self) -> dict[str, tuple[str, str, str]]:
        """The objects that have a query, by name, with their (coarse, mid, fine) category."""
        names = {object_of(query) for query in self.image_query_ids + self.text_query_ids}
        return {name: self.taxonomy[name] for name in sorted(names)}


def object_of(image_id: str) -> str:
    """Returns the object of an image or text id: the part before the first "/".

    Raises:
        ValueError: the id has no "/", or nothing before it.
    """
    name, slash, _ = image_id.partition("/")
    if not name or not slash:
        raise ValueError(f"id {image_id!r} has no object; expected <object>/<folder>/<file>")
    return name


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
    positives = _read_rows(ids / "positive_ids.txt", "id,scale,clutter", (3,))
    scale = [_number(row, 1, float) for row in positives.values()]
    clutter = [_number(row, 2, int) for row in positives.values()]
    objects = {object_of(positive) for positive in positives}
    image_rows = _read_rows(ids / "image_query_ids.txt", "id,...", None)
    text_rows = _read_rows(ids / "text_query_ids.txt", "id", (1,))
    for row in (*image_rows.values(), *text_rows.values()):
        if problem := _problem_of(row.columns[0], objects, taxonomy):
            raise UserError(f"{row.place}: {problem}")
    for query in text_rows.keys() & image_rows.keys():
        place = image_rows[query].place
        raise UserError(f"{text_rows[query].place}: {query!r} is an image query too ({place})")
    return GroundTruth(
        image_query_ids=tuple(image_rows),
        text_query_ids=tuple(text_rows),
        positive_ids=tuple(positives),
        scale=np.array(scale, np.float64),
        clutter=np.array(clutter, np.int32),
        taxonomy=taxonomy,
    )


@dataclasses.dataclass(frozen=True)
class _Row:
    """One line of an id file: its columns and its place, `file, line number`."""

    columns: Sequence[str]
    place: str


def _read_rows(path: epath.Path, layout: str, widths: Sequence[int] | None) -> dict[str, _Row]:
    """Returns id -> row in file order; `widths` are the allowed numbers of columns, None any."""
    rows: dict[str, _Row] = {}
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _Row([column.strip() for column in line.split(",")], f"{path}, line {number}")
        if widths is not None and len(row.columns) not in widths:
            raise UserError(
                f"{row.place}: {len(row.columns)} columns in {line.strip()!r}; expected {layout}"
            )
        try:
            object_of(row.columns[0])
        except ValueError as error:
            raise UserError(f"{row.place}: {error}") from error
        if earlier := rows.get(row.columns[0]):
            raise UserError(
                f"{row.place}: {row.columns[0]!r} is repeated, first at {earlier.place}"
            )
        rows[row.columns[0]] = row
    if not rows:
        raise UserError(f"{path}: no id in the file; expected lines `{layout}`")
    return rows


def _number(row: _Row, column: int, kind: type[float] | type[int]) -> float:
    """Returns a column as a finite number >= 0."""
    text = row.columns[column]
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 2**31:
        name = {1: "scale", 2: "clutter"}[column]
        wanted = "a number" if kind is float else "an integer"
        raise UserError(f"{row.place}: {name} is {text!r}; expected {wanted} >= 0 and < 2**31")
    return value


def read_taxonomy(path: epath.Path) -> dict[str, tuple[str, str, str]]:
    """Reads the official taxonomy file, coarse -> mid -> fine -> objects.

    Returns:
        Object -> (coarse, mid, fine).

    Raises:
        UserError: there is no such file, it is not a taxonomy, or an object comes twice.
    """
    try:
        nested = json.loads(_read_text(path))
        leaves = [
            (obj, (coarse, mid, fine))
            for coarse, mids in nested.items()
            for mid, fines in mids.items()
            for fine, objects in fines.items()
            for obj in objects
        ]
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: not a taxonomy ({error}); expected JSON: coarse -> mid -> fine -> [objects]"
        ) from error
    taxonomy: dict[str, tuple[str, str, str]] = {}
    for obj, labels in leaves:
        if obj in taxonomy:
            raise UserError(f"{path}: object {obj!r} is under {taxonomy[obj]} and under {labels}")
        taxonomy[obj] = labels
    return taxonomy


def _read_text(path: epath.Path) -> str:
    """Returns the text of a file that must be there."""
    if not path.exists():
        raise UserError(f"{path}: no such file; expected the official ILIAS layout (download it)")
    try:
        text: str = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); copy the file again") from error
    return text


def _problem_of(query: str, objects: Iterable[str], taxonomy: Taxonomy) -> str | None:
    """Says why a query cannot be evaluated, None where it can be."""
    obj = object_of(query)
    if obj not in objects:
        return f"query {query!r}: object {obj!r} has no positive"
    if obj not in taxonomy:
        return f"query {query!r}: object {obj!r} is not in the taxonomy"
    return None
