"""Whether files belong together: one length of vectors, one model."""

from collections.abc import Iterable, Mapping, Sequence

from etils import epath

from ilias_jax.embeddings.header import Header, read_header
from ilias_jax.errors import UserError

# What may differ between the files of one model: each has its source, texts have their own tower,
# and either storage dtype is an approximation of the same vectors.
_FREE = ("source", "subset", "text", "storage_dtype")


def check_lengths(files: Iterable[tuple[epath.Path, int, int]]) -> None:
    """Refuses files whose vectors differ in length.

    Args:
        files: (path, N, D) of each; where N is 0 any D will do.

    Raises:
        UserError: two values of D.
    """
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
    """The first entry in which two fingerprints differ, and both its values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return _difference(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
    return f"{name} is {one} in the first and {other} in the second"
