"""Weights of re-rankers and detectors: the tensors of a checkpoint, checked by name and shape."""

from collections.abc import Mapping

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.formats import read_arrays

_PREFIX = "state."  # of checkpoints that keep their state dictionary under a key


def read_weights(path: str) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint by their names in the state dictionary, as they are stored."""
    found = read_arrays(path).arrays
    state = {name: array for name, array in found.items() if name.startswith(_PREFIX)}
    return {name.removeprefix(_PREFIX): array for name, array in (state or found).items()}


def check_weights(
    found: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    place: str,
    optional: tuple[str, ...] = (),
) -> dict[str, np.ndarray]:
    """The tensors of these names as float32; all that does not fit is named together.

    Args:
        found: as `read_weights` gives them.
        shapes: of the tensors that are wanted.
        place: key and path, for the message.
        optional: names that may be there beside them and are not needed.

    Raises:
        UserError: a tensor is missing, not known, of another shape, or not finite.
    """
    problems = [f"{name} is missing" for name in shapes if name not in found]
    problems += [f"{name} is not known" for name in sorted({*found} - {*shapes} - {*optional})]
    taken = {name: np.asarray(found[name], np.float32) for name in shapes if name in found}
    for name, array in taken.items():
        if array.shape != shapes[name]:
            problems.append(f"{name} has shape {array.shape}, not {shapes[name]}")
        elif not np.isfinite(array).all():
            problems.append(f"{name} holds NaN or infinity")
    if problems:
        raise UserError(f"{place} does not fit: {'; '.join(problems)}")
    return taken
