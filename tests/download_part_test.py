"""Parts: nothing of one version beside the marks of another, at whatever moment it is killed."""

import json

import pytest
from download_server import sha256

from ilias_jax.download import part as part_module
from ilias_jax.download.part import Origin, Part

OLD = Origin("http://host/a", '"old"', None, 10)
NEW = Origin("http://host/a", '"new"', None, 12)


class Kill(BaseException):
    """The process ends here."""


def make(tmp_path, sha256=None):
    return Part(tmp_path / "a", "http://host/a", sha256)


@pytest.fixture
def half(tmp_path):
    """Half a file of the old version lies there."""
    part = make(tmp_path)
    part.open()
    part.restart(OLD)
    part.append(b"01234")
    part.close()
    return tmp_path


def test_bytes_and_digest_are_taken_up(half):
    part = make(half)
    part.open()
    assert (part.length, part.origin) == (5, OLD) and part.digest() == sha256(b"01234")
    part.append(b"56789")
    part.finish()
    assert (half / "a").read_bytes() == b"0123456789"
    assert part.digest() == sha256(b"0123456789")
    assert [path.name for path in half.iterdir()] == ["a"]


@pytest.mark.parametrize("step", ["write_json", "fsync", "unlink"])
def test_a_kill_while_starting_anew_mixes_nothing(half, monkeypatch, step):
    def kill(*unused, **unused_too):
        raise Kill

    part = make(half)
    part.open()
    where = {
        "write_json": (part_module.state, "write_json"),
        "fsync": (part_module.os, "fsync"),
        "unlink": (part_module.pathlib.Path, "unlink"),
    }
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(*where[step], kill)
        part.restart(NEW)
    part._file.close()
    again = make(half)
    again.open()
    # Either everything is still of the old version or nothing is there.
    assert (again.length, again.origin) in ((5, OLD), (0, None))
    again.close()


def test_bytes_are_on_the_disk_before_their_final_name(half, monkeypatch):
    calls = []
    replace, fsync = part_module.pathlib.Path.replace, part_module.os.fsync
    paths, system = part_module.pathlib.Path, part_module.os
    part = make(half)
    part.open()
    monkeypatch.setattr(paths, "replace", lambda *a: calls.append("rename") or replace(*a))
    monkeypatch.setattr(system, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    part.finish()
    assert calls == ["fsync", "rename", "fsync"]


def test_a_part_that_is_longer_than_the_file_is_not_resumed(half):
    (half / "a.part").write_bytes(b"0123456789x")
    assert make(half).resumable() == 0


def test_what_another_address_gave_needs_a_digest(half):
    origin = json.loads((half / "a.part.json").read_text())
    (half / "a.part.json").write_text(json.dumps({**origin, "url": "http://mirror/a"}))
    assert make(half).resumable() == 0
    assert make(half, sha256="d").resumable() == 5


def test_a_part_of_nothing_leaves_nothing(tmp_path):
    part = make(tmp_path)
    part.open()
    part.close()
    part.close()
    assert list(tmp_path.iterdir()) == []


def test_a_validator_is_the_tag_before_the_date():
    assert Origin("u", '"t"', "date", 1).validator() == '"t"'
    assert Origin("u", None, "date", 1).validator() == "date"
    assert Origin("u", None, None, 1).validator() is None
