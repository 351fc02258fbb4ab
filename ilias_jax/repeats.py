"""Ids that come twice in several lists which are too long to be held together."""

import collections
from collections.abc import Callable, Iterator, Sequence


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def repeated_ids(lists: Sequence[Callable[[], list[str]]]) -> list[str]:
    """The ids that have come before, each as often as it comes again.

    Within a list all ids are compared; between lists only those of a folder (the part before the
    last "/") that several lists share, so that a database of many tars costs no set of all its ids.

    Args:
        lists: each reads one list of ids; it is called once, or twice where folders are shared.
    """
    repeated: list[str] = []
    lists_of: collections.Counter[str] = collections.Counter()
    for read in lists:
        ids = read()
        repeated += _again(ids)
        lists_of.update({_folder(name) for name in ids})
    shared = {folder for folder, count in lists_of.items() if count > 1}
    between = (i for read in lists for i in read() if _folder(i) in shared) if shared else ()
    return [i for i in repeated if _folder(i) not in shared] + list(_again(list(between)))


def _again(ids: list[str]) -> Iterator[str]:
    """Every id that an earlier place of the list holds too."""
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            yield name
        seen.add(name)
