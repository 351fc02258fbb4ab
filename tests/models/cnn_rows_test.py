"""Every row of the table that is a CNN, by its name from a full-size file to a report."""

import json
import pathlib
import re

import clip_vocabulary
import cnn_towers
import graph_weights
import numpy as np
import pytest
import safetensors.numpy
from cnn_cases import CNNS, CnnCase
from etils import epath
from graph_cases import GRAPHS, REDUCED
from graph_towers import stored

from ilias_jax import benchmark
from ilias_jax.config import parse
from ilias_jax.models.registry.registry import VARIANTS

pytestmark = pytest.mark.slow
ROWS = [name for name, row in VARIANTS.items() if row.architecture.image.whole]
# open_clip's own layers behind timm's network.
HEAD = (
    (r"^(?!head\.(fc|pre))", "visual.trunk."),
    (r"^head\.pre_logits\.fc\.", "visual.head.mlp.fc1."),
)


def case_of(name: str) -> CnnCase:
    return next(
        case for case in CNNS.values() if not case.reduced and name in (case.row, *case.shared)
    )


def both_towers(name: str, image: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """open_clip's file: the text tower at full size, and its names of the image tower."""
    text = next(
        case
        for key, case in GRAPHS.items()
        if case.modality == "text" and case.row == name and not key.endswith(REDUCED)
    )
    layout = json.loads(stored(text.name)["layout"].tobytes())
    texts = graph_weights.draw({key: tuple(shape) for key, shape in layout.items()})
    if not any(key.startswith("visual.") for key in image):
        last = "mlp.fc2" if "head.pre_logits.fc.weight" in image else "proj"
        names = (*HEAD, (r"^head\.fc\.", f"visual.head.{last}."))
        del image["head.fc.bias"]
        for pattern, replacement in names:
            image = {re.sub(pattern, replacement, key): value for key, value in image.items()}
    return texts | image


@pytest.mark.parametrize("name", ROWS)
def test_a_row_runs_from_a_file(name: str, small_world, tmp_path: pathlib.Path) -> None:
    arrays, towers = cnn_towers.arrays(case_of(name)), VARIANTS[name].towers
    model = {"name": name, "checkpoint": str(tmp_path / "file"), "towers": towers}
    if towers == "both":
        arrays = both_towers(name, arrays)
        (tmp_path / "vocabulary").write_bytes(clip_vocabulary.vocabulary())
        model["tokenizer"] = str(tmp_path / "vocabulary")
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "file")
    config = parse(
        {
            "dataset": {"data_dir": str(small_world)},
            "model": {**model, "resolution": 160},
            "embed": {"num_buckets": 1, "batch_size_per_device": 8},
            "metrics": {"num_resamples": 40},
            "report": {"gallery_queries": 0},
        }
    )
    document = benchmark.run(config, epath.Path(tmp_path) / "run")
    assert document["model"]["name"] == name
    assert document["model"]["embedding_dim"] == VARIANTS[name].architecture.embedding_dim
    assert ("text_to_image" in document["results"]) == (towers == "both")
