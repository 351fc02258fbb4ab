"""Files: whole or absent, hashed; locks have one holder and end however the holder ends."""

import errno
import fcntl
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from etils import epath

from ilias_jax import files
from ilias_jax.errors import UserError
from ilias_jax.files import (
    bundled_folder,
    check_output,
    check_writable,
    final_name,
    head_and_tail,
    lock_unless_done,
    replacing,
    sha256,
    try_lock,
    write_bytes,
)

HOLDER = """
import sys, time
from etils import epath
from ilias_jax.files import try_lock
held = try_lock(epath.Path(sys.argv[1]))
print("held" if held else "refused", flush=True)
time.sleep(600)
"""


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "new" / "a"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        assert final_name(temporary.name) == "a" and path.read_bytes() == b"old"
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and names(path.parent) == ["a"]
    monkeypatch.setattr(type(path), "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and names(path.parent) == ["a"]
    monkeypatch.undo()
    with replacing(path) as one, replacing(path) as two:
        one.write_bytes(b"one")
        two.write_bytes(b"two")
    assert path.read_bytes() == b"one" and names(path.parent) == ["a"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    for name, target in (("a", "there"), ("b", "not there")):
        (tmp_path / "there").write_bytes(b"old")
        (tmp_path / name).symlink_to(target)
        write_bytes(epath.Path(tmp_path) / name, b"new")
        assert (tmp_path / name).is_symlink() and (tmp_path / target).read_bytes() == b"new"
    assert names(tmp_path) == ["a", "b", "not there", "there"]


@pytest.fixture
def no_files(tmp_path):
    """Paths of what no file may replace; links alone lead out of the folder.

    Names such as /dev/null itself would be replaced for the whole machine if the check failed.
    """
    os.mkfifo(tmp_path / "pipe")
    main, other = os.openpty()
    os.symlink(os.ttyname(other), tmp_path / "terminal")
    os.symlink("/proc/self/fd/1", tmp_path / "stdout")
    (tmp_path / "log").touch()
    yield tmp_path
    os.close(main)
    os.close(other)


@pytest.mark.parametrize("name", ["pipe", "terminal", "stdout", "log"])
def test_no_file_replaces_a_device_or_what_is_printed_to(no_files, name):
    path, saved = epath.Path(no_files) / name, os.dup(1)
    try:
        if name == "log":  # as `command > log` has it
            log = os.open(path, os.O_WRONLY)
            os.dup2(log, 1)
            os.close(log)
        before = os.lstat(path)
        for write in (lambda: write_bytes(path, b""), lambda: check_output(path)):
            with pytest.raises(UserError, match=f"{name} is a device, a pipe or what this program"):
                write()
        assert os.path.samestat(before, os.lstat(path))
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def test_a_full_disk_is_named_where_a_file_is_copied(tmp_path):
    """Python names the source."""
    path, source = epath.Path(tmp_path) / "a", str(tmp_path / "source")
    for number, named in ((errno.ENOSPC, UserError), (errno.EACCES, PermissionError)):
        with pytest.raises(named, match="a cannot be written|source"), replacing(path):
            raise OSError(number, os.strerror(number), source)
    assert names(tmp_path) == []


def test_an_output_is_compared_with_inputs_by_what_they_are(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("a")
    os.link(tmp_path / "folder" / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "folder")
    pairs = [("b", "folder/a"), ("c/a", "b"), ("c/new", "folder"), ("folder/x/new", "c")]
    for output, source in pairs:
        with pytest.raises(UserError, match=f"--to .*{output} would write over .*{source}; name"):
            check_output(tmp_path / output, [tmp_path / "none", tmp_path / source], "--to")
    check_output(tmp_path / "new" / "b", [tmp_path / "b", tmp_path / "folder"])
    with pytest.raises(UserError, match="would write over what is read, gs://bucket/a"):
        check_output(epath.Path("gs://bucket/a/b"), ["gs://bucket/a"])
    assert names(tmp_path) == ["b", "c", "folder"] and names(tmp_path / "folder") == ["a"]


def test_the_check_of_a_folder_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_writable(epath.Path("new/folder"), "--to")
    check_writable(epath.Path("."), "--to")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "file/new", "link/new", "n" * 300):
        with pytest.raises(UserError, match=f"folder {name} cannot be written .* with --to"):
            check_writable(epath.Path(name), "--to")
    assert names(tmp_path) == ["file", "link"]


def test_digests(tmp_path):
    data = np.random.default_rng(0).bytes(2_000_000)
    path = epath.Path(tmp_path) / "a"
    for content in (b"", data[:70_000], data):
        path.write_bytes(content)
        assert sha256(path) == hashlib.sha256(content).hexdigest()
        ends = content[: 1 << 16] + content[-(1 << 20) :]
        assert head_and_tail(path) == hashlib.sha256(ends).hexdigest()


def test_bundled_data_is_found():
    assert (bundled_folder() / "tiny" / "checkpoint.npz").is_file()


def test_a_lock_is_given_once_and_leaves_nothing(tmp_path):
    path = epath.Path(tmp_path) / "a.safetensors"
    first = try_lock(path)
    assert try_lock(path) is None
    other = try_lock(epath.Path(tmp_path) / "b.safetensors")
    assert first and other
    first.close()
    first.close()
    again = try_lock(path)
    assert again
    again.close()
    other.close()
    assert names(tmp_path) == []


def test_a_killed_process_gives_its_lock_back_and_leaves_no_half_file(tmp_path):
    path = epath.Path(tmp_path) / "a.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
    )
    try:
        assert process.stdout.readline() == "held\n"
        half = tmp_path / f".a.safetensors.{'0' * 32}.tmp"
        others = tmp_path / f".b.safetensors.{'0' * 32}.tmp"
        assert final_name(half.name) == "a.safetensors"
        half.write_text("half")
        others.write_text("half")
        assert try_lock(path) is None
        assert half.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    held = try_lock(path)
    assert held
    assert not half.exists() and others.exists()  # that one is another's
    held.close()


def test_of_many_threads_one_at_a_time_holds_a_lock(tmp_path):
    """Each that gets it looks whether it is alone; a file that is removed and made anew is no two."""
    path = epath.Path(tmp_path) / "a"
    inside, most, got = 0, 0, 0
    guard = threading.Lock()

    def work():
        nonlocal inside, most, got
        own = 0
        while own < 25:
            held = try_lock(path)
            if held is None:
                continue
            own += 1
            with guard:
                inside += 1
                most, got = max(most, inside), got + 1
            with guard:
                inside -= 1
            held.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and got == 8 * 25
    assert names(tmp_path) == []


def test_a_lock_is_removed_while_it_is_held(tmp_path, monkeypatch):
    """Afterwards the file of that name may be the lock of another holder."""
    held, left = try_lock(epath.Path(tmp_path) / "a"), []
    release = type(held._held).release

    def noting(self):
        left.append(names(tmp_path))
        release(self)

    monkeypatch.setattr(type(held._held), "release", noting)
    held.close()
    assert left == [[]]


def test_a_lock_that_was_removed_under_the_hand_is_none(tmp_path, monkeypatch):
    """Between opening a lock's file and locking it, its holder may remove the file."""
    path, opened = epath.Path(tmp_path) / "a", 0
    flock = fcntl.flock

    def removes_first(descriptor, operation):
        nonlocal opened
        opened += 1
        if opened == 1:
            (tmp_path / ".a.lock").unlink()
        return flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removes_first)
    assert try_lock(path) is None
    held = try_lock(path)
    assert held and opened == 2 and try_lock(path) is None
    held.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch, caplog, number):
    def none(descriptor, operation):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    held = try_lock(epath.Path(tmp_path) / "a")
    assert held
    assert "no locks here" in caplog.text and "one process at a time" in caplog.text
    held.close()


@pytest.mark.parametrize("finishes", [True, False])
def test_a_locked_file_is_waited_for_and_taken_over_if_it_is_not_finished(
    tmp_path, monkeypatch, finishes
):
    path, is_done = epath.Path(tmp_path) / "a", False
    other = try_lock(path)
    assert other

    def other_process_ends(seconds):
        nonlocal is_done
        assert seconds == files.LOCK_POLL_S
        is_done = finishes
        other.close()

    monkeypatch.setattr(files.time, "sleep", other_process_ends)
    held = lock_unless_done(path, lambda: is_done)
    assert (held is None) == finishes
    if held:
        held.close()
    assert names(tmp_path) == []


def test_buckets_have_no_locks():
    held = try_lock(epath.Path("gs://bucket/a.safetensors"))
    assert held
    held.close()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/a cannot be written"):
        try_lock(epath.Path(tmp_path) / "file" / "a")
