"""The recipe with a model of one's own, through the front door's reading and a whole run."""

import json
import os
import pathlib
import runpy
import subprocess
import sys

import conftest
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from ilias_jax import benchmark
from ilias_jax.config import parse, read_words
from ilias_jax.errors import UserError

# ml_collections loads a recipe in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
ROOT = pathlib.Path(__file__).parents[2]
RECIPE = f"--config={ROOT}/configs/own_model.py"


def _words(world, *more: str) -> list[str]:
    sizes = [f"--config.dataset.world.{k}={v}" for k, v in vars(conftest.SMALL_WORLD).items()]
    return [RECIPE, f"--config.dataset.data_dir={world}", *sizes, *more]


def test_the_recipe_runs_its_own_model_to_a_report(tmp_path, small_world, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the file is found wherever the command is started
    work = epath.Path(tmp_path / "run")
    document = benchmark.run(read_words("x", _words(small_world)), work)
    model = document["model"]
    assert model["name"] == "two convolutions of 64 and 128 channels, untrained"
    assert (model["embedding_dim"], model["resolution"]) == (128, 64)
    assert model["factory"] == "own_model:build"
    assert model["canvas"] == "64 x 64, padded with the mean colour"
    assert list(document["results"]) == ["image_to_image"]
    written = json.loads((work / "report" / "report.json").read_text())
    assert written["model"]["factory_args"] == {"width": 64, "seed": 0}
    # Set on the command line: another model, whose embeddings are not those of the first.
    words = _words(small_world, "--config.model.factory_args.width=8")
    other = benchmark.run(read_words("x", words), work)
    assert other["model"]["embedding_dim"] == 16
    assert other["timings"]["stages"]["embed_images"]["skipped"] == 0
    again = benchmark.run(read_words("x", words), work)
    assert again["timings"]["stages"]["embed_images"]["skipped"] == 8 + 14 + 40
    assert again["results"] == other["results"]


def test_its_network_sees_the_whole_picture():
    """A picture's place in the square is another after a change in its last pixel alone."""
    build = runpy.run_path(str(ROOT / "configs" / "own_model.py"))["build"]
    model = build(resolution=16, width=4)
    pixels = np.zeros((2, 1, 16 * 16 * 3), np.float32)
    pixels[1, 0, -3:] = 5
    out = model.embed_images(model.parameters, jnp.asarray(pixels), jnp.ones((2, 2), jnp.int32))
    assert np.abs(np.asarray(out[0] - out[1])).max() > 1e-3


def test_a_misspelt_argument_is_refused_on_the_command_line(small_world):
    with pytest.raises(
        UserError, match=r"model.factory_args.widht is no key .* mean model.factory_args"
    ):
        read_words("x", _words(small_world, "--config.model.factory_args.widht=8"))
    with pytest.raises(UserError, match="--config.model.factory_args.width=wide"):
        read_words("x", _words(small_world, "--config.model.factory_args.width=wide"))


def test_a_missing_function_and_missing_data_are_in_one_message(tmp_path):
    values = {"dataset": {"data_dir": str(tmp_path / "none")}, "model": {"factory": "no.such:one"}}
    with pytest.raises(UserError) as caught:
        benchmark.run(parse(values), epath.Path(tmp_path / "run"))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("dataset.data_dir: ")
    assert lines[-1].startswith("model.factory: there is no module no on the Python path")


def test_main_shows_a_traceback_of_the_users_code_alone(tmp_path, small_world):
    source = "def build(): return {}['w']"
    (tmp_path / "mine.py").write_text(source)
    more = ["--config.model.factory=mine.py:build", "--config.model.resolution=0"]
    recipe = pathlib.Path(RECIPE.partition("=")[2]).read_text()
    (tmp_path / "recipe.py").write_text(recipe.replace('{"width": 64, "seed": 0}', "{}"))
    words = [f"--config={tmp_path}/recipe.py", *_words(small_world, *more)[1:]]
    result = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: model.factory=mine.py:build")
    for part in ("build raised an exception", "KeyError: 'w'", "Traceback"):
        assert part in result.stderr
    assert f"{ROOT}/ilias_jax" not in result.stderr
