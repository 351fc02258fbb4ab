"""`ilias-jax convert` as a user sees it."""

import pytest
from conversion_fixture import hashes, official_copy
from official_forms import huggingface_tars

from ilias_jax import cli
from ilias_jax.dataset import convert as module


@pytest.fixture
def root(small_world, tmp_path):
    return official_copy(small_world, tmp_path / "root")


def run(root, data, *words):
    cli.main(["convert", "--root", str(root), "--data_dir", str(data), "--processes", "1", *words])


def message(capsys, root, data, *words):
    """What a failing command prints, with its exit code checked."""
    with pytest.raises(SystemExit) as exit_:
        run(root, data, *words)
    assert exit_.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "Traceback" not in text
    return text


def test_it_says_what_it_did_and_which_forms_it_took(small_world, root, tmp_path, capsys):
    huggingface_tars(small_world, root)
    run(root, tmp_path / "data")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith(f"core: takes {root / 'ilias_core'}, not 2 tars like")
    assert lines[-2].startswith("distractors: takes 3 tars like")
    assert lines[-1] == "3 tars converted, 3 shards of distractors: 40 images stored, 0 rejected"
    run(root, tmp_path / "data")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "0 tars converted, 3 shards of distractors: 0 images stored, 0 rejected"


def test_inputs_may_be_named(small_world, root, tmp_path):
    tars = huggingface_tars(small_world, tmp_path / "hf")
    core, mini = [str(path) for path in tars[:2]], [str(path) for path in tars[2:]]
    run(root, tmp_path / "d", "--core", *core, "--distractors", *mini, "--without_text")
    found = set(hashes(tmp_path / "d" / "ilias" / "1.0.0"))
    assert "ilias-distractor.array_record-00001-of-00002" in found
    assert not (tmp_path / "d" / "ilias_text").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--processes", "0"], "--processes 0 must be at least 1"),
        (["--tars", "7"], "--tars 7: there is no tar 7; the 3 tars have the numbers 0 to 2"),
        (["--tars", "x"], "--tars 'x': 'x' names no tar; allowed are"),
        (["--core", "nowhere"], "--core nowhere: no such file or folder"),
    ],
)
def test_mistakes_are_messages(root, tmp_path, capsys, words, expected):
    assert expected in message(capsys, root, tmp_path / "data", *words)
    assert not (tmp_path / "data").exists()


def test_a_root_that_is_missing_is_a_message(tmp_path, capsys):
    text = message(capsys, tmp_path / "nowhere", tmp_path / "data")
    assert f"--root {tmp_path / 'nowhere'} is no folder" in text


def test_a_data_dir_that_cannot_be_written_is_a_message(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    text = message(capsys, root, tmp_path / "file" / "data")
    assert "(Not a directory); name another with --data_dir" in text


def test_an_interrupt_has_its_own_exit_code(root, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "convert", interrupted)
    with pytest.raises(SystemExit) as exit_:
        run(root, tmp_path / "data")
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "interrupted; run the same command to go on\n"
