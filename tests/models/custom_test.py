"""Functions named by a recipe: found, called with what they ask for, and wrong ones refused."""

import sys

import pytest

from ilias_jax.config import BenchmarkConfig, parse
from ilias_jax.errors import UserError
from ilias_jax.model import Model
from ilias_jax.models.custom import find_factory, resolve_factory

SOURCE = """
import numpy as np
from ilias_jax.model import Model, Preprocessing
from ilias_jax.model import parameters_sha256

NUMBER = 5


def build(resolution: int = 64, width: int = 8, seed=0) -> Model:
    parameters = {"w": np.random.default_rng(seed).normal(size=(768, width)).astype(np.float32)}
    return Model(
        name="mine",
        parameters=parameters,
        preprocessing=Preprocessing(resolution, 16),
        embed_images=lambda parameters, pixels, grid: pixels.mean(axis=1) @ parameters["w"],
        embed_texts=None,
        tokenize=None,
        fingerprint={"sha256": parameters_sha256(parameters)},
    )


def asks(checkpoint, dtype, text_cleaning, max_scale, name, kind="a"):
    model = build()
    return __import__("dataclasses").replace(
        model, checkpoint=f"{checkpoint} {dtype} {text_cleaning} {max_scale} {name} {kind}"
    )


def takes_all(**options):
    return asks(**{"checkpoint": "c", "dtype": "d", "text_cleaning": "t", "max_scale": 0,
                   "name": "n", **options})


def by_position(width, /):
    return build()


def raises():
    return {}["weights"]


def nothing():
    return build().name
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "models.py").write_text(SOURCE)
    return tmp_path / "models.py"


def build_model(config: BenchmarkConfig) -> Model:
    views, embed = config.views, config.embed
    return resolve_factory(config.model, views.max_scale, embed.num_buckets).load()


def _config(factory, views=None, **model):
    values = {"dataset": {"data_dir": "d"}, "model": {"factory": str(factory), **model}}
    return parse({**values, "views": views or {}})


def _error(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_a_function_is_found_in_a_file_and_in_a_module(file, monkeypatch):
    assert find_factory(f"{file}:build").__name__ == "build"
    monkeypatch.syspath_prepend(file.parent)
    assert find_factory("models:build").__module__ == "models"
    del sys.modules["models"]
    (file.parent / "package").mkdir()
    (file.parent / "package" / "inner.py").write_text(SOURCE)
    assert find_factory("package.inner:build").__module__ == "package.inner"
    monkeypatch.chdir(file.parent)
    assert find_factory("models.py:build").__name__ == "build"


def test_a_file_is_read_anew(file):
    file.write_text(SOURCE.replace("width: int = 8", "width: int = 9"))
    assert build_model(_config(f"{file}:build")).parameters["w"].shape == (768, 9)
    file.write_text(SOURCE.replace("width: int = 8", "width: int = 11"))
    assert build_model(_config(f"{file}:build")).parameters["w"].shape == (768, 11)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("build", "model.factory='build' must be package.module:function or folder/file.py:func"),
        ("models.py:", "must be package.module:function"),
        ("models.py:a.b", "must be package.module:function"),
        ("nowhere.py:build", "there is no file nowhere.py (from "),
        (
            "no_such_package.models:build",
            "there is no module no_such_package on the Python path; in",
        ),
        ("os.nowhere:build", "there is no module os.nowhere on the Python path"),
        ("a folder/models:build", "'a folder/models' is neither a module's dotted name nor a .py"),
        (
            "models.py:biuld",
            "biuld does not exist in models.py; did you mean build? Its functions: ",
        ),
        (
            "models.py:NUMBER",
            "NUMBER is no function in models.py; Its functions: asks, build, by_p",
        ),
    ],
)
def test_a_function_that_is_not_there_is_named(file, monkeypatch, reference, message):
    monkeypatch.chdir(file.parent)
    assert message in _error(find_factory, reference)


def test_a_module_that_their_own_code_misses_is_shown_with_its_traceback(file):
    file.write_text("import numpy\nimport beside_it\n")
    message = _error(find_factory, f"{file}:build")
    assert (
        f"running {file} raised an exception (modules beside it are found with PYTHONPATH="
        in message
    )
    assert f'File "{file}", line 2' in message
    assert "ModuleNotFoundError: No module named 'beside_it'" in message
    assert "importlib" not in message


def test_so_is_a_module_that_a_module_misses(file, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)
    (file.parent / "half_a_module.py").write_text("import beside_it\n")
    message = _error(find_factory, "half_a_module:build")
    assert "importing half_a_module raised an exception" in message and "line 1" in message


def test_a_syntax_error_is_shown_with_its_line(file):
    file.write_text("def build(:\n")
    message = _error(find_factory, f"{file}:build")
    assert "SyntaxError" in message and "def build(:" in message


def test_arguments_reach_the_function_and_the_fingerprint(file):
    usual = build_model(_config(f"{file}:build"))
    assert usual.parameters["w"].shape == (768, 8)
    assert usual.preprocessing.resolution == 64  # an empty model.resolution leaves the default
    other = build_model(_config(f"{file}:build", factory_args={"width": 16}, resolution=32))
    assert other.parameters["w"].shape == (768, 16)
    assert other.preprocessing.resolution == 32
    assert other.fingerprint["factory"] == "models:build"
    assert other.fingerprint["factory_args"] == {"width": 16}
    assert "resolution" not in other.fingerprint  # the preprocessing has it
    assert other.fingerprint["sha256"] != usual.fingerprint["sha256"]


def test_two_calls_never_share_embeddings_though_their_weights_are_equal(file):
    """`kind` changes nothing that the fingerprint of the function's own would show."""
    calls = [{"factory_args": {"kind": kind}} for kind in "ab"]
    calls += [{"dtype": "bfloat16"}]
    found = [
        build_model(_config(f"{file}:asks", checkpoint="x", name="n", **call)).image_fingerprint()
        for call in calls
    ]
    assert found[0] != found[1] and found[0] != found[2]


def test_what_a_function_asks_for_comes_from_the_configuration(file):
    config = _config(
        f"{file}:asks",
        checkpoint="w.npz",
        name="mine",
        dtype="bfloat16",
        text_cleaning="lower",
        views={"scales": (1.0,)},
    )
    model = build_model(config)
    assert model.checkpoint == "w.npz bfloat16 lower 1.0 mine a"
    assert model.fingerprint["dtype"] == "bfloat16"
    assert "checkpoint" not in model.fingerprint  # a moved file embeds nothing again
    assert model.text_fingerprint == {"text_cleaning": "lower"}


def test_a_function_of_any_keywords_gets_the_arguments_alone(file):
    model = build_model(_config(f"{file}:takes_all", factory_args={"kind": "b"}))
    assert model.checkpoint == "c d t 0 n b"


@pytest.mark.parametrize(
    ("function", "model", "message"),
    [
        (
            "build",
            {"factory_args": {"widht": 4}},
            "got an unexpected keyword argument 'widht'. It ",
        ),
        (
            "asks",
            {"name": "n"},
            "missing a required argument: 'checkpoint'. It is called with name, dtype",
        ),
        # What Python says of it differs between versions.
        ("by_position", {"factory_args": {"width": 4}}, "called with width and takes (width, /)"),
        (
            "build",
            {"factory_args": {"resolution": 4}},
            "factory_args.resolution is given by model.res",
        ),
        (
            "build",
            {"factory_args": {"max_scale": 2}},
            "factory_args.max_scale is given by views.scal",
        ),
        ("build", {"dtype": "bfloat16"}, "model.dtype='bfloat16' would have no effect: "),
        ("build", {"tokenizer": "t"}, "takes (resolution=64, width=8, seed=0), without tokenizer"),
        ("takes_all", {"tokenizer": "t"}, "takes (**options), without tokenizer"),
        ("nothing", {}, "models.py:nothing returned str, not a Model. A Model has:"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(file, function, model, message):
    assert message in _error(build_model, _config(f"{file}:{function}", **model))


def test_a_builtin_that_shows_no_signature_is_refused():
    assert "builtins:dict has no signature" in _error(build_model, _config("builtins:dict"))


def test_an_exception_of_the_function_is_shown_with_its_traceback(file):
    message = _error(build_model, _config(f"{file}:raises"))
    assert message.startswith(f"model.factory={file}:raises raised an exception:\nTraceback")
    assert message.splitlines()[2].startswith(f'  File "{file}", line')
    assert message.endswith("KeyError: 'weights'")


def test_a_hash_of_the_weights_is_demanded(file):
    file.write_text(SOURCE.replace('{"sha256": parameters_sha256(parameters)}', '{"name": "mine"}'))
    message = _error(build_model, _config(f"{file}:build"))
    assert 'fingerprint["sha256"] is None, not 64 hexadecimal digits: it must identify' in message
    assert "model.parameters_sha256(parameters) or model.file_sha256(path)" in message
