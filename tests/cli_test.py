"""What a user sees of main.py and `ilias-jax`: one message, exit code 1, no traceback."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from ilias_jax import cli
from ilias_jax.config import WorldConfig

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import main as program  # noqa: E402  main.py lies beside the package, not in it

# ml_collections loads a recipe in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
SIGLIP = f"--config={ROOT}/configs/siglip_l384.py"
CACHE = f"{os.environ['ILIAS_JAX_CACHE']}/storage.googleapis.com/"
DEMO = f"--config={ROOT}/configs/demo.py"
CASES = {
    "no weights and no data": (
        [SIGLIP],
        [
            f"model.checkpoint: {CACHE}big_vision/siglip/webli_en_l16_384_63634585.npz does not exis",
            "-Lo " + CACHE + "big_vision/siglip/webli_en_l16_384_63634585.npz https://storage.goog",
            f"model.tokenizer: {CACHE}t5-data/vocabs/cc_en.32000/sentencepiece.model does not exist",
            "dataset.data_dir: image shards are looked for in datasets/ilias/ilias/1.0.0",
        ],
    ),
    "misspelt key": ([DEMO, "--config.search.kk=5"], ["search.kk", "did you mean search.k?"]),
    "misspelt section": ([DEMO, "--config.serach.k=5"], ["serach.k", "did you mean search.k?"]),
    "misspelt flag": ([DEMO, "--wrkdir=x"], ["wrkdir", "workdir"]),
    "no number": ([DEMO, "--config.search.k=abc"], ["--config.search.k=abc", "'abc'"]),
    "out of range": ([DEMO, "--config.search.k=0"], ["search.k=0", ">= 1"]),
    "a scale that is none": (
        [DEMO, "--config.views.scales=0.707,big"],
        ["views.scales", "'0.707,big'", "not float"],
    ),
    "a rotation between": (
        [DEMO, "--config.views.rotations=0,45"],
        ["views.rotations=(0, 45)", "some of 0, 90, 180, 270"],
    ),
    "unknown model": ([DEMO, "--config.model.name=tinny"], ["tinny", "did you mean tiny?"]),
    "no such recipe": (["--config=nowhere.py"], ["nowhere.py cannot be read", "configs/demo.py"]),
    "no such recipe and a key": (
        ["--config=nowhere.py", "--config.search.k=5"],
        ["nowhere.py cannot be read", "configs/demo.py"],
    ),
    "no recipe": ([], ["--config is missing", "configs/demo.py"]),
    "bad argument": ([DEMO + ":x"], ["demo.py:x", "a world's seed"]),
    "bad subset": ([SIGLIP + ":min"], ["dataset.subset='min'", "'full', 'mini'"]),
    "stray word": ([DEMO, "config.search.k=5"], ["unknown arguments: config.search.k=5", "--"]),
    "workdir": ([DEMO, "--workdir=/proc/none"], ["/proc/none cannot be written", "--workdir"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_gives_one_message(tmp_path, case, monkeypatch, capsys):
    words, expected = CASES[case]
    monkeypatch.chdir(tmp_path)  # where there are neither weights nor data
    with pytest.raises(SystemExit) as caught:
        cli.run(program.main, words)
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert all(part in message for part in expected), message


RECIPES = {
    "x = 1\n": "has no attribute 'get_config'; a recipe has get_config()",
    "def get_config(:\n": "SyntaxError: invalid syntax",
    "import nothing_there\n": "No module named 'nothing_there'; line 1",
    "def get_config():\n    return 3\n": "'int' object has no attribute 'to_dict'",
    "def get_config():\n    return None.x\n": "'NoneType' object has no attribute 'x'; line 2",
}


@pytest.mark.parametrize("override", [(), ("--config.search.k=5",)])
@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_that_is_none_gives_one_message(tmp_path, text, override, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # what the last recipe had
    recipe = tmp_path / "recipe.py"
    recipe.write_text(text)
    with pytest.raises(SystemExit):
        cli.run(program.main, [f"--config={recipe}", *override])
    found = capsys.readouterr().err
    assert found.startswith(f"error: --config {recipe} cannot be read: ") and RECIPES[text] in found


def test_an_empty_shard_folder_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty" / "ilias" / "1.0.0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.run(program.main, [DEMO, "--config.dataset.data_dir=empty"])
    expected = "empty/ilias/1.0.0, which has no dataset_info.json"
    assert expected in capsys.readouterr().err


def _start(folder: pathlib.Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )


def test_main_runs_as_a_program(tmp_path):
    """Hosts are joined before JAX is used, so a process of its own must say that they are not."""
    result = _start(tmp_path, str(ROOT / "main.py"), DEMO, "--distributed")
    assert result.returncode == 1
    assert result.stderr.startswith("error: --distributed: ") and "--coordinator" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_runs_as_a_program(tmp_path):
    done = _start(tmp_path, "-m", "ilias_jax.cli", "models", "tiny")
    assert "image tower: width" in done.stdout, done.stderr


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ilias_jax.cli", "models"]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, b"")


def test_an_interrupt_of_all_processes_is_one_line(tmp_path):
    # Shells let what runs in their background ignore interrupts; Python then ignores them too.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"from ilias_jax import cli; cli.main(['world', '--output={tmp_path}/world'])"
    options = {"stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", code], **options) as process:
        while not any(tmp_path.glob(".world.*.tmp/yfcc100m/*.tar")):
            assert process.poll() is None  # its workers begin to render
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT
    assert told == "interrupted; run the same command again to go on\n"
    assert list(tmp_path.iterdir()) == []


def test_flags_of_other_hosts_need_that_there_are_any(capsys):
    for words, message in {
        ("--process_id=1",): "need --distributed",
        ("--distributed", "--coordinator=host"): "--coordinator=host; HOST:PORT is expected",
        ("--distributed", "--num_processes=2", "--process_id=2"): "--process_id=2; 0 to",
    }.items():
        with pytest.raises(SystemExit):
            cli.run(program.main, [DEMO, *words])
        assert message in capsys.readouterr().err


def test_a_taken_port_is_named(capsys):
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        words = [f"--coordinator=localhost:{port}", "--num_processes=2", "--process_id=0"]
        with pytest.raises(SystemExit):
            cli.run(program.main, [DEMO, "--distributed", *words])
    assert f"port {port} cannot be opened" in capsys.readouterr().err


def test_a_host_that_never_comes_is_told_by_those_that_wait(tmp_path):
    code = "from ilias_jax import cli; cli._SECONDS_TO_JOIN = 1; cli.join_hosts({!r}, 2, 0)"
    with socket.socket() as free:
        free.bind(("", 0))
        where = f"localhost:{free.getsockname()[1]}"
    result = subprocess.run(
        [sys.executable, "-c", code.format(where)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 1
    told = f"error: --distributed: process 0 of 2 has waited 1 s for the others at {where}"
    assert result.stderr.startswith(told)


def test_devices_that_are_not_there_are_named(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "ilias_jax.cli", "models"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "nope"},
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: JAX_PLATFORMS=nope: JAX has no such devices here")


def test_checks_that_the_program_is_not_written_for_are_not_followed(caplog):
    jax.config.update("jax_numpy_rank_promotion", "raise")
    cli.prepare_jax()
    assert jax.config.jax_numpy_rank_promotion == "allow"
    assert "JAX_NUMPY_RANK_PROMOTION=raise is not followed" in caplog.text


def test_world_makes_a_dataset(tmp_path, capsys, monkeypatch):
    seed, *_ = WorldConfig.__init__.__defaults__
    monkeypatch.setattr(WorldConfig.__init__, "__defaults__", (seed, 2, 2, 2, 5000, 2))
    words = ["--output", str(tmp_path / "w"), "--distractors", "12", "--seed", "5"]
    cli.main(["world", *words])
    assert "seed 5, 12 distractors" in capsys.readouterr().out
    assert (tmp_path / "w" / "ilias" / "1.0.0" / "dataset_info.json").exists()


def test_world_does_not_write_over_a_folder(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["world", "--output", str(tmp_path)])
    expected = f"error: --output {tmp_path} exists; name a folder that does not\n"
    assert capsys.readouterr().err == expected


def test_help_names_the_flags(capsys):
    with pytest.raises(SystemExit):
        program.main(["--help"])
    text = capsys.readouterr().out
    assert "--workdir" in text and "--config" in text and "--distributed" in text


def test_results_go_to_a_folder_of_the_recipes_name():
    assert cli.default_workdir("configs/siglip_l384.py:mini") == "runs/siglip_l384"


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["wrld"])
    assert "invalid choice: 'wrld'" in capsys.readouterr().err


def test_flags_of_a_recipe_are_refused_where_none_is_read(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["models", "--config.search.k=5"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --config.search.k=5" in capsys.readouterr().err


def test_the_summary_says_what_the_database_lacks():
    counts = {"num_positives": 4715, "num_distractors": 4_999_998, "num_rejected": 1}
    document = {"results": {}, "dataset": {**counts, "num_missing_distractors": 1}}
    (line, _) = cli.summarize(document, "w").splitlines()
    assert line == "database: 4,715 positives, 4,999,998 distractors, 1 rejected, 1 missing"


def test_compiled_programs_are_kept_beside_the_model_files_but_not_on_cpus(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    try:
        cli.keep_compilations()
        assert jax.config.jax_compilation_cache_dir == before
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        cli.keep_compilations()
        folder = os.environ["ILIAS_JAX_CACHE"] + "/compilations"
        assert jax.config.jax_compilation_cache_dir == folder
        jax.config.update("jax_compilation_cache_dir", before)
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
        cli.keep_compilations()
        assert jax.config.jax_compilation_cache_dir == before
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
