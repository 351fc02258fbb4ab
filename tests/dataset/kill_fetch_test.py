"""SIGKILL at any moment: the next run ends with the same bytes, and nothing half is taken."""

import dataclasses
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from download_server import (
    ADAPTER,
    TAXONOMY,
    Fault,
    add_official,
    noise,
    serving,
    sha256,
)
from download_server import servers as addresses

from ilias_jax.dataset.fetch import read_record
from ilias_jax.download import STATE_FOLDER

ROOT = pathlib.Path(__file__).parents[2]
# The command itself; only the digest of the taxonomy is that of the test's.
COMMAND = (
    "import sys\nfrom ilias_jax.dataset import catalogue\n"
    f"catalogue.TAXONOMY_SHA256 = {sha256(TAXONOMY)!r}\n"
    "from ilias_jax import cli\ncli.main(sys.argv[1:])\n"
)
# Runs the command over and over in children, each of which is killed before one operation on a file
# of the folder: `rename .part 1` is the first renaming of such a file, `any - 5` the fifth of all.
AT_AN_OPERATION = """
import os, signal, sys
from ilias_jax import cli
from ilias_jax.dataset import catalogue, fetch

def run(kind, ending, number, words):
    # kind "none": not killed. The child's exit status.
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event not in ("open", "os.rename", "os.remove", "os.mkdir"):
            return
        path, what = os.path.abspath(os.fsdecode(str(arguments[0]))), event.removeprefix("os.")
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            what = "write"
        if path.startswith(words[2]) and (kind == "any" or kind == what and path.endswith(ending)):
            count += 1
            if count == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    sys.stdout = open(os.devnull, "w")
    try:
        cli.main(words)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(3)
    os._exit(0)

for line in sys.stdin:
    kind, ending, number, *words = line.split()
    print(run(kind, ending, number, words), flush=True)
"""
EVERYTHING = ("--parts", "ids,core,yfcc,adapters", "--adapters", ADAPTER)


def words_for(server, folder, *words):
    where = addresses(server)
    flags = dataclasses.asdict(where)
    urls = [word for name, url in flags.items() for word in (f"--{name}", url)]
    return ["download", "--output", str(folder), *words, *urls]


def tree(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in names.items() if not name.startswith(STATE_FOLDER)}


def check_nothing_half(folder, files):
    """Every final name holds the published bytes, and so says every record."""
    for name, data in files.items():
        if (folder / name).exists():
            assert (folder / name).read_bytes() == data, name
        record = read_record(folder, name)
        if record is not None and (folder / name).exists():
            assert record.sha256 == sha256(data), name


def check_whole(folder, files, server):
    wanted = {**files, "checksums.txt": server.files["/ilias_data/checksums.txt"]}
    assert tree(folder) == wanted
    left = [path.name for path in (folder / STATE_FOLDER).rglob("*") if path.is_file()]
    assert sorted(left) == sorted(["lock", *(f"{pathlib.Path(name).name}.json" for name in files)])
    for name, data in files.items():
        record = read_record(folder, name)
        assert record.fits((folder / name).stat()) and record.sha256 == sha256(data), name


def start(server, folder):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words_for(server, folder, *EVERYTHING)],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_to_the_end(server, folder):
    with start(server, folder) as process:
        output = process.communicate()[0]
    assert process.returncode == 0, output


def wait_for_data(server, process):
    """Waits until this process asks for a file, or ends."""
    before = len(server.log)
    while process.poll() is None and not [
        row for row in server.log[before:] if row.method == "GET" and "checksums" not in row.path
    ]:
        time.sleep(0.005)


def kill_at_random(folder, seed, num_kills):
    """Kills runs until `num_kills` have died of it; a folder that is whole makes way for another."""
    rng = random.Random(seed)
    kills, number, phases = 0, 0, set()
    with serving() as server:
        files = add_official(server, 60_000)
        server.bytes_per_second = 150_000
        while kills < num_kills:
            root = folder / f"{number:03d}"
            with start(server, root) as process:
                if rng.random() < 0.8:
                    wait_for_data(server, process)
                time.sleep(rng.uniform(0.0, 0.6))
                process.kill()
                output = process.communicate()[0]
            assert process.returncode in (0, -signal.SIGKILL), output
            kills += process.returncode != 0
            check_nothing_half(root, files)
            done = sum(read_record(root, name) is not None for name in files)
            parts = len(list(root.rglob("*.part")))
            phases.add((done, parts))
            if process.returncode == 0:
                check_whole(root, files, server)
                number += 1
        server.bytes_per_second = 0
        for whole in range(number + 1):
            run_to_the_end(server, folder / f"{whole:03d}")
            check_whole(folder / f"{whole:03d}", files, server)
    # Kills that all fall before the first byte would prove nothing.
    assert any(parts for _, parts in phases), phases


def test_killed_in_the_middle_of_a_transfer(tmp_path):
    with serving() as server:
        files = add_official(server, 60_000)
        core = "/ilias_data/ilias_core.tar"
        server.faults[core] = [Fault(stall_at=30_000)]
        with start(server, tmp_path) as process:
            part = tmp_path / "ilias_core.tar.part"
            while not part.exists() or part.stat().st_size < 30_000:
                time.sleep(0.005)
            process.kill()
            process.communicate()
        check_nothing_half(tmp_path, files)
        run_to_the_end(server, tmp_path)
        check_whole(tmp_path, files, server)
        assert server.sent(core) == 60_000  # not a byte twice


@pytest.mark.slow
def test_killed_at_thirty_random_moments(tmp_path):
    kill_at_random(tmp_path, 6, num_kills=30)


class Forks:
    """The command in children of one process that has imported all of it."""

    def __init__(self, server):
        self.server = server
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        words = [sys.executable, "-c", AT_AN_OPERATION]
        self.process = subprocess.Popen(words, env={"PYTHONPATH": str(ROOT)}, **pipes)

    def __call__(self, folder, point="none - 0"):
        """Whether the command came to its end before the point at which it was to be killed."""
        words = words_for(self.server, folder, "--parts", "core,adapters", "--adapters", ADAPTER)
        print(
            point, *words, "--parallel", "1", "--retries", "0", file=self.process.stdin, flush=True
        )
        status = int(self.process.stdout.readline())
        assert status in (0, signal.SIGKILL, 3 << 8), status
        return status != signal.SIGKILL


def leave_parts(server, forks, root):
    """A run that broke: a part that can be resumed, and one of a version that is gone."""
    core, adapter = "/ilias_data/ilias_core.tar", f"/ilias_data/lin_adapt_layers/{ADAPTER}.pth"
    old = noise("old", len(server.files[adapter]))
    server.faults = {core: [Fault(truncate_at=9_000)], adapter: [Fault(body=old, truncate_at=900)]}
    forks(root)
    assert len(list(root.rglob("*.part"))) == 2
    change_etag(root)


def kill_at(tmp_path, points, before):
    """Kills a run at each of the points, and looks at what it left and what the next run makes of it.

    Returns the first point that no run came to, or None.
    """
    with serving() as server:
        files = add_official(server, 30_000)
        names = ("ilias_core.tar", f"lin_adapt_layers/{ADAPTER}.pth")
        wanted = {name: files[name] for name in names}
        forks = Forks(server)
        with forks.process:
            for number, point in enumerate(points):
                root = tmp_path / f"{before[:3]}{number:03d}"
                if before == "two parts":
                    leave_parts(server, forks, root)
                was_whole = forks(root, point)
                check_nothing_half(root, wanted)
                forks(root)
                check_whole(root, wanted, server)
                if was_whole:
                    break
            forks.process.stdin.close()
    return point if was_whole else None


POINTS = (
    "rename .tmp 1",  # the list of files gets its name
    "write .part 1",  # bytes of an old version are dropped, or the part is made
    "write .part.json 1",  # the part is empty, and nothing says yet what it is of
    "write .part 2",  # the first byte
    "rename .part 1",  # all bytes are there
    "rename .part 2",  # one file is whole, and the other nearly
    "write .pth.json 1",  # a whole file has its name but no record
)


@pytest.mark.parametrize("before", ["nothing", "two parts"])
def test_killed_at_named_points(tmp_path, before):
    assert kill_at(tmp_path, POINTS, before) is None


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "two parts"])
def test_killed_before_every_operation_on_a_file(tmp_path, before):
    points = [f"any - {number}" for number in range(1, 200)]
    assert kill_at(tmp_path, points, before) in points[15:-1]


def change_etag(root):
    """Makes the adapter's part one of a version that the server no longer has."""
    (path,) = root.rglob(f"{ADAPTER}.pth.part.json")
    origin = json.loads(path.read_text())
    path.write_text(json.dumps({**origin, "etag": '"an older one"'}))
