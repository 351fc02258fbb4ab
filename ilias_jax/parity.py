"""The last full comparison of every model with its reference, as it ships in `data/parity.csv`.

`scripts/measure_parity.py` writes the file: full depth, float32, weights that a seed defines, in
ours and in the reference. Models whose weights alone differ share a network, and so its result.
"""

import csv
import dataclasses
import functools
from typing import Literal

from ilias_jax import bundled
from ilias_jax.errors import UserError

Modality = Literal["image", "text"]


@dataclasses.dataclass(frozen=True)
class Parity:
    """The result of one tower.

    Attributes:
        model: name of the row.
        modality: which tower.
        graph: the network that was compared.
        reference: which code ran beside ours.
        inputs: number of pictures or texts.
        resolution: pixels of the longest side; 0 for texts.
        cosine: smallest between an output of ours and the reference's.
        error: largest distance of two such outputs over the mean distance of different inputs.
        largest_difference: of any channel.
    """

    model: str
    modality: Modality
    graph: str
    reference: str
    inputs: int
    resolution: int
    cosine: float
    error: float
    largest_difference: float

    def __str__(self) -> str:
        """As `ilias-jax models NAME` says it."""
        where = f" at {self.resolution}" if self.resolution else ""
        return (
            f"{self.modality} tower: cosine {self.cosine:.7f}, error {self.error:.1e} of the "
            f"distance between different inputs, largest difference "
            f"{self.largest_difference:.1e} ({self.inputs} inputs{where}; network {self.graph}, "
            f"reference {self.reference})"
        )


@functools.cache
def load_parity() -> dict[tuple[str, str], Parity]:
    """(model, modality) -> result; models that are not there are unproven.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = bundled.folder() / "parity.csv"
    try:
        with path.open(newline="") as file:
            rows = [_row(fields) for fields in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; restore it") from error
    return {(row.model, row.modality): row for row in rows}


def _row(fields: dict[str, str]) -> Parity:
    kinds: dict[str, type] = {"inputs": int, "resolution": int}
    kinds |= dict.fromkeys(("cosine", "error", "largest_difference"), float)
    names = [field.name for field in dataclasses.fields(Parity)]
    return Parity(**{name: kinds.get(name, str)(fields[name]) for name in names})
