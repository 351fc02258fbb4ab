"""The whole training: checks, the epochs with their times, and the adapter that comes out."""

import dataclasses
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from ilias_jax.adaptation.train import Recipe, batch_order, initial_layers, run_epoch, start
from ilias_jax.errors import UserError
from ilias_jax.search.adapter import Adapter


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One pass over the data.

    Attributes:
        number: from 1.
        loss: mean over the batches.
        images: rows that were seen.
        seconds: of the steps alone, compilation not included.
    """

    number: int
    loss: float
    images: int
    seconds: float


def check(recipe: Recipe, num_rows: int, num_classes: int) -> None:
    """Raises UserError if there is nothing to train on or a value is out of range."""
    least = {"dim": 1, "epochs": 1, "batch_size": 1, "seed": 0}
    for name, low in least.items():
        if getattr(recipe, name) < low:
            raise UserError(f"--{name} {getattr(recipe, name)} must be at least {low}")
    if not 0 < recipe.learning_rate < float("inf"):
        raise UserError(f"--lr {recipe.learning_rate} must be a number above 0")
    if num_rows < recipe.batch_size:
        raise UserError(f"{num_rows:,} embeddings are fewer than --batch_size {recipe.batch_size}")
    if num_classes < 2:
        raise UserError("the list has fewer than 2 classes; there is nothing to tell apart")


def fit(
    recipe: Recipe,
    rows: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    origin: Mapping[str, object],
    tell: Callable[[Epoch], None],
    tell_compiled: Callable[[float], None],
) -> Adapter:
    """Trains an adapter.

    Args:
        recipe: how.
        rows: [N, D] float16 or float32 embeddings.
        classes: [N] int32 in [0, num_classes).
        num_classes: C.
        origin: of the data, for the adapter's fingerprint.
        tell: is called after every epoch.
        tell_compiled: is called with the seconds that compilation took.

    Raises:
        UserError: see `check`; or a loss is no longer finite.
    """
    check(recipe, len(rows), num_classes)
    state = start(recipe, initial_layers(recipe, rows.shape[1], num_classes))
    data = jax.device_put((rows, np.asarray(classes, np.int32)))
    began = time.perf_counter()
    order = jax.device_put(batch_order(recipe, len(rows), 0))
    program = run_epoch.lower(state, *data, order, recipe=recipe).compile()
    tell_compiled(time.perf_counter() - began)
    losses = []
    for number in range(recipe.epochs):
        order = jax.device_put(batch_order(recipe, len(rows), number))
        began = time.perf_counter()
        state, values = program(state, *data, order)
        mean = float(np.mean(jax.device_get(values), dtype=np.float64))
        losses.append(mean)
        tell(Epoch(number + 1, mean, order.size, time.perf_counter() - began))
        if not np.isfinite(mean):
            raise UserError(
                f"the loss of epoch {number + 1} is {mean}; lower --lr {recipe.learning_rate}"
            )
    layers = jax.device_get(state.layers)
    made = {"recipe": dataclasses.asdict(recipe), "losses": losses, **origin}
    return Adapter(layers["weight"], layers["bias"], made)
