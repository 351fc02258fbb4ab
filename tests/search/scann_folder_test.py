"""Indexes that are kept: loaded instead of built, resumed, and never another database's."""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from etils import epath
from memory_vectors import MemoryVectors, clustered

from ilias_jax.config import ScannConfig
from ilias_jax.errors import UserError
from ilias_jax.search import scann
from ilias_jax.search.scann import ScannSearch, part_bytes

# Three parts of a thousand rows.
CONFIG = ScannConfig(memory_gb=part_bytes(ScannConfig(), 1100, 32) / 1e9, reorder=300)
VECTORS = clustered(np.random.default_rng(0), 3000)
QUERIES = clustered(np.random.default_rng(1), 6)


@pytest.fixture
def built(monkeypatch):
    """First rows of the parts that are built, in order."""
    noted = []
    real = scann.build_part

    def build(rows, *arguments):
        noted.append(int(np.flatnonzero((rows[0] == VECTORS).all(axis=1))[0]))
        return real(rows, *arguments)

    monkeypatch.setattr(scann, "build_part", build)
    return noted


def _open(folder, origin="files a", config=CONFIG, vectors=VECTORS, k=50):
    return ScannSearch(config, epath.Path(folder), origin).open(MemoryVectors(vectors), k)


def _search(folder, **options):
    return _open(folder, **options).search(QUERIES)


def _overlap(found):
    """Share of the exact lists; ScaNN's threads do not train the same index every time."""
    exact = np.argsort(-(QUERIES @ VECTORS.T), axis=1, kind="stable")[:, :50]
    return np.mean([np.isin(a, b).mean() for a, b in zip(exact, found[1], strict=True)])


def _parts(folder):
    return sorted(folder.glob("*/part-*.zip"))


def test_a_later_run_loads_and_does_not_even_read_the_database(tmp_path, built):
    first = _search(tmp_path)
    assert built == [0, 1000, 2000]
    database = MemoryVectors(VECTORS)
    index = ScannSearch(CONFIG, epath.Path(tmp_path), "files a").open(database, 50)
    second = index.search(QUERIES)
    assert built == [0, 1000, 2000] and database.num_rows_read < 2000
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    names = [path.name for path in _parts(tmp_path)]
    assert names == [f"part-0000{part}-of-00003.zip" for part in range(3)]
    assert index.facts()["index_bytes"] == sum(path.stat().st_size for path in _parts(tmp_path))


def test_what_a_search_may_choose_builds_nothing_anew(tmp_path, built):
    _search(tmp_path)
    config = ScannConfig(**{**vars(CONFIG), "num_leaves_to_search": 20, "reorder": 500})
    assert _open(tmp_path, config=config, k=20).search(QUERIES)[1].shape == (6, 20)
    assert len(built) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"origin": "files b"},
        {"vectors": VECTORS[:2900]},
        {"config": ScannConfig(**{**vars(CONFIG), "num_leaves": 31})},
        {"config": ScannConfig(**{**vars(CONFIG), "anisotropic_threshold": 0.1})},
        {"config": ScannConfig(**{**vars(CONFIG), "soar_lambda": 1.0})},
    ],
    ids=["origin", "rows", "leaves", "threshold", "soar"],
)
def test_another_database_or_configuration_gets_an_index_of_its_own(tmp_path, built, change):
    _search(tmp_path)
    _search(tmp_path, **change)
    count = len(built)
    assert count > 3 and len(list(tmp_path.iterdir())) == 2
    _search(tmp_path)
    _search(tmp_path, **change)
    assert len(built) == count  # both are still there


def test_a_killed_build_goes_on_with_the_part_that_is_missing(tmp_path, built, monkeypatch):
    real = scann.save_part

    def save(searcher, path, mark):
        if "part-00001" in path.name:
            raise KeyboardInterrupt
        real(searcher, path, mark)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scann, "save_part", save)
        _open(tmp_path)
    assert [path.name for path in _parts(tmp_path)] == ["part-00000-of-00003.zip"]
    del built[:]
    resumed = _search(tmp_path)
    assert built == [1000, 2000]
    assert _overlap(resumed) > 0.9


_BUILD = """
import sys
import numpy as np
from etils import epath
sys.path[:0] = sys.argv[2:]
import scann_folder_test
from ilias_jax.search import scann
real = scann.save_part
def save(searcher, path, mark):
    if "part-00002" in path.name:
        print("two parts", flush=True)
        sys.stdin.read()  # waits for the kill
    real(searcher, path, mark)
scann.save_part = save
scann_folder_test._open(sys.argv[1])
"""


def test_a_build_that_was_killed_leaves_whole_parts_alone(tmp_path, built):
    folders = [str(folder) for folder in pathlib.Path(__file__).parents[:2]]
    words = [sys.executable, "-c", _BUILD, str(tmp_path), *folders]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, text=True, **pipes) as process:
        lines = iter(process.stdout.readline, "")
        assert any("two parts" in line for line in lines)
        process.kill()
    assert len(_parts(tmp_path)) == 2
    found = _search(tmp_path)
    assert built == [2000]
    assert _overlap(found) > 0.9


def test_a_lost_part_in_the_middle_is_built_from_its_own_rows(tmp_path, built):
    _search(tmp_path)
    _parts(tmp_path)[1].unlink()
    del built[:]
    found = _search(tmp_path)
    assert built == [1000]
    assert _overlap(found) > 0.9


def test_a_write_that_fails_leaves_no_part(tmp_path, monkeypatch):
    searcher = scann.build_part(VECTORS[:1000], 10, CONFIG)

    def copy(*_):
        raise OSError("disk full")

    monkeypatch.setattr("shutil.copyfileobj", copy)
    with pytest.raises(OSError, match="disk full"):
        scann.save_part(searcher, epath.Path(tmp_path / "part.zip"), "mark")
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    searcher = scann.build_part(VECTORS[:1000], 10, CONFIG)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(UserError, match=f"temporary folder {tmp_path}.* another in TMPDIR"):
            scann.save_part(searcher, epath.Path(tmp_path / "part.zip"), "mark")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_part_that_was_cut_short_is_named(tmp_path, keep):
    _search(tmp_path)
    path = _parts(tmp_path)[2]
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match="part-00002-of-00003.zip is damaged .* remove it"):
        _search(tmp_path)


def test_a_part_with_other_bytes_is_named(tmp_path):
    _search(tmp_path)
    path = _parts(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match="part-00000-of-00003.zip is damaged .* remove it"):
        _search(tmp_path)


def test_a_part_of_another_database_is_refused(tmp_path):
    _search(tmp_path / "a")
    _search(tmp_path / "b", origin="files b")
    part = _parts(tmp_path / "b")[1]
    part.write_bytes(_parts(tmp_path / "a")[1].read_bytes())
    with pytest.raises(UserError, match="part-00001.* is a part of another index .* remove it"):
        _search(tmp_path / "b", origin="files b")


def test_a_part_in_the_place_of_another_is_refused(tmp_path):
    _search(tmp_path)
    first, second, _ = _parts(tmp_path)
    first.write_bytes(second.read_bytes())
    with pytest.raises(UserError, match="part-00000.* is a part of another index"):
        _search(tmp_path)


@pytest.mark.parametrize("text", ["{}", "no json"])
def test_a_manifest_of_another_index_is_refused(tmp_path, text):
    _search(tmp_path)
    (manifest,) = tmp_path.glob("*/index.json")
    assert json.loads(manifest.read_text())["origin"] == "files a"
    manifest.write_text(text)
    with pytest.raises(UserError, match="index.json is not the manifest .* remove the folder"):
        _search(tmp_path)


def test_a_row_that_is_not_finite_is_named(tmp_path):
    vectors = VECTORS.copy()
    vectors[100, 7] = np.nan
    with pytest.raises(UserError, match="memory row 100 is not finite"):
        _search(tmp_path, vectors=vectors)
    assert not _parts(tmp_path)  # looked for before ScaNN meets it
