"""The drawn weights of other people's models, and the stored values that they were run with."""

import hashlib
import json

import graph_weights
import numpy as np
import pytest
from graph_cases import END, GRAPHS, START, GraphCase, Texts
from graph_weights import draw

MAX_MEAN_COSINE = 0.95
MIN_CHANGE = 4e-5  # of the distance between outputs; twice the tolerance of the towers
FEW = 1_000_000  # elements of an array that is drawn again here
STORED = [case for case in GRAPHS.values() if case.path.exists()]
WIDTH = 64
LAYOUT = {
    "cls_token": (1, 1, WIDTH),
    "pos_embed": (1, 5, WIDTH),
    "patch_embed.proj.weight": (WIDTH, 3, 4, 4),
    "blocks.0.norm1.weight": (WIDTH,),
    "blocks.0.norm1.bias": (WIDTH,),
    "blocks.0.attn.qkv.weight": (3 * WIDTH, WIDTH),
    "blocks.0.attn.qkv.bias_mask": (3 * WIDTH,),
    "blocks.0.ls1.gamma": (WIDTH,),
    "blocks.0.mlp.fc1.weight": (4 * WIDTH, WIDTH),
    "blocks.0.mlp.fc2.weight": (WIDTH, 4 * WIDTH),
    "feature.1.running_var": (WIDTH,),
    "feature.1.num_batches_tracked": (),
    "rope_embed.periods": (16,),
    "text_projection": (WIDTH, 2 * WIDTH),
    "logit_scale": (),
}


def spread(array: np.ndarray) -> float:
    """Standard deviation, in units of one over the root of the number of inputs."""
    return float(array.std() * np.prod(array.shape[1:]) ** 0.5)


def test_the_bits_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for name, array in draw(LAYOUT).items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    assert digest.hexdigest() == "bced645e4a855fef5efcdb3594ad9a03acc408c9d0f4e68ada4fb9a557588147"


def test_each_array_is_drawn_by_the_rule_of_its_name():
    arrays = draw(LAYOUT)
    assert arrays.keys() == LAYOUT.keys()
    assert {name: array.shape for name, array in arrays.items()} == LAYOUT
    assert abs(arrays["blocks.0.norm1.weight"].mean() - 1) < 0.15
    assert abs(arrays["blocks.0.norm1.bias"].mean()) < 0.1
    assert abs(arrays["blocks.0.ls1.gamma"].mean() - 0.6) < 0.1
    assert arrays["blocks.0.ls1.gamma"].min() > 0.2
    assert arrays["feature.1.running_var"].min() > 0.02
    assert abs(spread(arrays["patch_embed.proj.weight"]) - 2 / 16) < 0.01
    assert abs(spread(arrays["blocks.0.mlp.fc1.weight"]) - 1.5) < 0.1
    assert abs(spread(arrays["blocks.0.mlp.fc2.weight"]) - 1) < 0.1
    assert abs(spread(arrays["text_projection"].T) - 1) < 0.1
    assert abs(arrays["pos_embed"].std() - 0.7 / 16) < 0.01


def test_of_a_joined_projection_queries_and_keys_are_sharper_than_values():
    joined = np.split(draw(LAYOUT)["blocks.0.attn.qkv.weight"], 3)
    assert np.allclose([spread(part) for part in joined], [1.5, 1.5, 1], atol=0.1)


def test_what_a_reference_does_not_learn_is_as_it_sets_it():
    arrays = draw(LAYOUT)
    mask = arrays["blocks.0.attn.qkv.bias_mask"].reshape(3, WIDTH)
    assert (mask == [[1], [0], [1]]).all()
    assert arrays["feature.1.num_batches_tracked"].dtype == np.int64
    periods = arrays["rope_embed.periods"]
    assert not (periods.view(np.uint32) & 0xFFFF).any()  # what bfloat16 can hold
    assert np.allclose(periods, 100 ** (np.arange(16) / 16), rtol=2**-8)


def test_another_seed_and_another_name_give_other_arrays():
    ours, theirs = draw({"a.weight": (8, 8), "b.weight": (8, 8)}).values()
    (seeded,) = draw({"a.weight": (8, 8)}, seed=2).values()
    assert (ours != theirs).any() and (ours != seeded).any()


def test_a_name_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="relative_position_table"):
        draw({"relative_position_table": (3, 3)})


def test_texts_range_from_an_empty_one_to_a_full_one():
    tokens = Texts(32).tokens()
    ends = (tokens == END).argmax(axis=1)
    assert (tokens[:, 0] == START).all() and ends[0] == 1 and ends[-1] == 31
    assert (np.diff(ends) > 0).all()
    for row, end in zip(tokens, ends, strict=True):
        assert not row[end + 1 :].any() and (row[1:end] > 0).all() and (row[1:end] < START).all()


def test_every_case_in_its_reduced_form_has_values():
    assert not [name for name, case in GRAPHS.items() if case.reduced and not case.path.exists()]


def stored(case: GraphCase) -> dict[str, np.ndarray]:
    with np.load(case.path, allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize("case", STORED, ids=lambda case: case.name)
def test_the_drawn_weights_are_those_of_the_reference(case):
    """Where this fails, a generator of random numbers changed, and no tower."""
    values = stored(case)
    layout = {name: tuple(shape) for name, shape in json.loads(values["layout"].tobytes()).items()}
    prints = dict(zip(layout, values[f"{case.modality}_weights"], strict=True))
    few = {name: shape for name, shape in layout.items() if np.prod(shape) < FEW}
    for name, array in draw(few).items():
        np.testing.assert_array_equal(graph_weights.fingerprint(array), prints[name], name)


@pytest.mark.parametrize("case", STORED, ids=lambda case: case.name)
def test_the_references_outputs_of_different_inputs_differ(case):
    """Random networks easily give every input the same vector, and then all would be equal."""
    values = stored(case)
    for activation in case.activations:
        vectors = values[f"{case.modality}_{activation}"]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert (unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean() < MAX_MEAN_COSINE
        trace = values[f"{case.modality}_trace_{activation}"]
        assert trace.shape[:2] == (len(vectors), len(values["layers"]))


@pytest.mark.parametrize(
    "case", [case for case in STORED if len(case.activations) > 1], ids=lambda case: case.name
)
def test_the_other_activation_would_be_noticed(case):
    first, second = (stored(case)[f"{case.modality}_{name}"] for name in case.activations)
    distance = np.linalg.norm(first[:, None] - first[None], axis=2)
    typical = distance[~np.eye(len(first), dtype=bool)].mean()
    assert np.linalg.norm(first - second, axis=1).min() > MIN_CHANGE * typical
