"""AMES, ELViS and Chamfer similarity of one pair by their definitions, in float64.

Weights are float64. `change` names a mistake that somebody could make; each must move scores by more than the tests
allow. `AMES_CHANGES` and `ELVIS_CHANGES` are all there are.
"""

import math

import numpy as np
from local_pairs import padded
from scipy.special import erf

Weights = dict[str, np.ndarray]
AMES_CHANGES = (
    "no padding mask",
    "no self mask",
    "no cross mask",
    "token hidden as key",
    "token hidden from itself in cross",
    "one head",
    "four heads",
    "gelu",
    "pre-norm",
    "cross before self",
    "epsilon 1e-6",
    "not normalised",
    "no float16",
    "last layer left out",
    "scale left out",
)
ELVIS_CHANGES = (
    "nine rounds",
    "columns before rows",
    "one dust bin",
    "trimmed padding",
    "tanh gelu",
    "vote epsilon 1e-5",
    "no temperature",
    "not normalised",
    "padding votes",
)


def ames(
    weights: Weights,
    query: np.ndarray,
    image: np.ndarray,
    counts: tuple[int, int],
    change: str = "",
) -> float:
    """The logit of descriptors [n, D] and [m, D], padded to these counts."""
    epsilon = 1e-6 if change == "epsilon 1e-6" else 1e-5
    sides = []
    for values, count in zip((query, image), counts, strict=True):
        values = padded([values.astype(np.float64)], count)[0]
        values = values if change == "not normalised" else _unit(values)
        sides.append(_remap(weights, values, epsilon))
    if "remap_local.0.W" not in weights and change != "no float16":
        sides[1] = sides[1].astype(np.float16).astype(np.float64)
    x = np.concatenate([weights["mtc_token"][None], *sides])
    kind = np.repeat([0, 1, 2], [1, *counts])
    real = np.concatenate(
        [[True], *(np.arange(c) < len(v) for v, c in zip((query, image), counts, strict=True))]
    )
    allowed = {
        "self_attn": _allowed(kind, "self", change),
        "cross_attn": _allowed(kind, "cross", change),
    }
    if change != "no padding mask":
        allowed = {name: each & real for name, each in allowed.items()}
    for number in range(4 if change == "last layer left out" else 5):
        prefix = f"decoder.layers.{number}."
        layer = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        x = _layer(layer, x, allowed, change, epsilon)
    return _dense(weights, "classifier", x[:1]).item()


def _allowed(kind: np.ndarray, which: str, change: str) -> np.ndarray:
    """[L, L] whether a row of a kind (0 token, 1 query, 2 database) attends to a key of one."""
    if change == f"no {which} mask":
        return np.ones((len(kind), len(kind)), bool)
    same = kind[:, None] == kind
    allowed = same if which == "self" else ~same
    allowed = allowed | (kind == 0) | (kind == 0)[:, None]
    if change == "token hidden as key":
        allowed[1:, 0] = False
    if change == "token hidden from itself in cross" and which == "cross":
        allowed[0, 0] = False
    return allowed


def _layer(layer: Weights, x: np.ndarray, allowed: dict, change: str, epsilon: float) -> np.ndarray:
    parts = [
        ("norm1", lambda x: _attention(layer, "self_attn", x, allowed["self_attn"], change)),
        ("norm2", lambda x: _attention(layer, "cross_attn", x, allowed["cross_attn"], change)),
        ("norm3", lambda x: _mlp(layer, x, change)),
    ]
    if change == "cross before self":
        parts = [parts[1], parts[0], parts[2]]
    for norm, part in parts:
        if change == "pre-norm":
            x = x + part(_norm(layer, norm, x, epsilon))
        else:
            x = _norm(layer, norm, x + part(x), epsilon)
    return x


def _mlp(layer: Weights, x: np.ndarray, change: str) -> np.ndarray:
    hidden = _dense(layer, "linear1", x)
    return _dense(layer, "linear2", _gelu(hidden) if change == "gelu" else np.maximum(hidden, 0))


def _attention(
    layer: Weights, name: str, x: np.ndarray, allowed: np.ndarray, change: str
) -> np.ndarray:
    heads = {"one head": 1, "four heads": 4}.get(change, 2)
    joined = x @ layer[f"{name}.in_proj_weight"].T + layer[f"{name}.in_proj_bias"]
    found = []
    for query, key, value in zip(
        *(np.split(part, heads, axis=1) for part in np.split(joined, 3, axis=1)), strict=True
    ):
        scale = 1.0 if change == "scale left out" else query.shape[1] ** -0.5
        scores = np.where(allowed, query @ key.T * scale, -np.inf)
        top = scores.max(axis=1, keepdims=True, initial=-1e300)
        weights = np.exp(scores - top)
        found.append(weights @ value / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300))
    return _dense(layer, f"{name}.out_proj", np.concatenate(found, axis=1))


def elvis(
    weights: Weights,
    query: np.ndarray,
    image: np.ndarray,
    counts: tuple[int, int],
    change: str = "",
) -> float:
    """The score of unit descriptors [n, D] and [m, D], padded to these counts."""
    if change == "trimmed padding":
        counts = len(query), len(image)
    reals = [np.arange(count) < len(v) for v, count in zip((query, image), counts, strict=True)]
    sides = []
    for values, count in zip((query, image), counts, strict=True):
        x = _remap(weights, padded([values.astype(np.float64)], count)[0], 1e-5)
        sides.append(x if change == "not normalised" else _unit(x))
    gains = [_gain(weights, side, change) for side in sides]
    plan = _plan(sides, gains, float(weights["dust_bin"]), reals, change)
    best = np.concatenate([plan.max(axis=1), plan.max(axis=0)])
    votes = 1 / (1 + np.exp(-_vote(weights, best, change)))
    real = np.concatenate(reals)
    return votes.sum() if change == "padding votes" else votes[real].sum()


def _gain(weights: Weights, side: np.ndarray, change: str) -> np.ndarray:
    hidden = _gelu(_dense(weights, "dust_bin_mlp.0", side), change == "tanh gelu")
    return np.tanh(_dense(weights, "dust_bin_mlp.2", hidden))[:, 0]


def _plan(sides: list, gains: list, dust: float, reals: list, change: str) -> np.ndarray:
    """The transport plan of real and padded descriptors, without dust bins."""
    m, n = (len(side) for side in sides)
    scores = np.full((m + 1, n + 1), dust)
    similar = sides[0] @ sides[1].T
    scores[:m, :n] = np.where(reals[0][:, None] & reals[1], similar, -np.inf)
    if change != "one dust bin":
        scores[:m, n], scores[m, :n] = gains
    scores = scores * (1 if change == "no temperature" else 10)
    rows = np.append(np.full(m, -math.log(m + n)), math.log(n) - math.log(m + n))
    columns = np.append(np.full(n, -math.log(m + n)), math.log(m) - math.log(m + n))
    u, v = np.zeros(m + 1), np.zeros(n + 1)
    for _ in range(9 if change == "nine rounds" else 10):
        if change == "columns before rows":
            v = columns - _log_sum(scores + u[:, None], 0)
            u = rows - _log_sum(scores + v, 1)
        else:
            u = rows - _log_sum(scores + v, 1)
            v = columns - _log_sum(scores + u[:, None], 0)
    return np.exp(scores + u[:, None] + v + math.log(m + n))[:m, :n]


def _log_sum(scores: np.ndarray, axis: int) -> np.ndarray:
    top = scores.max(axis=axis, keepdims=True)
    return (np.log(np.exp(scores - top).sum(axis=axis, keepdims=True)) + top).squeeze(axis)


def _vote(weights: Weights, best: np.ndarray, change: str) -> np.ndarray:
    x = _dense(weights, "f.0", best[:, None])
    x = _norm(weights, "f.1", x, 1e-5 if change == "vote epsilon 1e-5" else 1e-6)
    return _dense(weights, "f.3", _gelu(x, change == "tanh gelu"))[:, 0]


def chamfer(query: np.ndarray, image: np.ndarray) -> tuple[float, float]:
    """Of unit descriptors or signs [n, d]: the query's to the image's, and the other way."""
    cosines = _unit(query.astype(np.float64)) @ _unit(image.astype(np.float64)).T
    return cosines.max(axis=1).mean(), cosines.max(axis=0).mean()


def _remap(weights: Weights, values: np.ndarray, epsilon: float) -> np.ndarray:
    number = 0
    if "remap_local.0.W" in weights:
        number, values = 1, np.sign(_unit(values) @ weights["remap_local.0.W"])
    dense = _dense(weights, f"remap_local.{number}", values)
    return _norm(weights, f"remap_local.{number + 1}", dense, epsilon)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def _dense(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: Weights, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _gelu(x: np.ndarray, tanh: bool = False) -> np.ndarray:
    if tanh:
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + erf(x / math.sqrt(2)))


ORACLES = {"ames": (ames, AMES_CHANGES, 1e-4), "elvis": (elvis, ELVIS_CHANGES, 3e-4)}
# What a binary network does not see: signs have no length and are exact.
UNSEEN = {("ames", True, "not normalised"), ("ames", True, "no float16")}
