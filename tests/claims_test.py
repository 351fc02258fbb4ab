"""Claims: one holder at a time, given back however the holder ends."""

import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from etils import epath

from ilias_jax import atomic, claims
from ilias_jax.claims import claim

HOLDER = """
import sys, time
from etils import epath
from ilias_jax.claims import claim
held = claim(epath.Path(sys.argv[1]))
print("held" if held else "refused", flush=True)
time.sleep(600)
"""


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_claim_is_given_once_and_leaves_nothing(tmp_path):
    path = epath.Path(tmp_path) / "a.safetensors"
    first = claim(path)
    assert claim(path) is None
    other = claim(epath.Path(tmp_path) / "b.safetensors")
    assert first and other
    first.close()
    first.close()
    again = claim(path)
    assert again
    again.close()
    other.close()
    assert names(tmp_path) == []


def test_a_killed_process_gives_its_claim_back_and_leaves_no_half_file(tmp_path):
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
        assert atomic.final_name(half.name) == "a.safetensors"
        half.write_text("half")
        others.write_text("half")
        assert claim(path) is None
        assert half.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    held = claim(path)
    assert held
    assert not half.exists() and others.exists()  # that one is another's
    held.close()


def test_of_many_threads_one_at_a_time_holds_a_claim(tmp_path):
    """Each that gets it looks whether it is alone; a lock that is removed and made anew is no two."""
    path = epath.Path(tmp_path) / "a"
    inside, most, got = 0, 0, 0
    guard = threading.Lock()

    def work():
        nonlocal inside, most, got
        own = 0
        while own < 25:
            held = claim(path)
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


def test_a_lock_that_was_removed_under_the_hand_is_no_claim(tmp_path, monkeypatch):
    """Between opening a lock and locking it, its holder may remove it: then it is opened anew."""
    path, opened = epath.Path(tmp_path) / "a", 0
    flock = claims.fcntl.flock

    def removes_first(descriptor, operation):
        nonlocal opened
        opened += 1
        if opened == 1:
            (tmp_path / ".a.lock").unlink()
        return flock(descriptor, operation)

    monkeypatch.setattr(claims.fcntl, "flock", removes_first)
    held = claim(path)
    assert held and opened == 2 and claim(path) is None
    held.close()


def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch, caplog):
    def none(descriptor, operation):
        raise OSError(claims.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claims.fcntl, "flock", none)
    held = claim(epath.Path(tmp_path) / "a")
    assert held
    assert "no locks here" in caplog.text and "one process at a time" in caplog.text
    held.close()


def test_buckets_have_no_locks():
    held = claim(epath.Path("gs://bucket/a.safetensors"))
    assert held
    held.close()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        claim(epath.Path(tmp_path) / "file" / "a")
