"""`ilias-jax download` as a user types it, and what it prints."""

import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from download_server import Fault, add_huggingface, add_official, serving, sha256
from download_server import servers as addresses

from ilias_jax import cli
from ilias_jax.dataset import catalogue, fetch


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(catalogue, "TAXONOMY_SHA256", sha256(b'{"product": {}}\n'))
    with serving() as server:
        add_official(server)
        add_huggingface(server)
        yield server


@pytest.fixture
def run(server, tmp_path, capsys):
    """Runs the command; gives exit code, output and error output, numbers that vary taken out."""
    where = addresses(server)
    words = ["--base_url", where.base_url, "--huggingface_url", where.huggingface_url]
    words += ["--taxonomy_url", where.taxonomy_url, "--retries", "0"]

    def command(*given):
        code = 0
        try:
            cli.main(["download", "--output", str(tmp_path / "data"), *given, *words])
        except SystemExit as end:
            code = end.code
        text = capsys.readouterr()
        out = text.out.replace(str(tmp_path / "data"), "DATA")
        out = re.sub(r"in \d+\.\d s", "in T s", re.sub(r"[\d.,]+ .?B/s", "R/s", out))
        out = re.sub(r"[\d.,]+ .B free", "F free", out)
        return code, out, text.err.replace(str(tmp_path / "data"), "DATA")

    return command


def test_what_a_user_reads(run):
    code, out, _ = run("--tars", "0:2")
    assert code == 0
    assert out.splitlines() == [
        "DATA: 0 of 9 files are there; 9 to fetch (158.6 kB), F free",
        "download: 158.6 kB of 158.6 kB in T s, R/s",
        "DATA: all there, 9 of 9 files, 158.6 kB; 9 fetched, 158.6 kB in T s (R/s)",
        "compared with a published sha256: 4 of 9 files",
        "no sha256 is published for the following; their length was compared, .gz files were "
        "decompressed, and their own sha256 lies in .download/: image_ids/image_query_ids.txt, "
        "image_ids/text_query_ids.txt, image_ids/positive_ids.txt, "
        "image_ids/distractor_ids.txt.gz, image_ids/mini_ilias_yfcc100m_ids.txt",
    ]
    code, out, _ = run("--tars", "0:2")
    assert code == 0 and out.splitlines()[:2] == [
        "DATA: 9 of 9 files are there; 0 to fetch (0 B), F free",
        "DATA: all there, 9 of 9 files, 158.6 kB",
    ]


def test_many_names_are_cut_short(run, tmp_path, server):
    run("--parts", "yfcc")
    for path in (tmp_path / "data/.download/yfcc100m").iterdir():
        path.unlink()
    _, out, _ = run("--parts", "yfcc,core")
    assert "there already, taken after a check: yfcc100m/yfcc100m_0000.tar, " in out


def test_dry_run_writes_nothing(run, tmp_path, server):
    code, out, _ = run("--tars", "5", "--dry_run")
    assert code == 0 and not (tmp_path / "data").exists()
    assert {row.method for row in server.log if "checksums" not in row.path} == {"HEAD"}
    lines = out.splitlines()
    assert re.fullmatch(r"  image_ids/image_query_ids.txt +900 B  no sha256  to fetch", lines[0])
    assert re.fullmatch(r"  yfcc100m/yfcc100m_0005.tar +50.0 kB  sha256 +to fetch", lines[7])
    assert lines[8] == "8 files, 108.6 kB; 108.6 kB to fetch, F free at DATA"


def test_dry_run_says_what_is_there(run, tmp_path, server):
    server.always["/ilias_data/yfcc100m/yfcc100m_0000.tar"] = Fault(truncate_at=20_000)
    assert run("--parts", "yfcc", "--tars", "0:2")[0] == 1
    (tmp_path / "data" / "ilias_core.tar").write_bytes(b"x")
    _, out, _ = run("--parts", "core,yfcc", "--tars", "0:3", "--dry_run")
    standings = [line.split("sha256")[1].strip() for line in out.splitlines()[:4]]
    assert standings == ["there, not checked", "partly there (20.0 kB)", "done", "to fetch"]
    assert out.splitlines()[4].startswith("4 files, 200.0 kB; 130.0 kB to fetch")


def test_a_copy_without_text_queries_says_what_to_do(run):
    code, out, _ = run("--source", "huggingface", "--dry_run")
    assert code == 0
    assert out.splitlines()[-1] == (
        "note: the Hugging Face copy has no text queries; for text-to-image fetch the official "
        "core tar as well: ilias-jax download --output DATA --parts core"
    )


def test_a_failure_is_named_and_the_exit_code_is_1(run, server):
    server.always["/ilias_data/ilias_core.tar"] = Fault(status=404)
    code, out, err = run()
    assert code == 1 and "all there" not in out
    assert err.startswith("error: 1 of 7 files could not be fetched:\n  ilias_core.tar: the server")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--parts", "cores"), "--parts cores: allowed are ids, core, yfcc, adapters"),
        (("--parallel", "0"), "--parallel 0: allowed are 1 to 64"),
        (("--timeout", "0"), "read_timeout 0.0 must be more than 0 seconds"),
        (("--tars", "9"), "--tars 9: there is no tar 9; the 6 tars have the numbers 0 to 5"),
        (("--output", "gs://bucket/x"), "--output gs://bucket/x must be a folder of this machine"),
        (("--output", __file__), f"--output {__file__} is a file; name a folder"),
    ],
)
def test_mistakes_are_named(run, words, message):
    assert run(*words) == (1, "", f"error: {message}\n")


def test_an_interrupt_is_no_traceback(run, monkeypatch):
    def interrupt(*unused, **unused_too):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "bring_dataset", interrupt)
    code, _, err = run()
    assert code == 1
    assert err == "error: interrupted; run the same command again to go on from here\n"


def _start(server, folder, *words, before=""):
    code = f"{before}\nimport sys\nfrom ilias_jax import cli\ncli.main(sys.argv[1:])"
    where = ["--output", str(folder), "--base_url", addresses(server).base_url]
    return subprocess.Popen(
        [sys.executable, "-c", code, "download", *where, *words],
        env={"PYTHONPATH": _root()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_control_c_stops_at_once_and_keeps_the_parts(server, tmp_path):
    core, tar = "/ilias_data/ilias_core.tar", "/ilias_data/yfcc100m/yfcc100m_0000.tar"
    server.bytes_per_second = 20_000
    server.always[tar] = Fault(stall_at=10_000)
    with _start(server, tmp_path, "--parts", "core,yfcc", "--timeout", "600") as process:
        while server.sent(tar) < 10_000 or not server.sent(core):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)  # does not wait for the stalled one
    assert process.returncode == 1
    assert err == "error: interrupted; run the same command again to go on from here\n"
    assert (tmp_path / "ilias_core.tar.part").stat().st_size > 0


def test_a_disk_that_fills_up_keeps_what_it_took(server, tmp_path):
    """A limit on the size of files stands for the end of the disk."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    with _start(server, tmp_path, "--parts", "core", before=limit) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert err == (
        f"error: {tmp_path}/ilias_core.tar.part: File too large; mend that and run the same "
        "command again\n"
    )
    server.log.clear()
    with _start(server, tmp_path, "--parts", "core") as process:
        process.communicate()
    assert process.returncode == 0 and server.sent("/ilias_data/ilias_core.tar") == 30_000


def test_nothing_heavy_is_imported():
    code = (
        "import sys\nfrom ilias_jax.dataset import fetch\n"
        "assert not {'jax', 'tensorflow_datasets'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": _root()})
    code = (
        "import sys\nfrom ilias_jax import cli\ntry: cli.main(['download', '--help'])\n"
        "finally: assert 'requests' not in sys.modules and 'rich' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": _root()}, capture_output=True
    )


def _root():
    return str(pathlib.Path(__file__).parents[2])
