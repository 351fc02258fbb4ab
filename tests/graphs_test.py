"""Every distinct transformer of the table against its reference, by stored outputs.

`scripts/make_graph_values.py` ran timm, open_clip and the authors' own code; `graph_cases` says
what on. CI runs the first blocks of each family at its smaller size, `pytest -m slow` everything.
"""

import graph_towers as towers
import numpy as np
import pytest
from graph_cases import GRAPHS, REDUCED, GraphCase
from parity_summary import where_they_part

MIN_COSINE = {"float32": 0.99999, "bfloat16": 0.999}
MAX_ERROR = 1e-3  # of the mean distance between the outputs of different inputs
MAX_LAYER_ERROR = 1e-4
MAX_MEAN_COSINE = 0.95


def cosines(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(reference, axis=1)
    return (ours * reference).sum(axis=1) / norms


def relative_errors(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distance of each output from the reference's over the mean distance of different outputs."""
    distance = np.linalg.norm(reference[:, None] - reference[None], axis=2)
    typical = distance[~np.eye(len(reference), dtype=bool)].mean()
    return np.linalg.norm(ours - reference, axis=1) / typical


def outputs(case: GraphCase, activation: str) -> np.ndarray:
    run = towers.image_outputs if case.modality == "image" else towers.text_outputs
    return run(case, activation)


def difference(case: GraphCase, activation: str) -> str:
    """How a graph differs from its reference, and from which layer on; "" if it does not."""
    stored = towers.stored(case.name)
    reference = stored[f"{case.modality}_{activation}"]
    ours = outputs(case, activation)
    assert ours.shape == reference.shape
    errors, cosine = relative_errors(ours, reference), cosines(ours, reference)
    largest = np.abs(ours - reference).max()
    print(
        f"{case.name} {activation}: error {errors.max():.1e}, cosine {cosine.min():.7f}, largest "
        f"difference {largest:.1e}"
    )
    if errors.max() <= MAX_ERROR and cosine.min() >= MIN_COSINE["float32"]:
        return ""
    layers = [str(name) for name in stored["layers"]]
    trace = towers.trace(case, activation, layers)
    expected = stored[f"{case.modality}_trace_{activation}"]
    return (
        f"error {errors.max():.1e} of the distance between different inputs, cosine "
        f"{cosine.min():.7f}; {where_they_part(layers, trace, expected, MAX_LAYER_ERROR)}"
    )


# The smaller size of each family; what is left out differs from one of these in sizes alone.
QUICK = (
    *("augreg_b16", "deit3_b16", "dino_b16", "recall_b16", "hier_s16", "clip_b16"),
    *("eva02_b14", "eva02_clip_b16", "pe_b16", "dinov2_b14", "dinov2_b14_reg", "dinov3_b16"),
    *("unicom_b16", "clip_b_text", "rn50_text", "pe_text"),
)
RUNS = [
    pytest.param(
        case.name,
        activation,
        marks=() if case.name in [name + REDUCED for name in QUICK] else pytest.mark.slow,
    )
    for case in GRAPHS.values()
    for activation in case.activations
]


@pytest.mark.parametrize(("name", "activation"), RUNS)
def test_a_graph_equals_its_reference(name, activation):
    assert not difference(GRAPHS[name], activation)
