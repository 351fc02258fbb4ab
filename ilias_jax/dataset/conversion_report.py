"""What a conversion did, in numbers and in words."""

import dataclasses
from collections.abc import Sequence

from ilias_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        notes: what the user should know of the inputs.
        num_shards: shards of distractors that the dataset has or will have.
        num_converted: of these, converted by this run.
        num_moved: of these, renamed by this run because tars were added.
        num_absent: of these, with a tar that is not there any more.
        num_left: of these, still to be converted.
        num_stored: distractor images stored by this run.
        num_rejected: those rejected by this run.
        num_others: files in this run's tars that are no images.
    """

    notes: tuple[str, ...]
    num_shards: int
    num_converted: int
    num_moved: int
    num_absent: int
    num_left: int
    num_stored: int
    num_rejected: int
    num_others: int

    def lines(self) -> list[str]:
        """The report in words; what did not happen is left out."""
        lines = [
            *self.notes,
            f"{self.num_converted:,} tars converted, {self.num_shards:,} shards of distractors: "
            f"{self.num_stored:,} images stored, {self.num_rejected:,} rejected",
        ]
        if self.num_rejected:
            lines.append("the reasons are in ilias/1.0.0/inventory/")
        if self.num_others:
            lines.append(f"{self.num_others:,} other files in the tars were passed over")
        if self.num_moved:
            lines.append(f"{self.num_moved:,} finished shards were renumbered, for tars were added")
        if self.num_absent:
            lines.append(
                f"{self.num_absent:,} shards are kept whose tars are not there; to leave one out, "
                "remove its file in ilias/1.0.0/inventory/ and run again"
            )
        if self.num_left:
            lines.append(f"{self.num_left:,} tars are still to be converted before it can be read")
        return lines


def damage_report(damaged: Sequence[UserError], num_tars: int) -> UserError:
    """One error of all tars that could not be converted."""
    lines = sorted(str(error) for error in damaged)
    last = f"{len(damaged):,} of {num_tars:,} tars could not be converted; the others are done"
    return UserError("\n".join([*lines, last]))
