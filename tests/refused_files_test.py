"""What the system refuses, outputs that are inputs, and paths as people give them, by command."""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys

import color_world
import finished_run
import numpy as np
import official_case
import pytest
import run_fixture
from etils import epath

from ilias_jax import benchmark, cli
from ilias_jax.config import path_flag
from ilias_jax.search.adapter import Adapter

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import main as program  # noqa: E402  main.py lies beside the package, not in it

# Every file of the folder below that a command reads or writes is one of its words.
COMMANDS = {
    "evaluate": "--similarities lists.json --ids . --taxonomy misc/taxonomy.json --output NEW.json",
    "compare": "a.json b.json --resamples 50 --permutations 9 --output NEW.json",
    "check": "--data_dir data --allow unchecked_distractors,missing_inventories --output NEW.json",
    "search": "--queries features_image_queries.hdf5 --positives features_positives.hdf5 "
    "--distractors features_distractors_00000.hdf5 --selected_ids selected.txt --adapter "
    "adapter.safetensors --ids . --output NEW.json",
    "adapt": "--features features_positives.hdf5 --info info.csv --epochs 1 --batch_size 2 --dim 4 "
    "--output NEW.safetensors",
    "export": "--workdir run --output NEW",
}
FLAGS = {
    **{"ids": "folder", "data_dir": "folder", "workdir": "folder", "output": "output"},
    **dict.fromkeys(("similarities", "taxonomy", "queries", "positives", "distractors"), "file"),
    **dict.fromkeys(("selected_ids", "adapter", "features", "info"), "file"),
}


# Outputs of these names are links to inputs, which may have any name.
LINKS = {
    "ids.json": "selected.txt",
    "features.safetensors": "features_positives.hdf5",
    "info.safetensors": "info.csv",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Inputs of all commands."""
    folder = tmp_path_factory.mktemp("refused")
    official_case.write(folder)
    finished_run.finish(folder)
    Adapter(*official_case.adapter()).save(folder / "adapter.safetensors")
    for seed, name in ((1, "a.json"), (2, "b.json")):
        (folder / name).write_text(json.dumps(run_fixture.document(seed)))
    positives = official_case.ids()["positives"]
    (folder / "info.csv").write_text("".join(f"{name},{len(name)},0\n" for name in positives))
    with contextlib.chdir(folder):
        words = COMMANDS["search"].replace("NEW", "lists").split()
        cli.main(["search", *words[:6], *words[-2:]])
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    """The folder, which is the current one and keeps all that was in it, byte by byte."""
    monkeypatch.chdir(folder)
    before = _content(folder)
    yield folder
    assert _content(folder) == before


def _content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def full_disk(num_bytes):
    """No file may grow longer, as on a disk that is nearly full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def refused(capsys, command, words):
    """The message of a command that ends with one."""
    with pytest.raises(SystemExit) as caught:
        cli.main([command, *map(str, words)])
    assert caught.value.code in (1, 2)  # argparse's own is 2
    return capsys.readouterr().err


def words_of(command, output):
    return COMMANDS[command].replace("NEW", str(output)).split()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_written_is_one_line(here, command, tmp_path, capsys):
    suffix = pathlib.Path(words_of(command, "NEW")[-1]).suffix
    (tmp_path / "file").touch()
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"device{suffix}")  # /dev/null would go for all if the check failed
    names = ("file/new", "device", "folder", "n" * 300)
    for name in names if suffix else names[:2]:
        message = refused(capsys, command, words_of(command, tmp_path / name))
        assert message.startswith("error: ") and "--output" in message, message
        assert message.count("\n") == 1
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == sorted(["file", f"folder{suffix}", f"device{suffix}"])
    assert (tmp_path / f"device{suffix}").is_fifo()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(here, command, tmp_path, capsys):
    output = tmp_path / pathlib.Path(words_of(command, "new")[-1]).name
    cli.main(
        [command, *words_of(command, tmp_path / "new")]
    )  # compiled: programs are kept in files
    assert output.exists()
    content, _ = _content(output.parent), capsys.readouterr()
    with full_disk(100):
        message = refused(capsys, command, words_of(command, tmp_path / "new"))
    assert "cannot be written (File too large); mend that" in message, message
    assert _content(output.parent) == content  # an older result stays, and nothing half is left


def test_hdf5_survives_a_full_disk(here, tmp_path, capsys):
    words = [*words_of("export", tmp_path), "--features"]
    for num_bytes in (0, 1000, 5000):  # its header, the ids, the vectors
        with full_disk(num_bytes):
            message = refused(capsys, "export", words)
        assert "features_image_queries.hdf5 cannot be written (File too large)" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_an_input_that_cannot_be_read_is_one_line(here, command, tmp_path, capsys):
    (tmp_path / "file").touch()
    words = words_of(command, tmp_path / "new")
    places = [n for n, word in enumerate(words) if word.startswith("--") and word[2:] in FLAGS]
    places = [n + 1 for n in places if FLAGS[words[n][2:]] != "output"]
    for place in places or (0, 1):
        # What is read of a process's memory is an error of the system, for all users alike.
        for wrong in ("/proc/self/mem", tmp_path, tmp_path / "file" / "a"):
            changed = [*words[:place], str(wrong), *words[place + 1 :]]
            message = refused(capsys, command, changed)
            assert message.startswith("error: ") and str(wrong) in message, message
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize(
    ("command", "target"),
    [
        *[("evaluate", name) for name in ("lists.json", "misc/taxonomy.json", "image_ids/a.json")],
        *[("compare", name) for name in ("a.json", "b.json", "run/report/report.json")],
        *[("check", f"data/{name}/a.json") for name in ("ilias", "ilias_text/1.0.0", "image_ids")],
        *[("search", name) for name in ("image_ids/a.json", "ids.json")],
        *[("adapt", name) for name in ("features.safetensors", "info.safetensors")],
    ],
)
def test_no_output_is_an_input(here, command, target, tmp_path, capsys):
    """Nor is a link to one, nor the same file by another name."""
    words = [*words_of(command, "new")[:-1], target]
    if target.startswith("run/"):
        words[0] = "run"
    if source := LINKS.get(target):
        (tmp_path / target).symlink_to(here / source)
        words[-1] = str(tmp_path / target)
    assert "would write over what is read" in refused(capsys, command, words)
    words[-1] = str(here / "data" / ".." / words[-1])
    assert "would write over what is read" in refused(capsys, command, words)


def run_again(folder, workdir, k):
    """A run on the embeddings of the finished one."""
    table = np.random.default_rng(5).normal(size=(64, 12)).astype(np.float32)
    settings = {"embed": {"storage_dtype": "float16"}, "search": {"k": k}}
    (workdir / "embeddings").symlink_to(folder / "run" / "embeddings")
    config = color_world.config(folder / "data", **settings)
    benchmark.run(config, epath.Path(workdir), color_world.model(table, "random 5"))


@pytest.mark.parametrize(
    ("num_bytes", "name"), [(1000, "rankings/image_to_image.npz"), (6000, "report/report.json")]
)
def test_a_run_on_a_disk_that_fills_names_the_file(folder, tmp_path, capsys, num_bytes, name):
    with full_disk(num_bytes), pytest.raises(SystemExit):
        cli.run(lambda _: run_again(folder, tmp_path, k=20))
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: {tmp_path}/{name} cannot be written (File too large)")


def test_a_full_disk_under_the_printed_lines_is_one_line():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "ilias_jax.cli", "models", "tiny"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    expected = "error: the output or the temporary folder: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_a_failed_export_leaves_no_folder(tmp_path, capsys):
    words = ["--workdir", tmp_path / "nowhere", "--output", tmp_path / "new" / "folder"]
    assert "holds no rankings" in refused(capsys, "export", words)
    assert not list(tmp_path.iterdir())


def test_a_k_above_the_database_is_said_once(here, tmp_path, caplog, capsys):
    cli.main(["search", *words_of("search", tmp_path / "new"), "--k", "10000"])
    (said,) = (record for record in caplog.messages if "k=" in record)
    assert said == "k=10000, and the database has 14 rows: lists hold all of them"
    words = [*words_of("search", tmp_path / "new"), "--k", "10001"]
    assert "k=10001 is not allowed; it must be >= 1 and <= 10,000" in refused(
        capsys, "search", words
    )


def test_a_run_says_once_that_its_lists_are_shorter(folder, tmp_path, caplog):
    run_again(folder, tmp_path, k=100)
    (said,) = (record for record in caplog.messages if "k=" in record)
    assert said == "k=100, and the database has 59 rows: lists hold all of them"
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "map@100" in report["results"]["text_to_image"]


def test_every_flag_that_takes_a_path_knows_the_home_directory(monkeypatch, capsys):
    """Text that is no path is listed here, so that a new flag is thought of."""
    monkeypatch.setenv("HOME", "/home/me")
    no_path = {
        *("subset", "allow", "tars", "runner", "beam_options", "source", "base_url"),
        *("huggingface_url", "taxonomy_url", "backend", "format", "name", "download", "weights"),
        *("towers", "command", "coordinator", "method"),
    }
    parsers = [program._parser(), cli._parser()]
    (commands,) = (a for a in parsers[1]._actions if isinstance(a, argparse._SubParsersAction))
    parsers += commands.choices.values()
    text = [a for each in parsers for a in each._actions if a.type in (None, path_flag)]
    text = [a for a in text if a.nargs != 0 and a.dest not in no_path]
    assert len(text) > 30 and {a.type for a in text} == {path_flag}, text
    assert path_flag("~/a") == "/home/me/a" and path_flag("gs://b/~") == "gs://b/~"
    for wrong, reason in (
        ("", "is no path"),
        ("  ", "is no path"),
        ("~no/such/user", "has a home"),
    ):
        message = refused(capsys, "convert", ["--root", "r", f"--data_dir={wrong}"])
        assert "argument --data_dir: " in message and reason in message
