"""Wrong, damaged and hostile inputs of all commands: a message, and nothing but the output written."""

import collections
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys

import hostile_damages
import hostile_server
import numpy as np
import pytest
from hostile_inputs import TEMPLATES, Case

SERVER = pathlib.Path(hostile_server.__file__)
EVERY = 65  # of the table, in the quick part


def _ask(folder: pathlib.Path, names: list[str]) -> str:
    words = [sys.executable, str(SERVER), str(folder)]
    done = subprocess.run(words, input="\n".join(names), stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    return done.stdout


def _answers(folder: pathlib.Path, names: list[str]) -> dict[str, list[dict]]:
    """What came of the cases of these names, by template."""
    answers = [json.loads(line) for line in _ask(folder, names).splitlines()]
    assert sorted(answer["name"] for answer in answers) == sorted(names)
    found = collections.defaultdict(list)
    for answer in answers:
        found[answer["name"].partition(":")[0]].append(answer)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def names(folder):
    return _ask(folder, ["list"]).splitlines()


@pytest.fixture(scope="module")
def some(folder, names):
    return _answers(folder, names[::EVERY])


@pytest.fixture(scope="module")
def all_of_them(folder, names):
    return _answers(folder, names)


@pytest.mark.parametrize("template", TEMPLATES)
def test_some_inputs(template, some):
    assert not [answer for answer in some[template] if answer["problem"]]


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_all_inputs(template, all_of_them):
    assert not [answer for answer in all_of_them[template] if answer["problem"]]


def test_the_table_is_large_and_its_names_differ(names):
    assert len(names) == len(set(names)) >= 1000
    assert {name.partition(":")[0] for name in names} == set(TEMPLATES)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"status": signal.SIGALRM}, "hangs over 20 s"),
        ({"status": signal.SIGSEGV}, "exit code -11"),
        ({"printed": "Traceback (most recent call last):\nKeyError: 'a'"}, "traceback"),
        ({"mib": 2049}, "2049 MiB"),
        ({"printed": 30_000 * "a"}, "30,000 characters are printed"),
        ({"printed": "error: \x1b[31m"}, "control characters are printed"),
        ({"printed": ""}, "no message"),
        ({}, None),
    ],
)
def test_what_is_wrong_is_seen(answer, expected):
    usual = {"status": 1 << 8, "seconds": 1.0, "mib": 200, "printed": "error: a message"}
    assert hostile_server._judge(Case("plan", "a"), **usual | answer) == expected


def test_a_payload_that_runs_is_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lists.pkl"
    path.touch()
    hostile_damages.ALL["payload"](path, np.random.default_rng(0))
    before = hostile_server._snapshot(tmp_path)
    pickle.loads(path.read_bytes())
    after = hostile_server._snapshot(tmp_path)
    assert set(after) - set(before) == {hostile_damages.CANARY} and os.path.isdir(
        hostile_damages.CANARY
    )
