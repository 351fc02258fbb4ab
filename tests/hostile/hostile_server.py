"""Tries inputs, each in a process of its own, forked from one that has imported everything.

    python tests/hostile/hostile_server.py FOLDER [NAME ...] < names of cases, a line each

prints a line of JSON for each: name, problem (null if it was answered as it should be), exit code,
seconds and MiB of memory, and the end of what was printed.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "hostile")]

import hostile_damages as damages  # noqa: E402
import hostile_inputs  # noqa: E402
import numpy as np  # noqa: E402
import small_clip  # noqa: E402
from hostile_inputs import TEMPLATES, Case  # noqa: E402

import main as program  # noqa: E402
from ilias_jax import benchmark, cli  # noqa: E402, F401  imported before the forks
from ilias_jax.models.registry.clip import CLIP_VOCABULARY  # noqa: E402
from ilias_jax.models.registry.entry import OPENAI, PublishedFile, Variant  # noqa: E402
from ilias_jax.models.registry.registry import VARIANTS  # noqa: E402

SECONDS, MEMORY_MIB, OUTPUT_BYTES = 20, 2048, 20_000
CODES = (0, 1, 2)
_ADDRESSES = 6 * 2**30  # that JAX and an input may take; most are never used
_FREE = ("out", ".cache")  # of a case's folder: what may change


def _snapshot(folder: pathlib.Path) -> dict[str, str]:
    """Relative path -> what is there, without following links and without what may change."""
    found = {}
    for top, folders, names in os.walk(folder):
        here = pathlib.Path(top).relative_to(folder)
        if here.parts == ():
            folders[:] = [name for name in folders if name not in _FREE]
            names = [name for name in names if name not in _FREE]
        for name in [*folders, *names]:
            path = pathlib.Path(top) / name
            mode = path.lstat().st_mode
            content = hashlib.sha256(path.read_bytes()).hexdigest() if _is_plain(path) else ""
            link = os.readlink(path) if path.is_symlink() else ""
            found[str(here / name)] = f"{mode:o} {link}{content}"
    return found


def _is_plain(path: pathlib.Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _prepare(case: Case, inputs: pathlib.Path, folder: pathlib.Path) -> None:
    """The inputs that the command needs, one of them damaged, and places of odd kinds."""
    for name in (
        "out/home",
        "out/folder",
        *(f"out/folder.{s}" for s in ("json", "safetensors", "hdf5")),
    ):
        (folder / name).mkdir(parents=True)
    template = TEMPLATES[case.template]
    for name in template.needs.split():
        copy = shutil.copytree if (inputs / name).is_dir() else shutil.copy
        copy(inputs / name, folder / name)
    (folder / "file").touch()
    for suffix in ("", ".json", ".safetensors", ".hdf5"):
        os.mkfifo(folder / f"fifo{suffix}")
        (folder / f"link{suffix}").symlink_to((template.needs.split() or ["file"])[0])
    if not case.words and case.target and case.disk is None:
        number = int.from_bytes(hashlib.sha256(case.name.encode()).digest()[:4])
        damage = damages.ALL[case.damage]
        damage(folder / case.target, np.random.default_rng(number))


def _arguments(case: Case) -> list[str]:
    words: list[str] = []
    for word in TEMPLATES[case.template].words.split():
        words += sorted(glob.glob(word)) or [word]
    flags = {word.partition("=")[0] for word in case.words}
    for place in reversed(range(len(words))):
        if words[place] in flags:  # given once: the hostile one
            end = place + 1
            while end < len(words) and not words[end].startswith("--"):
                end += 1
            del words[place:end]
    return [*words, *case.words]


def _child(case: Case, folder: pathlib.Path, pipe: int) -> None:
    """Runs the command; never returns."""
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        os.environ.update(HOME=str(folder / "out" / "home"))
        os.dup2(pipe, 1)
        os.dup2(pipe, 2)
        used = resource.getpagesize() * int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, 2 * (used + _ADDRESSES,))
        if case.disk is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (case.disk, case.disk))
        signal.alarm(SECONDS)
        code = _code_of(_arguments(case))
    except BaseException:  # noqa: BLE001  the parent looks for the traceback
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _code_of(words: list[str]) -> int:
    try:
        if words[0] == "main.py":
            cli.run(program.main, words[1:])
        else:
            cli.main(words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


def _judge(case: Case, status: int, seconds: float, mib: int, printed: str) -> str | None:
    """What is wrong with how a command ended."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        return f"hangs over {SECONDS} s"
    if "Traceback" in printed and (
        "error: " not in printed or f'File "{ROOT}/ilias_jax' in printed
    ):
        return "traceback"  # of the program: those of a user's recipe are shown
    if code not in CODES:
        return f"exit code {code}"
    if case == Case(case.template) and code != TEMPLATES[case.template].code:
        return f"the good input ends with {code}"
    if mib > MEMORY_MIB:
        return f"{mib} MiB"
    if len(printed) > OUTPUT_BYTES:
        return f"{len(printed):,} characters are printed"
    if "\x1b" in printed or "\x07" in printed:
        return "control characters are printed"
    if code and not printed.strip():
        return "no message"
    return None


class Server:
    """Runs cases, some at once."""

    def __init__(self, folder: pathlib.Path, at_once: int) -> None:
        self._folder, self._at_once = folder, at_once
        self._running: dict[int, tuple] = {}

    def run(self, cases: list[Case]) -> None:
        """Prints a line of JSON for each case."""
        for number, case in enumerate(cases):
            while len(self._running) >= self._at_once:
                self._finish_one()
            self._start(case, self._folder / f"case-{number}")
        while self._running:
            self._finish_one()

    def _start(self, case: Case, folder: pathlib.Path) -> None:
        _prepare(case, self._folder / "inputs", folder)
        before = _snapshot(folder)
        sys.stdout.flush()
        ours, theirs = os.pipe()
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 2**20)
        os.set_blocking(ours, False)
        if (pid := os.fork()) == 0:
            _child(case, folder, theirs)
        os.close(theirs)
        self._running[pid] = (case, folder, before, ours, time.monotonic())

    def _finish_one(self) -> None:
        pid, status, usage = os.wait4(-1, 0)
        if pid not in self._running:
            return
        case, folder, before, pipe, start = self._running.pop(pid)
        with contextlib.suppress(ProcessLookupError):  # what it has left behind
            os.killpg(pid, signal.SIGKILL)
        seconds, mib = time.monotonic() - start, usage.ru_maxrss // 1024
        with open(pipe, "rb") as file:
            printed = (file.read() or b"").decode(errors="replace")
        problem = _judge(case, status, seconds, mib, printed)
        after = _snapshot(folder)
        if case.template == "resume":  # its output folder holds the input
            before, after = (
                {k: v for k, v in s.items() if not k.startswith("run")} for s in (before, after)
            )
        if changed := [k for k in before | after if before.get(k) != after.get(k)]:
            problem = f"changed: {', '.join(changed[:3])}"
        line = {"name": case.name, "problem": problem, "code": status, "seconds": round(seconds, 2)}
        print(json.dumps({**line, "mib": mib, "printed": printed[-1500:]}), flush=True)
        shutil.rmtree(folder)


def _in_a_fork(work, *arguments) -> int:
    if (pid := os.fork()) == 0:
        try:
            work(*arguments)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def main() -> None:
    """Makes the inputs, and runs the cases that standard input names, or all."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    files = {"open_clip": PublishedFile("https://example.org/both.safetensors")}
    VARIANTS[small_clip.NAME] = Variant(
        small_clip.CONFIG, 24, 32, files, CLIP_VOCABULARY, ("gelu_exact", None), OPENAI, note="CNN"
    )
    folder = pathlib.Path(sys.argv[1]).absolute()
    if not (folder / "inputs").exists():
        keep = os.dup(1)
        os.dup2(2, 1)
        if os.waitpid(_in_a_fork(hostile_inputs.write, folder / "inputs"), 0)[1]:
            sys.exit("the inputs cannot be made")
        os.dup2(keep, 1)
    wanted = sys.stdin.read().splitlines()
    by_name = {case.name: case for case in hostile_inputs.cases(folder / "inputs")}
    if wanted == ["all"]:
        wanted = list(by_name)
    if wanted == ["list"]:
        print("\n".join(by_name))
        return
    Server(folder, int(os.environ.get("ILIAS_HOSTILE_AT_ONCE", "2"))).run(
        [by_name[n] for n in wanted]
    )


if __name__ == "__main__":
    main()
