"""Whole downloads into a folder: what is fetched, what is not, and what is said."""

import json
import os
import threading

import pytest
from download_server import (
    ADAPTER,
    MINI_TARS,
    Fault,
    add_huggingface,
    add_official,
    noise,
    serving,
    sha256,
)
from download_server import servers as addresses

from ilias_jax import download
from ilias_jax.dataset import catalogue, fetch
from ilias_jax.dataset.catalogue import Request
from ilias_jax.dataset.fetch import Item, Status, bring_dataset, read_record
from ilias_jax.download import RemoteFile, RetryPolicy
from ilias_jax.errors import UserError

QUICK = RetryPolicy(retries=2, first_wait=0.001, longest_wait=0.01, read_timeout=20.0)
EVERYTHING = Request(parts=("ids", "core", "yfcc", "adapters"), adapters=(ADAPTER,))
BASE = "/ilias_data/"
DATA_FOLDERS = (BASE + "yfcc100m/", BASE + "ilias_core", BASE + "image_ids/", "/taxonomy.json")


@pytest.fixture(autouse=True)
def taxonomy(monkeypatch):
    digest = sha256(b'{"product": {}}\n')
    monkeypatch.setattr(catalogue, "TAXONOMY_SHA256", digest)


class Run:
    """Downloads from a small official server into a folder."""

    def __init__(self, server, root):
        self.server, self.root = server, root
        self.files = add_official(server)
        self.said: list[str] = []

    def __call__(self, request=EVERYTHING, policy=QUICK, parallel=4):
        self.said.clear()
        self.server.log.clear()
        return bring_dataset(
            self.root, request, addresses(self.server), policy, parallel, self.said.append
        )

    def data_gets(self):
        lists = (BASE + "checksums.txt",)
        return [
            row.path for row in self.server.log if row.method == "GET" and row.path not in lists
        ]

    def tree(self):
        """All files but the state."""
        paths = [path for path in self.root.rglob("*") if path.is_file()]
        names = {path.relative_to(self.root).as_posix(): path for path in paths}
        return {
            name: path.read_bytes()
            for name, path in names.items()
            if not name.startswith(download.STATE_FOLDER)
        }

    def wanted(self):
        return {**self.files, "checksums.txt": self.server.files[BASE + "checksums.txt"]}

    def record(self, name):
        return read_record(self.root, name)


@pytest.fixture
def run(tmp_path):
    with serving() as server:
        yield Run(server, tmp_path / "ilias")


def test_everything_arrives_and_is_recorded(run):
    outcome = run()
    assert run.tree() == run.wanted()
    assert outcome.fetched == len(run.files)
    assert outcome.num_bytes == sum(len(data) for data in run.files.values())
    for name, data in run.files.items():
        assert run.record(name).sha256 == sha256(data), name
    assert run.record("ilias_core.tar").published
    assert not run.record("image_ids/positive_ids.txt").published
    (line,) = run.said
    assert line.startswith(f"{run.root}: 0 of 14 files are there; 14 to fetch (361.7 kB), ")


def test_a_second_run_asks_for_no_data(run):
    run()
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*.tar")}
    outcome = run()
    assert [(row.method, row.path) for row in run.server.log] == [("GET", BASE + "checksums.txt")]
    assert outcome.fetched == 0 and outcome.num_bytes == 0
    assert before == {path: path.stat().st_mtime_ns for path in run.root.rglob("*.tar")}


def test_more_can_be_asked_for_later(run):
    run(Request(tars="0:2"))
    assert len(run.tree()) == 10  # five id files, taxonomy, checksums, core, two tars
    run(Request(tars="1:3"))
    assert run.data_gets() == [BASE + "yfcc100m/yfcc100m_0002.tar"]


def test_files_copied_by_hand_are_read_once_and_taken(run):
    for name in ("ilias_core.tar", "image_ids/positive_ids.txt", "image_ids/distractor_ids.txt.gz"):
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_bytes(run.files[name])
    outcome = run()
    assert run.tree() == run.wanted()
    assert not {BASE + "ilias_core.tar", BASE + "image_ids/positive_ids.txt"} & set(run.data_gets())
    notes = {item.file.path: item.note for item in outcome.items if item.note}
    assert set(notes.values()) == {"there already, taken after a check"} and len(notes) == 3
    assert run.record("ilias_core.tar").published


def test_files_that_are_not_the_published_ones_are_replaced(run):
    wrong = {
        "ilias_core.tar": noise("x", 50_000),  # the length is right
        "image_ids/positive_ids.txt": b"short",
        "image_ids/distractor_ids.txt.gz": noise(
            "y", len(run.files["image_ids/distractor_ids.txt.gz"])
        ),
    }
    for name, data in wrong.items():
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_bytes(data)
    outcome = run()
    assert run.tree() == run.wanted()
    replaced = {item.file.path for item in outcome.items if item.note.startswith("replaced")}
    assert replaced == set(wrong)


def test_a_file_that_was_touched_is_read_again(run):
    run()
    for name in ("ilias_core.tar", "image_ids/positive_ids.txt"):
        os.utime(run.root / name, ns=(1, 1))
        assert not run.record(name).fits((run.root / name).stat())
    run()
    assert run.data_gets() == []
    assert run.record("ilias_core.tar").fits((run.root / "ilias_core.tar").stat())
    assert not [row for row in run.server.log if row.method == "HEAD"]  # its own digest was enough


def test_a_file_that_was_damaged_is_fetched_again(run):
    run()
    with (run.root / "ilias_core.tar").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    (run.root / "image_ids/positive_ids.txt").write_bytes(b"cut")
    run()
    assert sorted(run.data_gets()) == [BASE + "ilias_core.tar", BASE + "image_ids/positive_ids.txt"]
    assert run.tree() == run.wanted()


def test_a_new_published_digest_brings_the_new_file(run):
    run()
    new = noise("new core", 40_000)
    old = run.files["ilias_core.tar"]
    checksums = run.server.files[BASE + "checksums.txt"].decode()
    run.server.files[BASE + "checksums.txt"] = checksums.replace(sha256(old), sha256(new)).encode()
    run.server.files[BASE + "ilias_core.tar"] = run.files["ilias_core.tar"] = new
    run()
    assert run.data_gets() == [BASE + "ilias_core.tar"] and run.tree() == run.wanted()


def test_one_bad_file_does_not_stop_the_others(run):
    missing, wrong = "yfcc100m/yfcc100m_0001.tar", "yfcc100m/yfcc100m_0003.tar"
    run.server.always[BASE + missing] = Fault(status=404)
    run.server.always[BASE + wrong] = Fault(body=noise("wrong", 50_003))
    with pytest.raises(UserError) as caught:
        run()
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 14 files could not be fetched:"
    assert lines[1].startswith(f"  {missing}: the server does not have http://127.0.0.1")
    assert lines[2].startswith(f"  {wrong}: its sha256 is ") and "published is" in lines[2]
    assert lines[3] == (
        "The other 12 are done. Run the same command again to go on: what is done is not fetched "
        "again, and what is partly there is resumed"
    )
    wanted = run.wanted()
    assert run.tree() == {name: wanted[name] for name in set(wanted) - {missing, wrong}}
    run.server.always.clear()
    run()
    assert sorted(run.data_gets()) == [BASE + missing, BASE + wrong] and run.tree() == wanted


def test_what_a_server_without_answers_costs(run):
    run.server.head_faults[BASE + "ilias_core.tar"] = [Fault(close=True)] * 3
    with pytest.raises(UserError, match=r"ilias_core\.tar: no answer from 127\.0\.0\.1"):
        run()
    assert BASE + "ilias_core.tar" not in run.data_gets()
    assert len(run.tree()) == len(run.files)  # all but one, and checksums.txt


def test_without_head_requests_sizes_are_unknown(run):
    for name in run.files:
        run.server.head_faults[BASE + name] = [Fault(status=405)]
    run()
    assert run.tree() == run.wanted()
    assert "14 to fetch (16 B and 13 of unknown size)" in run.said[-1]


def test_several_files_at_once(run, monkeypatch):
    busy, most, lock = 0, 0, threading.Lock()
    original = download.fetch

    def counting(*words):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        try:
            return original(*words)
        finally:
            with lock:
                busy -= 1

    monkeypatch.setattr(download, "fetch", counting)
    run.server.bytes_per_second = 400_000
    run(Request(parts=("yfcc",)), parallel=3)
    assert most == 3


def test_a_disk_that_is_too_small_is_seen_before_the_first_byte(run, monkeypatch):
    run(Request(parts=("yfcc",), tars="0"))
    usage = type("Usage", (), {"free": 200_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError) as caught:
        run(Request(parts=("yfcc",)))
    assert str(caught.value) == (
        f"{run.root}/yfcc100m has 200.0 kB free, and 250.0 kB (250,015 bytes) are still to fetch; "
        "free some space, or ask for less with --parts or --tars"
    )
    assert run.data_gets() == []
    run(Request(parts=("yfcc",), tars="0:4"))  # 150 kB fit


def test_what_is_partly_there_needs_less_space(run, monkeypatch):
    name = "yfcc100m/yfcc100m_0000.tar"
    run.server.always[BASE + name] = Fault(truncate_at=30_000, ignore_range=True)
    one = Request(parts=("yfcc",), tars="0")
    with pytest.raises(UserError):
        run(one)
    run.server.always.clear()
    usage = type("Usage", (), {"free": 20_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    run(one)
    assert run.server.sent(BASE + name) == 20_000


def test_disks_are_counted_apart(tmp_path, monkeypatch):
    """A folder that links to another disk has that disk's space."""
    item = Item(RemoteFile("yfcc100m/a.tar", "u"), Status.MISSING, 50)
    core = Item(RemoteFile("ilias_core.tar", "u"), Status.MISSING, 50)
    (tmp_path / "big").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "yfcc100m").symlink_to(tmp_path / "big")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 60}))
    with pytest.raises(UserError, match="100 bytes"):
        fetch.check_space(tmp_path / "root", [item, core])
    original = download.pathlib.Path.stat

    def stat(path, **options):
        status = original(path, **options)
        device = 2 if os.path.realpath(path).endswith("big") else 1
        return os.stat_result((*status[:2], device, *status[3:10]))

    monkeypatch.setattr(download.pathlib.Path, "stat", stat)
    fetch.check_space(tmp_path / "root", [item, core])


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(run):
    (run.root / "yfcc100m" / "yfcc100m_0002.tar.part").mkdir(parents=True)
    with pytest.raises(UserError, match=r"yfcc100m_0002\.tar\.part: Is a directory; mend that"):
        run(parallel=1)
    done = [name for name in run.files if run.record(name)]
    assert 0 < len(done) < len(run.files)
    (run.root / "yfcc100m" / "yfcc100m_0002.tar.part").rmdir()
    run()
    assert run.tree() == run.wanted()
    assert not {BASE + name for name in done} & set(run.data_gets())


def test_a_folder_in_the_place_of_a_file(run):
    (run.root / "ilias_core.tar").mkdir(parents=True)
    with pytest.raises(UserError, match=r"ilias_core\.tar is a folder, but a file of this name"):
        run()


def test_leftovers_beside_whole_files_go(run):
    run()
    tag = "0123456789abcdef" * 2
    leftovers = [
        "ilias_core.tar.part.json",
        "ilias_core.tar.part",
        f".checksums.txt.{tag}.tmp",
    ]
    for name in leftovers:
        (run.root / name).write_text("{}")
    run()
    assert not [name for name in leftovers if (run.root / name).exists()]
    assert run.tree() == run.wanted()


def test_a_hostile_list_brings_nothing(run):
    checksums = run.server.files[BASE + "checksums.txt"]
    evil = f"{'a' * 64}  {catalogue.BASE_URL}/yfcc100m/../../yfcc100m.tar\n".encode()
    run.server.files[BASE + "checksums.txt"] = checksums + evil
    with pytest.raises(UserError, match=r"checksums\.txt:8: .* nothing was fetched"):
        run()
    assert not run.root.exists() and run.data_gets() == []


def test_a_wrong_address_makes_no_folder(run):
    del run.server.files[BASE + "checksums.txt"]
    with pytest.raises(UserError, match=r"checksums\.txt cannot be had: the server does not have"):
        run()
    assert not run.root.exists()


def test_the_hugging_face_copy(run):
    tars = add_huggingface(run.server)
    outcome = run(Request("huggingface", ("ids", "core", "yfcc"), "0:2"))
    ids = {name: data for name, data in run.files.items() if name.startswith(("image_ids", "misc"))}
    checksums = {"checksums.txt": run.server.files[BASE + "checksums.txt"]}
    del tars[MINI_TARS[2]]
    assert run.tree() == {**ids, **checksums, **tars}
    (note,) = outcome.notes
    assert note.endswith(f"ilias-jax download --output {run.root} --parts core")
    assert f"note: {note}" in run.said
    assert not [row for row in run.server.log if row.method == "HEAD" and "cdn" in row.path]


@pytest.mark.parametrize("parallel", [0, 65])
def test_parallel_is_checked(run, parallel):
    with pytest.raises(UserError, match=f"--parallel {parallel}: allowed are 1 to 64"):
        run(parallel=parallel)


def test_the_folder_is_locked_meanwhile(run):
    with (
        download.exclusive(run.root),
        pytest.raises(UserError, match="another download is at work"),
    ):
        run()


RECORD = {"size": 3, "mtime_ns": 1, "sha256": "d", "published": True, "url": "u"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", json.dumps({**RECORD, "size": "3"}), json.dumps(RECORD)[:-1]]
)
def test_a_damaged_record_is_none(tmp_path, text):
    path = tmp_path / ".download" / "a.tar.json"
    assert read_record(tmp_path, "a.tar") is None
    path.parent.mkdir()
    path.write_text(json.dumps(RECORD))
    assert read_record(tmp_path, "a.tar") == fetch.Record(**RECORD)
    path.write_text(text)
    assert read_record(tmp_path, "a.tar") is None


def test_a_record_fits_only_the_same_file(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"abc")
    record = fetch.Record(3, path.stat().st_mtime_ns, "d", True, "u")
    assert record.fits(path.stat())
    os.utime(path, ns=(0, record.mtime_ns + 1))
    assert not record.fits(path.stat())
    path.write_bytes(b"abcd")
    os.utime(path, ns=(0, record.mtime_ns))
    assert not record.fits(path.stat())
