"""A model that cannot be run is refused by shapes alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilias_jax.config import EmbedConfig
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Preprocessing
from ilias_jax.models.custom import check_model, check_parts, own_code

BUCKETS = EmbedConfig().num_buckets
SHA = "0" * 64
IDS = np.zeros((2, 4), np.int32)


def _images(parameters, pixels, grid):
    return pixels.mean(axis=1) @ parameters["w"] + grid.sum()


def _texts(parameters, tokens):
    return parameters["table"][tokens].mean(axis=1)


def _model(**changes) -> Model:
    good = Model(
        name="mine",
        parameters={"w": np.ones((768, 5), np.float32), "table": np.ones((9, 5), np.float32)},
        preprocessing=Preprocessing(64, 16),
        embed_images=_images,
        embed_texts=_texts,
        tokenize=lambda texts: np.zeros((len(texts), 4), np.int32),
        fingerprint={"sha256": SHA},
    )
    return dataclasses.replace(good, **changes)


def _error(model) -> str:
    with pytest.raises(UserError) as caught:
        check_parts(model, "here")
        check_model(model, "here", BUCKETS, 1.0)
    return str(caught.value)


def test_a_good_model_passes_and_nothing_is_compiled():
    compiled = []

    def listen(name, duration, **kw):
        del duration, kw
        if "backend_compile" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        check_parts(_model(), "here")
        check_model(_model(), "here", BUCKETS, 1.0)
        check_model(_model(embed_texts=None, tokenize=None), "here", BUCKETS, 1.0)
        assert compiled == []
        jax.jit(lambda x: x * 3.25)(1.0)
        assert compiled  # the listener does listen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": None}, "fingerprint is NoneType, not a dict"),
        ({"fingerprint": {}}, 'fingerprint["sha256"] is None, not 64 hexadecimal digits'),
        ({"fingerprint": {"sha256": "ABC"}}, "fingerprint[\"sha256\"] is 'ABC', not 64"),
        (
            {"fingerprint": {"sha256": SHA, "w": np.ones(2)}},
            "is not plain data (Object of type nda",
        ),
        ({"fingerprint": {"sha256": SHA, "w": float("nan")}}, "fingerprint is not plain data"),
        ({"text_fingerprint": {"f": _texts}}, "text_fingerprint is not plain data"),
        ({"preprocessing": (64, 16)}, "preprocessing is tuple, not a Preprocessing"),
        ({"preprocessing": Preprocessing(64.0, 16)}, "preprocessing.resolution is 64.0, not a num"),
        ({"preprocessing": Preprocessing(64, 0)}, "preprocessing.patch_size is 0, not a number"),
        ({"preprocessing": Preprocessing(64, 16, std=(1, 0, 1))}, "std=(1, 0, 1) must be 3 values"),
        (
            {"preprocessing": Preprocessing(64, 16, max_scale=0.5)},
            "max_scale is 0.5, not at least 1",
        ),
        ({"parameters": {"w": [1.0]}}, "parameters['w'][0] is float, not an array"),
        ({"parameters": {"w": np.float32([1, np.nan])}}, "parameters['w'] holds NaN or infinity"),
        ({"parameters": [jnp.array([jnp.inf], "bfloat16")]}, "parameters[0] holds NaN or infinity"),
        ({"embed_images": None}, "embed_images is None, not a function"),
        ({"tokenize": None}, "embed_texts and tokenize belong together"),
        ({"embed_texts": None}, "embed_texts and tokenize belong together"),
    ],
)
def test_parts_that_cannot_be_right_are_named(changes, message):
    found = _error(_model(**changes))
    assert found.startswith("here returned a Model that cannot be run:\n  ")
    assert message in found
    assert "A Model has:" in found


def test_all_problems_are_in_one_message():
    found = _error(_model(fingerprint={}, tokenize=None, preprocessing=None))
    assert found.count("\n  ") >= 3
    for part in ("sha256", "belong together", "not a Preprocessing"):
        assert part in found


def test_something_else_than_a_model_is_refused():
    assert _error({"w": 1}).startswith("here returned dict, not a Model. A Model has:")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, x, g: x @ p["w"], "gives [2, 4, 5] float32, not [2, D]"),
        (lambda p, x, g: (x.mean(axis=1) @ p["w"]).mean(axis=0), "gives [5] float32, not [2, D]"),
        (lambda p, x, g: x.mean(axis=(0, 1))[None] @ p["w"], "gives [1, 5] float32, not [2, D]"),
        (
            lambda p, x, g: _images(p, x, g).astype("bfloat16"),
            "bfloat16; end it with .astype(jnp.f",
        ),
        (lambda p, x, g: (_images(p, x, g), g), "gives tuple, not one array [2, D] float32"),
        (lambda p, x, g: None, "gives NoneType, not one array"),
        (lambda p, x, g: x[:, :, 0], "gives 4 channels for 4 tokens and 16 for 16"),
    ],
)
def test_an_output_of_another_shape_or_type_is_named(function, message):
    found = _error(_model(embed_images=function))
    assert found.startswith("here: embed_images")
    assert message in found


def test_an_exception_while_tracing_is_shown_with_the_shapes_and_their_line():
    def embed_images(parameters, pixels, grid):
        return pixels.reshape(-1, 100) @ parameters["w"]

    found = _error(_model(embed_images=embed_images))
    first, _, third, *_ = found.splitlines()
    assert (
        "embed_images(parameters, [2, 4, 768] float32, [2, 2] int32) raised an exception" in first
    )
    assert __file__ in third
    assert "cannot reshape" in found


def test_a_model_that_looks_at_values_is_told_that_it_is_traced():
    def embed_images(parameters, pixels, grid):
        return pixels[:, : int(grid[0, 0])].mean(axis=1)

    found = _error(_model(embed_images=embed_images))
    assert "while jax.jit would trace it" in found
    assert "ConcretizationTypeError" in found and "int(grid[0, 0])" in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenize": lambda texts: IDS[:1]}, "tokenize of 2 texts gives [1, 4] int32, not [2, L]"),
        (
            {"tokenize": lambda texts: IDS.tolist()},
            "tokenize of 2 texts gives list, not [2, L] int32",
        ),
        (
            {"tokenize": lambda texts: IDS.astype(int)},
            "gives [2, 4] int64; the token ids must be int32",
        ),
        ({"tokenize": lambda texts: texts[9]}, "IndexError: list index out of range"),
        (
            {"embed_texts": lambda p, t: p["table"][t]},
            "embed_texts(parameters, [2, 4] int32) gives [2, 4",
        ),
        (
            {"embed_texts": lambda p, t: _texts(p, t)[:, :3]},
            "gives 3 channels, and embed_images 5; texts are searched among images",
        ),
    ],
)
def test_texts_that_do_not_fit_are_named(changes, message):
    assert message in _error(_model(**changes))


def _their_function(values):
    return values["missing"]


def _message(call) -> str:
    with pytest.raises(UserError) as caught, own_code("model.factory=x raised"):
        call()
    return str(caught.value)


def test_the_traceback_begins_in_their_code():
    first, _, *lines = _message(lambda: _their_function({})).splitlines()
    assert first == "model.factory=x raised:"
    assert lines[0].startswith(f'  File "{__file__}"')
    assert any("in _their_function" in line for line in lines)
    assert lines[-1] == "KeyError: 'missing'"


def test_frames_of_jax_on_the_way_there_are_left_out():
    message = _message(lambda: jax.eval_shape(_their_function, {}))
    inside = message[message.index("_their_function") :]
    assert "KeyError: 'missing'" in inside
    first = next(line for line in message.splitlines() if line.startswith("  File"))
    assert __file__ in first


def test_an_exception_that_never_reaches_their_code_is_shown_whole():
    namespace = {}
    exec(compile("def far():\n    raise ValueError('here')", jax.__file__, "exec"), namespace)
    with pytest.raises(UserError) as caught, own_code("x"):
        namespace["far"]()
    assert "ValueError: here" in str(caught.value)
    assert caught.value.__cause__.args == ("here",)


def test_a_users_mistake_that_their_code_names_passes_as_it_is():
    def call():
        raise UserError("model.checkpoint is missing")

    assert _message(call) == "model.checkpoint is missing"


def test_an_interrupt_is_none_of_this():
    with pytest.raises(KeyboardInterrupt), own_code("x"):
        raise KeyboardInterrupt
