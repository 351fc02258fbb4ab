"""What a report says of the model."""

import pathlib
import types

import numpy as np

from ilias_jax.model import Model, Preprocessing
from ilias_jax.report import manifest


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


def test_the_commit_is_that_of_the_checkout(monkeypatch):
    commands = []

    def git(command, **_):
        commands.append(command)
        return types.SimpleNamespace(stdout=" M x.py\n" if "status" in command else "c0ffee\n")

    monkeypatch.setattr(manifest.subprocess, "run", git)
    monkeypatch.setattr(manifest.pathlib.Path, "exists", lambda path: path.name == ".git")
    assert (
        manifest.make_manifest({}, {"num_positives": 3, "name": "x"})["commit"] == "c0ffee+changes"
    )
    root = str(pathlib.Path(__file__).parents[2])
    assert [command[:3] for command in commands if command[0] == "git"] == [["git", "-C", root]] * 2
