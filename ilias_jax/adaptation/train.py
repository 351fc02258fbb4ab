"""Trains the adapter as the first layer of a cosine classifier, a scan of one program an epoch.

The recipe is that of ILIAS: a linear layer with bias and an L2 norm, then a classifier without bias
whose weights are L2-normalised too, softmax cross-entropy of the cosines times 16, and PyTorch's
Adam, whose weight decay is an L2 penalty: it is added to the gradient before the moments. There is
no schedule, no margin, no centring; the last partial batch of an epoch is left out.

All runs on one device, the default one: a million embeddings of 1,024 channels are 2 GB of
float16, which stays float16; a batch is cast when it is taken.

A line of the training list is `path,class,domain`. Numbers of classes repeat between domains, so a
class is the pair.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from ilias_jax.dataset.id_lists import read_text
from ilias_jax.errors import UserError, quoted
from ilias_jax.search.adapter import Adapter, adapt, normalize

Layers = dict[str, jax.Array]


_MAX_DIM = 65_536  # channels: a layer of 2,048 inputs is half a GB then


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the adapter is trained; the defaults are the published ones.

    Attributes:
        dim: d, channels of the adapted embedding.
        epochs: passes over the data.
        batch_size: B.
        learning_rate, weight_decay: of Adam.
        scale: factor of the cosines in the softmax.
        seed: of the initial weights and of the order of the batches.
    """

    dim: int = 512
    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    scale: float = 16.0
    seed: int = 0


class State(NamedTuple):
    """Adapter `weight` [d, D] and `bias` [d] and `classifier` [C, d], float32; Adam's moments."""

    layers: Layers
    moments: optax.OptState


def initial_layers(recipe: Recipe, input_dim: int, num_classes: int) -> dict[str, np.ndarray]:
    """Layers before the first step, the same on every machine.

    As PyTorch starts them: the adapter's weight is Xavier-uniform and its bias zero; the classifier
    is uniform in +-1/sqrt(d).
    """
    rng = np.random.default_rng([recipe.seed, 0])

    def uniform(rows: int, columns: int, bound: float) -> np.ndarray:
        return rng.uniform(-bound, bound, (rows, columns)).astype(np.float32)

    return {
        "weight": uniform(recipe.dim, input_dim, (6 / (input_dim + recipe.dim)) ** 0.5),
        "bias": np.zeros(recipe.dim, np.float32),
        "classifier": uniform(num_classes, recipe.dim, recipe.dim**-0.5),
    }


def batch_order(recipe: Recipe, num_rows: int, epoch: int) -> np.ndarray:
    """[S, B] int32, the rows of every batch of an epoch, each row at most once."""
    rng = np.random.default_rng([recipe.seed, 1, epoch])
    steps = num_rows // recipe.batch_size
    order = rng.permutation(num_rows)[: steps * recipe.batch_size]
    return order.reshape(steps, recipe.batch_size).astype(np.int32)


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay), optax.adam(recipe.learning_rate)
    )


def start(recipe: Recipe, layers: dict[str, np.ndarray]) -> State:
    """The state before the first step, on the default device."""
    on_device = jax.device_put(layers)
    return State(on_device, jax.jit(_optimizer(recipe).init)(on_device))


def loss(layers: Layers, rows: jax.Array, classes: jax.Array, scale: float) -> jax.Array:
    """Mean cross-entropy of a batch: rows [B, D] of any float type, classes [B] int32 in [0, C)."""
    adapted = adapt(layers["weight"], layers["bias"], rows)
    centres = normalize(layers["classifier"])
    cosines = jnp.einsum("bd,cd->bc", adapted, centres, precision=jax.lax.Precision.HIGHEST)
    return optax.softmax_cross_entropy_with_integer_labels(scale * cosines, classes).mean()


@functools.partial(jax.jit, static_argnames="recipe", donate_argnames="state")
def run_epoch(
    state: State, rows: jax.Array, classes: jax.Array, order: jax.Array, recipe: Recipe
) -> tuple[State, jax.Array]:
    """Takes one step for every batch, whose rows are `order` [S, B] int32.

    Returns the state after, and the loss of every batch before its step, [S] float32.
    """
    optimizer = _optimizer(recipe)

    def step(state: State, batch: jax.Array) -> tuple[State, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(
            state.layers, rows[batch], classes[batch], recipe.scale
        )
        change, moments = optimizer.update(gradient, state.moments, state.layers)
        return State(optax.apply_updates(state.layers, change), moments), value

    return jax.lax.scan(step, state, order)


def check(recipe: Recipe, num_rows: int, num_classes: int) -> None:
    """Raises UserError if there is nothing to train on or a value is out of range."""
    allowed = {"epochs": (1, 10**6), "batch_size": (1, 2**20), "seed": (0, 2**32 - 1)}
    for name, (low, high) in {"dim": (1, _MAX_DIM), **allowed}.items():
        if not low <= (value := getattr(recipe, name)) <= high:
            raise UserError(f"--{name} {value}; {low} to {high:,} are allowed")
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
    tell: Callable[[str], None],
) -> Adapter:
    """Trains an adapter; raises UserError if a loss is no longer finite.

    Args:
        recipe: passes `check`.
        rows: [N, D] float16 or float32 embeddings.
        classes: [N] int32 in [0, num_classes).
        num_classes: C.
        origin: of the data, for the adapter's fingerprint.
        tell: is given a line after the compilation and after every epoch.
    """
    state = start(recipe, initial_layers(recipe, rows.shape[1], num_classes))
    data = jax.device_put((rows, np.asarray(classes, np.int32)))
    began = time.perf_counter()
    order = jax.device_put(batch_order(recipe, len(rows), 0))
    program = run_epoch.lower(state, *data, order, recipe=recipe).compile()
    tell(f"compiled in {time.perf_counter() - began:.2f} s")
    losses = []
    for epoch in range(recipe.epochs):
        order = jax.device_put(batch_order(recipe, len(rows), epoch))
        began = time.perf_counter()
        state, values = program(state, *data, order)
        mean = float(np.mean(jax.device_get(values), dtype=np.float64))
        seconds = time.perf_counter() - began
        losses.append(mean)
        tell(
            f"epoch {epoch + 1} of {recipe.epochs}: loss {mean:.4f}, "
            f"{seconds:.2f} s, {order.size / seconds:,.0f} images/s"
        )
        if not np.isfinite(mean):
            raise UserError(
                f"the loss of epoch {epoch + 1} is {mean}; lower --lr {recipe.learning_rate}"
            )
    layers = jax.device_get(state.layers)
    fingerprint = {"recipe": dataclasses.asdict(recipe), "losses": losses, **origin}
    return Adapter(layers["weight"], layers["bias"], fingerprint)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingList:
    """Pictures and their classes.

    Attributes:
        file: for messages.
        paths: N paths, each once.
        classes: [N] int32 in [0, C), numbered in order of first appearance.
        num_classes: C.
    """

    file: str
    paths: tuple[str, ...]
    classes: np.ndarray
    num_classes: int


def read_training_list(path: epath.PathLike) -> TrainingList:
    """Reads a training list; a UserError if a line is not of the form or a path comes twice."""
    path = epath.Path(path)
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file; it has lines path,class,domain")
    numbers: dict[tuple[int, int], int] = {}
    rows: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        name, pair = _parse(line, f"{path} line {number}")
        if name in rows:
            raise UserError(f"{path} line {number}: {quoted(name)} comes twice")
        rows[name] = numbers.setdefault(pair, len(numbers))
    classes = np.fromiter(rows.values(), np.int32, len(rows))
    return TrainingList(str(path), tuple(rows), classes, len(numbers))


def _parse(line: str, name_of_line: str) -> tuple[str, tuple[int, int]]:
    try:
        name, class_, domain = line.strip().rsplit(",", 2)
        name, pair = name.strip(), (int(class_), int(domain))
        if min(pair) < 0:
            raise ValueError
    except ValueError as error:
        raise UserError(
            f"{name_of_line}: {quoted(line)} is not path,class,domain with whole numbers >= 0"
        ) from error
    if not name:
        raise UserError(f"{name_of_line}: {quoted(line)} is not path,class,domain: it has no path")
    return name, pair


def escape_path(path: str) -> str:
    """A path as official feature files write it, in ASCII.

    Characters up to U+00FF become `#U00e9`, those up to U+FFFF `#U4e2d`; what Python's
    unicode-escape marks with another backslash keeps it, four times as the official extraction
    prints its bytes.
    """
    if path.isascii() and path.isprintable() and "\\" not in path:
        return path
    escaped = path.encode("unicode-escape").decode("ascii").replace("\\", "\\\\")
    return escaped.replace("\\\\u", "#U").replace("\\\\x", "#U00")


def classes_of(listed: TrainingList, ids: Sequence[str], source: str) -> np.ndarray:
    """[N] int32, the class of every row of vectors, found by its id, not by its position.

    Args:
        listed: the training list.
        ids: of the rows: paths of the list, as they are or escaped.
        source: of the rows, for messages.

    Raises:
        UserError: an id is not on the list or comes twice, or a path of the list has no row; the
            first of each is named.
    """
    lines = {escape_path(path): line for line, path in enumerate(listed.paths)}
    lines |= {path: line for line, path in enumerate(listed.paths)}
    found = np.fromiter((lines.get(name, -1) for name in ids), np.int64, len(ids))
    if (unknown := np.flatnonzero(found < 0)).size:
        row = int(unknown[0])
        listed_there = quoted(listed.paths[row]) if row < len(listed.paths) else "not there"
        raise UserError(
            f"{source}: {unknown.size:,} of {len(ids):,} ids are not in {listed.file}, first row "
            f"{row}: {quoted(ids[row])}; line {row + 1} of the list is {listed_there}"
        )
    counts = np.bincount(found, minlength=len(listed.paths))
    for wrong, what in ((counts > 1, "come more than once in"), (counts == 0, "have no row in")):
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{wrong.sum():,} of {len(listed.paths):,} paths of {listed.file} {what} {source}, "
                f"first line {line + 1}: {quoted(listed.paths[line])}"
            )
    return listed.classes[found]
