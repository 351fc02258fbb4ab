"""Lists of distractors, such as the official one of mini-ILIAS."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from ilias_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Shortlist:
    """Which distractors to keep.

    Attributes:
        places: line -> its place. A line is a full id `<tar file name>/<key>`, or the key alone, as
            the toolkit matches the official list of mini-ILIAS; a full id never equals a key.
    """

    places: Mapping[str, int]

    def __len__(self) -> int:
        """How many lines the list has."""
        return len(self.places)

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Looks distractors up by their full ids.

        Args:
            ids: M ids `<tar file name>/<key>`.

        Returns:
            [M] int64 places of their lines, -1 for those that are not on the list.
        """
        places = self.places
        return np.array([places.get(i, places.get(i.partition("/")[2], -1)) for i in ids], np.int64)


def read_shortlist(path: epath.Path) -> Shortlist:
    """Reads a list with an id or a key a line; empty lines are skipped.

    Raises:
        UserError: there is no such file, it is not text, or no line holds anything.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; --selected_ids names a list of distractors")
    try:
        lines = dict.fromkeys(line.strip() for line in path.read_text("utf-8").split("\n"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); copy the file again") from error
    lines.pop("", None)
    if not lines:
        raise UserError(f"{path}: no id in the file; expected a distractor's id or key a line")
    return Shortlist({line: place for place, line in enumerate(lines)})
