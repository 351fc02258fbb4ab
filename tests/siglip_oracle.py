"""SigLIP's towers in plain numpy and float64, one image or text at a time, loops over the layers.

Parameters are the mapping that `from_big_vision` gives: path -> array, blocks stacked.
"""

import math

import numpy as np

Parameters = dict[str, np.ndarray]


def under(parameters: Parameters, prefix: str) -> Parameters:
    """The parameters below a path."""
    prefix += "."
    return {
        key.removeprefix(prefix): value
        for key, value in parameters.items()
        if key.startswith(prefix)
    }


def layer_norm(x: np.ndarray, p: Parameters) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-6) * p["scale"] + p["bias"]


def gelu(x: np.ndarray, activation: str) -> np.ndarray:
    if activation == "gelu_exact":
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(x: np.ndarray, p: Parameters, activation: str) -> np.ndarray:
    hidden = gelu(x @ p["up.kernel"] + p["up.bias"], activation)
    return hidden @ p["down.kernel"] + p["down.bias"]


def attention(x: np.ndarray, context: np.ndarray, p: Parameters) -> np.ndarray:
    """x [T, D] attends to context [S, D], head by head."""
    _, num_heads, size = p["query.kernel"].shape
    result = np.zeros_like(x) + p["out.bias"]
    for head in range(num_heads):
        query, key, value = (
            source @ p[f"{name}.kernel"][:, head] + p[f"{name}.bias"][head]
            for name, source in (("query", x), ("key", context), ("value", context))
        )
        logits = query @ key.T / math.sqrt(size)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        result += weights @ value @ p["out.kernel"][head]
    return result


def block(x: np.ndarray, p: Parameters, activation: str) -> np.ndarray:
    y = layer_norm(x, under(p, "norm1"))
    x = x + attention(y, y, under(p, "attention"))
    return x + mlp(layer_norm(x, under(p, "norm2")), under(p, "mlp"), activation)


def encoder(x: np.ndarray, p: Parameters, activation: str) -> np.ndarray:
    blocks = under(p, "blocks")
    for i in range(len(blocks["norm1.scale"])):
        x = block(x, {key: value[i] for key, value in blocks.items()}, activation)
    return layer_norm(x, under(p, "norm"))


def map_head(x: np.ndarray, p: Parameters, activation: str) -> np.ndarray:
    """Pools [T, D] to [D]."""
    pooled = attention(p["probe"][0].astype(np.float64), x, under(p, "attention"))
    return (pooled + mlp(layer_norm(pooled, under(p, "norm")), under(p, "mlp"), activation))[0]


def image_tower(
    patches: np.ndarray, position: np.ndarray, p: Parameters, activation: str
) -> np.ndarray:
    """Embeds one image's patches [T, C], whose position embeddings are [T, D]."""
    x = patches.astype(np.float64) @ p["embedding.kernel"] + p["embedding.bias"] + position
    return map_head(encoder(x, under(p, "encoder"), activation), under(p, "head"), activation)


def text_tower(tokens: np.ndarray, p: Parameters, activation: str) -> np.ndarray:
    """Embeds one text's tokens [L]."""
    x = p["embedding.embedding"][tokens].astype(np.float64) + p["position"]
    last = encoder(x, under(p, "encoder"), activation)[-1]
    return last @ p["head.kernel"] + p["head.bias"] if "head.kernel" in p else last
