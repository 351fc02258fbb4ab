"""What a report says of the model."""

import types

import numpy as np

from ilias_jax import manifest
from ilias_jax.model import Model, Preprocessing


def test_the_model_section_says_where_downloaded_files_came_from():
    model = Model(
        name="m",
        parameters={"w": np.zeros((3, 4), np.float32)},
        preprocessing=Preprocessing(64, 16),
        embed_images=lambda parameters, pixels, grid: pixels[:, 0],
        embed_texts=None,
        tokenize=None,
        fingerprint={"name": "m", "sha256": "ab", "activation": "gelu_exact"},
        text_fingerprint={"text_activation": "gelu_tanh"},
        checkpoint="cache/m.npz",
        origin={"checkpoint_origin": "https://host/m.npz, downloaded 2026-11-26"},
    )
    embedded = types.SimpleNamespace(images={"image_query": types.SimpleNamespace(dim=4)})
    described = manifest.describe_model(model, embedded)
    assert described["checkpoint_origin"] == "https://host/m.npz, downloaded 2026-11-26"
    assert (described["activation"], described["text_activation"]) == ("gelu_exact", "gelu_tanh")
    assert (described["num_parameters"], described["checkpoint"]) == (12, "cache/m.npz")
    assert "checkpoint_origin" not in str(model.image_fingerprint())
