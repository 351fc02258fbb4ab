"""Records, the lock, leftovers of killed processes."""

import os
import subprocess
import sys

import pytest
from download_server import sha256

from ilias_jax.download import state
from ilias_jax.errors import UserError


@pytest.fixture
def records(tmp_path):
    (tmp_path / "yfcc100m").mkdir()
    (tmp_path / "yfcc100m" / "a.tar").write_bytes(b"abc")
    return state.Records(tmp_path)


def test_a_record_is_read_as_written(records, tmp_path):
    assert records.get("yfcc100m/a.tar") is None
    written = records.put("yfcc100m/a.tar", sha256(b"abc"), True, "http://host/a.tar")
    assert records.get("yfcc100m/a.tar") == written
    assert (tmp_path / ".download/yfcc100m/a.tar.json").exists()


def test_a_record_fits_only_the_same_file(records, tmp_path):
    path = tmp_path / "yfcc100m" / "a.tar"
    record = records.put("yfcc100m/a.tar", "d", True, "u")
    assert record.fits(path.stat())
    os.utime(path, ns=(0, record.mtime_ns + 1))
    assert not record.fits(path.stat())
    path.write_bytes(b"abcd")
    os.utime(path, ns=(0, record.mtime_ns))
    assert not record.fits(path.stat())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"size": "3", "mtime_ns": 1, "sha256": "d", "published": true, "url": "u"}',
    ],
)
def test_a_damaged_record_is_none(records, tmp_path, text):
    records.put("yfcc100m/a.tar", "d", True, "u")
    (tmp_path / ".download/yfcc100m/a.tar.json").write_text(text)
    assert records.get("yfcc100m/a.tar") is None


def test_digest_counts_bytes(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "x").write_bytes(data)
    counts = []
    assert state.digest(tmp_path / "x", counts.append) == sha256(data)
    assert sum(counts) == len(data) and len(counts) > 1


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    code = (
        "import pathlib, sys\nfrom ilias_jax.download import state\n"
        f"with state.locked(pathlib.Path({str(tmp_path)!r})):\n"
        "    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(UserError) as caught, state.locked(tmp_path):
            pass
        assert str(caught.value) == (
            f"another download is at work in {tmp_path} (process {other.pid}); "
            "wait for it or end it"
        )
        other.kill()
        other.communicate()
    with state.locked(tmp_path):  # a killed process leaves no lock
        assert (tmp_path / ".download/lock").read_text() == f"{os.getpid()}\n"


def test_a_second_process_may_wait_for_the_first(tmp_path):
    code = (
        "import pathlib, sys\nfrom ilias_jax.download import state\n"
        f"with state.locked(pathlib.Path({str(tmp_path)!r})):\n"
        "    print('locked', flush=True)\n    sys.stdin.read()\n"
        f"    pathlib.Path({str(tmp_path / 'done')!r}).touch()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        said: list[str] = []

        def wait(message: str) -> None:
            said.append(message)
            assert not (tmp_path / "done").exists()
            other.stdin.close()

        with state.locked(tmp_path, wait):
            assert (tmp_path / "done").exists()
        assert said == [f"another download is at work in {tmp_path} (process {other.pid})"]


def test_sweeping_takes_only_what_is_ours(tmp_path):
    tag = "0123456789abcdef" * 2
    for name in (f".a.json.{tag}.tmp", f".a.tar.{tag}.tmp", ".a.json.12.tmp", "a.json", ".a.json"):
        (tmp_path / name).write_text("")
    state.sweep(tmp_path, lambda name: name.endswith(".json"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([f".a.tar.{tag}.tmp", ".a.json.12.tmp", "a.json", ".a.json"])
    state.sweep(tmp_path / "missing", lambda name: True)


def test_failures_of_the_disk_are_messages(tmp_path):
    (tmp_path / "file").write_text("")
    message = "lock: Not a directory; mend that and run"
    with pytest.raises(UserError, match=message), state.locked(tmp_path / "file"):
        pass
