"""`ilias-jax plan`: its flags, its files and its messages."""

import json
import os
import pathlib
import subprocess
import sys

import plan_case as case
import pytest
from etils import epath

from ilias_jax import cli
from ilias_jax.plan import calibrate, constants
from ilias_jax.plan.recipe import read_recipe
from ilias_jax.recipes import read_words

# ml_collections loads a recipe in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
ROOT = pathlib.Path(__file__).parents[1]
DEMO = f"--config={ROOT}/configs/demo.py"


@pytest.fixture
def measured(tmp_path) -> pathlib.Path:
    """Constants as if measured for the demo."""
    recipe = read_recipe(read_words("x", [DEMO]))
    path = tmp_path / "constants.json"
    case.make_calibration(recipe).save(epath.Path(path))
    return path


def message(capsys, *words: str) -> str:
    """What a user is told who does something wrong."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", *words])
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_constants_of_another_machine_need_no_measurement(measured, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibrate, "measure", None)
    output = tmp_path / "deep" / "plan.json"
    cli.main(["plan", DEMO, f"--constants={measured}", f"--output={output}", "--devices=4"])
    printed = capsys.readouterr().out
    assert "mesh: 4 x cpu" in printed and "machine: platform abacus" in printed
    assert "does not fit: disk" not in printed
    made = json.loads(output.read_text())
    assert made["num_devices"] == 4
    assert made["free_disk_bytes"] is None


def test_what_is_measured_is_saved_and_planned_with(tmp_path, capsys, monkeypatch):
    asked = []

    def measure(recipe, mesh, folder, seconds, tell):
        asked.append((recipe.config.search.k, mesh.size, folder, seconds))
        tell("beads")
        return case.make_calibration(recipe)

    monkeypatch.setattr(calibrate, "measure", measure)
    path = tmp_path / "c.json"
    words = [f"--folder={tmp_path}", "--calibrate_seconds=3", f"--save_constants={path}"]
    cli.main(["plan", DEMO, "--config.search.k=50", *words])
    assert asked == [(50, 8, tmp_path, 3.0)]
    found = capsys.readouterr()
    assert "measuring: beads" in found.err
    assert "k=50" in found.out
    config = read_words("x", [DEMO, "--config.search.k=50"])
    assert constants.load(epath.Path(path), config).constants == case.CONSTANTS


def test_the_network_is_the_users(measured, tmp_path):
    seconds = []
    for rate in (1, 10):
        output = tmp_path / "plan.json"
        words = [f"--constants={measured}", f"--network_mb_s={rate}", f"--output={output}"]
        cli.main(["plan", DEMO, *words])
        stages = json.loads(output.read_text())["plans"]["mini"]["stages"]
        seconds.append(stages["download"]["seconds"])
    assert seconds[0] == pytest.approx(10 * seconds[1])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "error: --config is missing; for example --config configs/demo.py\n"),
        (["--config", "nowhere.py"], "--config nowhere.py cannot be read; for example --config"),
        ([DEMO, "--config.serach.k=5"], "serach.k is no key of the config; did you mean search.k?"),
        ([DEMO, "--calibrate_secs=5"], "calibrate_secs"),
        ([DEMO, "word"], "unknown arguments: word; flags begin with --"),
        ([DEMO, "--config.model.name=tinny"], "tinny is no model (model.name); did you mean tiny?"),
        ([DEMO, "--devices=0"], "--devices 0 must be at least 1"),
        (
            [DEMO, "--devices=6", "--config.mesh.model_partitions=4"],
            "--devices 6 must be a multiple of mesh.model_partitions=4",
        ),
        (
            [DEMO, "--config.mesh.model_partitions=3"],
            "mesh.model_partitions=3 must divide the 8 devices",
        ),
        ([DEMO, "--calibrate_seconds=0"], "--calibrate_seconds 0.0 must be above 0"),
        ([DEMO, "--network_mb_s=-1"], "--network_mb_s -1.0 must be above 0"),
        ([DEMO, "--folder=/proc/none"], "folder /proc/none cannot be written"),
        ([DEMO, "--folder=gs://bucket/x"], "--folder gs://bucket/x: a local folder is measured"),
        ([DEMO, "--output=/proc/none/plan.json"], "name another with --output"),
        ([DEMO, "--save_constants=/proc/none/c.json"], "name another with --save_constants"),
        ([DEMO, "--constants=nowhere.json"], "--constants nowhere.json cannot be read"),
        (
            [DEMO, "--constants=a.json", "--save_constants=b.json"],
            "--save_constants is for what is measured; with --constants nothing is",
        ),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_measured(
    words, expected, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(calibrate, "measure", None)
    monkeypatch.chdir(tmp_path)
    found = message(capsys, *words)
    assert found.startswith("error: ") and expected in found


def test_constants_of_another_recipe_are_refused(measured, capsys):
    found = message(capsys, DEMO, "--config.search.k=5", f"--constants={measured}")
    assert "search.k: measured with 1000, asked for 5" in found


def test_other_commands_still_refuse_what_they_do_not_know(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["models", "--config.search.k=5"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --config.search.k=5" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_is_planned_on_this_machine(tmp_path):
    words = [DEMO, f"--folder={tmp_path}", "--calibrate_seconds=5"]
    done = subprocess.run(
        [sys.executable, "-m", "ilias_jax.cli", "plan", *words, f"--output={tmp_path}/plan.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stages = json.loads((tmp_path / "plan.json").read_text())["plans"]["demo"]["stages"]
    # On any machine that runs the tests: seconds to minutes.
    assert 1 < stages["embed"]["seconds"] < 600
    assert 0.01 < stages["search exact"]["seconds"] < 60
