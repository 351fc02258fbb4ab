"""The command `ilias-jax evaluate`."""

import json
import pathlib

import official_cases
import pytest

from ilias_jax import cli

CASE = official_cases.CASES[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("evaluate") / "world"
    official_cases.write_ids(folder)
    official_cases.write_lists(CASE, folder)
    return folder


def words(world: pathlib.Path, *more: str) -> list[str]:
    path = str(world / f"{CASE.name}.json")
    return ["evaluate", "--similarities", path, "--ids", str(world), *more]


def test_prints_and_writes_the_numbers(
    world: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    cli.main(words(world, "--output", str(output)))
    text = capsys.readouterr().out
    document = json.loads(output.read_text())
    assert f"27 image queries: mAP@1,000 {document['map']:.2f} %" in text
    assert "  scale: 0-0.0688 " in text and f"{output}: all numbers" in text


def test_a_mistake_is_a_message(
    world: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = json.loads((world / f"{CASE.name}.json").read_text())
    del lists["thing_005/query/Q000_00.jpg"]
    path = tmp_path / "part.json"
    path.write_text(json.dumps(lists))
    command = ["evaluate", "--similarities", str(path), "--ids", str(world)]
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error == (
        "error: similarities: nothing was scored, because of\n"
        "  1 of 27 image queries missing ('thing_005/query/Q000_00.jpg')\n"
        "    --allow missing_queries: the means are over the queries that are there\n"
    )
    cli.main([*command, "--allow", "missing_queries"])
    assert "26 image queries: mAP@1,000" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(words(world, "--output", str(tmp_path)))
    assert capsys.readouterr().err == f"error: --output {tmp_path} is a folder; name a file\n"
