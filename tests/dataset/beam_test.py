"""The Beam pipeline: the bytes and messages of the processes."""

import pathlib
import sys

import pytest
from conversion_fixture import hashes, official_copy

from ilias_jax import cli
from ilias_jax.dataset.convert import convert
from ilias_jax.errors import UserError


@pytest.fixture
def root(small_world, tmp_path):
    return official_copy(small_world, tmp_path / "root")


def beam_executor():
    pytest.importorskip("apache_beam")
    from ilias_jax.dataset.beam import executor

    return executor("DirectRunner")


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_a_pipeline_writes_the_bytes_of_processes(root, tmp_path):
    execute = beam_executor()
    report = convert(root, tmp_path / "beam", execute=execute)
    assert (report.num_converted, report.num_stored) == (3, 40)
    convert(root, tmp_path / "plain", 1)
    assert hashes(tmp_path / "beam") == hashes(tmp_path / "plain")
    assert convert(root, tmp_path / "beam", execute=execute).num_converted == 0


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_a_damaged_tar_does_not_hold_up_the_pipeline(root, tmp_path):
    tar = root / "yfcc100m" / "world_001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    execute = beam_executor()
    with pytest.raises(UserError) as error:
        convert(root, tmp_path / "beam", execute=execute)
    assert str(error.value).startswith(f"{tar} is damaged at byte 0 (")
    assert str(error.value).endswith("1 of 3 tars could not be converted; the others are done")
    inventories = tmp_path / "beam" / "ilias" / "1.0.0" / "inventory"
    assert len(list(inventories.glob("distractor*"))) == 2
    assert not list((tmp_path / "beam").rglob(".results*"))


def test_without_beam_the_command_says_what_to_install(root, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "ilias_jax.dataset.beam", raising=False)
    words = ["convert", "--root", str(root), "--data_dir", str(root), "--runner", "DirectRunner"]
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "pip install 'ilias-jax[beam]'" in capsys.readouterr().err


def test_the_command_takes_options_of_the_pipeline_with_a_runner_alone(root, capsys):
    words = ["convert", "--root", str(root), "--data_dir", str(pathlib.Path("x"))]
    with pytest.raises(SystemExit):
        cli.main([*words, "--beam_options=--job_name=x"])
    assert "--beam_options needs --runner" in capsys.readouterr().err
