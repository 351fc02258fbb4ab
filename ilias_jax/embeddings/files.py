"""Several embedding files as one sequence of rows, and whether files belong together."""

import concurrent.futures
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
from etils import epath

from ilias_jax.dataset.id_lists import repeated_ids
from ilias_jax.embeddings.file import Header, RowReader, read_header, read_ids
from ilias_jax.embeddings.sources import Derived, split
from ilias_jax.errors import UserError

_HEADERS_AT_ONCE = 16  # a bucket takes long to answer, and a database has a thousand files
# What may differ between the files of one model: each has its source, texts have their own tower,
# and either storage dtype is an approximation of the same vectors.
_FREE = ("source", "subset", "text", "storage_dtype")


def check_lengths(files: Iterable[tuple[epath.Path, int, int]]) -> None:
    """Raises UserError if (path, N, D) of files differ in D; where N is 0 any D will do."""
    path_of: dict[int, epath.Path] = {}
    for path, num_rows, dim in files:
        if num_rows:
            path_of.setdefault(dim, path)
    if len(path_of) > 1:
        found = " and ".join(f"{path} has D = {dim}" for dim, path in list(path_of.items())[:2])
        raise UserError(f"vectors differ in length: {found}; are they of one model?")


def check_models(roles: Iterable[Sequence[epath.Path | Header]]) -> None:
    """Refuses embedding files of several models or preprocessings.

    Views are compared within a role alone: a run may crop queries to their boxes, or core images,
    and leave the others whole.

    Args:
        roles: files of queries, of positives, of distractors; by path, or by header if it is read.

    Raises:
        UserError: two files differ, or one is missing, of another kind or cut short.
    """
    whole: tuple[epath.Path, object] | None = None
    for files in roles:
        views: tuple[epath.Path, object] | None = None
        for file in files:
            header = file if isinstance(file, Header) else read_header(file)
            facts = {key: value for key, value in header.fingerprint.items() if key not in _FREE}
            own = {"views": facts.pop("views", None)}
            whole, views = whole or (header.path, facts), views or (header.path, own)
            for (first, expected), found in ((whole, facts), (views, own)):
                if found != expected:
                    raise UserError(
                        f"{first} and {header.path} are of different models or preprocessing: "
                        f"{_difference(expected, found)}; their vectors cannot be compared"
                    )


def _difference(one: object, other: object, name: str = "") -> str:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return _difference(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
    return f"{name} is {one} in the first and {other} in the second"


@dataclasses.dataclass(frozen=True)
class EmbeddingFiles(Derived):
    """Several files as one sequence of rows.

    Headers are read once, when something is first asked for; no vector is read before all files
    are known to be whole and to agree in D. Files of float16 and float32 may be mixed: all rows
    are float32 then, whichever file they are from, so that a search sees one dtype.
    """

    paths: Sequence[epath.Path]

    @cached_property
    def headers(self) -> tuple[Header, ...]:
        """Of every file; raises UserError as `read_header`, or if files differ in D."""
        with concurrent.futures.ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
            headers = tuple(pool.map(read_header, self.paths))
        check_lengths((each.path, each.num_rows, each.dim) for each in headers)
        return headers

    @cached_property
    def _starts(self) -> list[int]:
        return np.cumsum([0, *(each.num_rows for each in self.headers)], dtype=np.int64).tolist()

    @property
    def dim(self) -> int:
        """D; 0 where there is no row."""
        # A shard without one readable image has no D: its vectors are [0, 0].
        return next((each.dim for each in self.headers if each.num_rows), 0)

    @property
    def dtype(self) -> np.dtype:
        """Of all rows: that of all files with rows, float32 if they differ."""
        dtypes = {each.dtype for each in self.headers if each.num_rows or not self.dim}
        return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)

    def num_rows(self) -> int:
        return self._starts[-1]

    def ids(self) -> list[str]:
        return [name for each in self.headers for name in read_ids(each.path, each)]

    def num_repeated(self) -> int:
        """How many ids come again in a later file; within a file they never do."""
        return len(repeated_ids([partial(read_ids, each.path, each) for each in self.headers]))

    def rejected(self) -> list[tuple[str, str]]:
        """(id, reason) of all images without an embedding."""
        return [pair for each in self.headers for pair in each.rejected]

    def place_of(self, row: int) -> str:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        own, header = row - self._starts[part], self.headers[part]
        return f"{header.path}, row {own} ({read_ids(header.path, header)[own]})"

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        with RowReader() as reader:
            for start in range(0, self.num_rows(), num_rows):
                yield self._between(reader, start, min(start + num_rows, self.num_rows()))

    def _between(self, reader: RowReader, start: int, stop: int) -> np.ndarray:
        rows = np.empty((stop - start, self.dim), self.dtype)
        for part, taken in split(np.arange(start, stop), self._starts):
            reader.fill(rows[taken], self.headers[part], start + taken.start - self._starts[part])
        return rows

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        """The rows of rising indices [n], [n, D]; only the files that hold one are opened, once."""
        rows = np.empty((len(wanted), self.dim), self.dtype)
        with RowReader() as reader:
            for part, taken in split(wanted, self._starts):
                own = wanted[taken] - self._starts[part]
                reader.pick(rows[taken], self.headers[part], own)
        return rows
