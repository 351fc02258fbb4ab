"""Every distinct CNN of the table against its reference, by stored outputs.

`tests/reference/make_cnn_values.py` ran timm and the authors' own code, one picture at a time;
`cnn_cases` says what on. CI runs narrow and shallow networks of each kind, `pytest -m slow` those
of the table.
"""

import cnn_towers as towers
import numpy as np
import pytest
from cnn_cases import CNNS
from parity_summary import cosines, relative_errors

# Of the mean distance between the outputs of different pictures; 1e-3 is the aim.
MAX_ERROR = 5e-5
REDUCED = [name for name, case in CNNS.items() if case.reduced]


def error(name: str, ours: np.ndarray) -> float:
    reference = towers.stored(name)["outputs"]
    assert ours.shape == reference.shape
    found = relative_errors(ours, reference).max()
    print(f"{name}: error {found:.1e}")
    return found


@pytest.mark.parametrize(
    "name",
    [
        # A reduced NASNet still takes long to compile.
        pytest.param(name, marks=pytest.mark.slow if name.startswith("nasnet") else ())
        for name in REDUCED
    ],
)
def test_a_small_network_equals_its_reference(name):
    """All pictures on one canvas, of a colour that no output may show."""
    assert error(name, towers.on_one_canvas(name)) <= MAX_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CNNS if name not in REDUCED])
def test_a_network_of_the_table_equals_its_reference(name):
    assert error(name, towers.on_one_canvas(name)) <= MAX_ERROR


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.999), ("float16", 0.99999)])
@pytest.mark.parametrize("name", ["resnet50_reduced", "convnext_b_reduced", "clip_rn50_reduced"])
def test_short_dtypes_keep_the_direction(name, dtype, least):
    ours = towers.on_one_canvas(name, dtype)
    assert cosines(ours, towers.stored(name)["outputs"]).min() >= least


# One of each way in which a layer looks beyond a map; NASNet takes long to compile.
@pytest.mark.parametrize(
    "name", ["clip_rn50_reduced", "efficientnet_reduced", "superglobal_resnet50_reduced"]
)
def test_a_canvas_changes_nothing(name):
    ours, other = towers.on_one_canvas(name), towers.on_one_canvas(name, outside=0)
    np.testing.assert_array_equal(ours, other)
    number = 3  # odd-sided
    found = relative_errors(np.stack([towers.alone(name, number)] * 2), ours[[number, 0]])
    assert found[0] <= 1e-5
