"""Embedding files: what goes in comes out, and damaged files are named."""

import json
import pathlib
import weakref

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from embedding_reader import read
from etils import epath

from ilias_jax.embeddings import file
from ilias_jax.embeddings.file import Embeddings
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.embeddings.sources import Checked
from ilias_jax.errors import UserError

FINGERPRINT = {"model": {"name": "é", "scale": 0.1}, "source": {"num_bytes": 3}, "list": [1, None]}


def some(count: int, dtype: str = "float16", start: int = 0, dim: int = 4) -> Embeddings:
    """`count` rows whose values are their place in the whole sequence."""
    places = np.arange(start, start + count)
    vectors = np.repeat(places[:, None], dim if count else 0, axis=1).astype(dtype)
    ids = tuple(f"tär {start}/{place}" for place in places)
    return Embeddings(
        ids,
        vectors.reshape(count, -1) if count else np.zeros((0, 0), dtype),
        np.arange(count) * 2,
        FINGERPRINT,
        (("bad/1", "OSError: truncated"),),
    )


def file_of(folder: pathlib.Path, name: str, value: Embeddings) -> epath.Path:
    path = epath.Path(folder) / "new" / name
    file.write(path, value)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("count", [0, 1, 37])
def test_round_trip(tmp_path: pathlib.Path, dtype: str, count: int) -> None:
    given = some(count, dtype)
    path = file_of(tmp_path, "a.safetensors", given)
    found = read(path)
    assert found.ids == given.ids and found.rejected == given.rejected
    assert found.vectors.dtype == dtype and found.numbers.dtype == np.int64
    np.testing.assert_array_equal(found.vectors, given.vectors)
    np.testing.assert_array_equal(found.numbers, given.numbers)
    assert found.fingerprint == FINGERPRINT == file.read_header(path).fingerprint
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_views_are_written_as_they_look(tmp_path: pathlib.Path) -> None:
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    ids = ("a", "b", "c")
    for view in (wide[1:, ::2], wide[:3].T[:3]):
        path = file_of(tmp_path, "a", Embeddings(ids, view, np.arange(3), {}))
        np.testing.assert_array_equal(read(path).vectors, view)


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(tmp_path, "a", some(3))

    def broken(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(type(path), "replace", broken)
    with pytest.raises(OSError, match="no space"):
        file.write(path, some(5))
    assert len(read(path).ids) == 3


@pytest.mark.parametrize("keep", [0, 5, 8, 60, 300, -1])
def test_truncated_files_are_named(tmp_path: pathlib.Path, keep: int) -> None:
    path = file_of(tmp_path, "a", some(40))
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(UserError, match=f"{path} .*remove it"):
        read(path)
    what = "is cut short: " if not 0 <= keep < 60 else "is no embedding file of ilias-jax; remove"
    with pytest.raises(UserError, match=f"{path} {what}"):
        EmbeddingFiles([path]).num_rows()


@pytest.mark.parametrize(
    "content",
    [
        b"plain text of some length, no embedding file",  # its first 8 bytes claim exabytes
        b"\xff" * 40,
        b"\x02" + bytes(7) + b"[]",
        b"\x02" + bytes(7) + b"{}",
        b"\x04" + bytes(7) + b"null",
        b"\x11" + bytes(7) + b'{"__metadata__":3}',
    ],
)
@pytest.mark.parametrize("reader", [read, file.read_header])
def test_foreign_files_are_named(tmp_path: pathlib.Path, content: bytes, reader) -> None:
    path = epath.Path(tmp_path) / "foreign"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} is no embedding file of ilias-jax; remove it"):
        reader(path)


def test_the_same_embeddings_give_the_same_bytes(tmp_path: pathlib.Path) -> None:
    vectors = np.eye(3, dtype=np.float32)
    fingerprint = {"b": 1, "a": {"d": 2, "c": 3}}
    for name in ("one", "two"):
        embeddings = file.Embeddings(("x", "y", "z"), vectors, np.arange(3), fingerprint)
        file.write(epath.Path(tmp_path) / name, embeddings)
        fingerprint = {"a": {"c": 3, "d": 2}, "b": 1}
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert EmbeddingFiles([epath.Path(tmp_path) / "one"]).num_rows() == 3


def test_other_formats_are_named(tmp_path: pathlib.Path) -> None:
    path = epath.Path(tmp_path) / "weights"
    path.write_bytes(safetensors.numpy.save({"w": np.zeros(2)}, {"format": "pt"}))
    for reader in (read, file.read_header):
        with pytest.raises(UserError, match=f"{path} is no embedding file"):
            reader(path)
    ours = {"ilias_jax": json.dumps({"format": "ilias-jax embeddings 0"})}
    path.write_bytes(safetensors.numpy.save({"w": np.zeros(2)}, ours))
    for reader in (read, file.read_header):
        with pytest.raises(UserError, match=f"{path} has format 'ilias-jax embeddings 0'"):
            reader(path)


def test_fingerprints_are_compared_by_value() -> None:
    other = {"list": [1, None], "source": {"num_bytes": 3}, "model": {"scale": 0.1, "name": "é"}}
    assert file.canonical_json(FINGERPRINT) == file.canonical_json(other)
    assert file.short_hash(FINGERPRINT) == file.short_hash(other)
    for changed in ({**other, "list": [1]}, {**other, "model": {"name": "é", "scale": 0.2}}):
        assert file.canonical_json(changed) != file.canonical_json(other)
        assert file.short_hash(changed) != file.short_hash(other)
    assert len(file.short_hash(other)) == 12
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.canonical_json({"a": float("nan")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ("a", "b")}, "2 ids for vectors"),
        ({"vectors": np.zeros(3, np.float32)}, "of shape"),
        ({"vectors": np.zeros((3, 2), np.float64)}, "float64, not float16, float32 or uint8"),
        ({"numbers": np.array([0, 2, 2])}, "must rise"),
        ({"numbers": np.array([0, 1])}, "must rise"),
        ({"ids": ("a", "b", "a")}, "repeat"),
        ({"ids": ("a", "b", "c\nd")}, "newline"),
        ({"ids": ("a", "b", "")}, "empty"),
        ({"vectors": np.array([[1], [np.nan], [1]], np.float16)}, "1 vectors are not finite.* b"),
        ({"vectors": np.array([[1], [1], [np.inf]], np.float32)}, "1 vectors are not finite.* c"),
    ],
)
def test_impossible_embeddings_are_refused(changes: dict, message: str) -> None:
    good = {
        "ids": ("a", "b", "c"),
        "vectors": np.ones((3, 2), np.float32),
        "numbers": np.array([0, 4, 5]),
        "fingerprint": {},
    }
    Embeddings(**good)
    with pytest.raises(ValueError, match=message):
        Embeddings(**{**good, **changes})


@pytest.mark.parametrize(
    "counts", [(5, 7, 1), (0, 5, 0, 0, 3, 0), (16,), (4, 4, 4), (0, 0), (1,) * 9, (30, 1)]
)
def test_several_files_are_one_sequence(tmp_path: pathlib.Path, counts: tuple[int, ...]) -> None:
    starts = np.cumsum((0, *counts))
    paths = [
        file_of(tmp_path, str(i), some(count, start=int(start)))
        for i, (count, start) in enumerate(zip(counts, starts, strict=False))
    ]
    sequence = EmbeddingFiles(paths)
    total = sum(counts)
    expected = np.repeat(np.arange(total)[:, None], 4, axis=1)
    assert len(sequence.ids()) == len(set(sequence.ids())) == total
    assert sequence.rejected() == [("bad/1", "OSError: truncated")] * len(counts)
    assert sequence.vectors().dtype == np.float16
    np.testing.assert_array_equal(sequence.vectors(), expected if total else np.zeros((0, 0)))
    for num_rows in (1, 3, 4, 8, 100):
        blocks = list(sequence.blocks(num_rows))
        assert [len(block) for block in blocks[:-1]] == [num_rows] * (len(blocks) - 1)
        assert len(blocks) == -(-total // num_rows)
        if blocks:
            assert 0 < len(blocks[-1]) <= num_rows
            np.testing.assert_array_equal(np.concatenate(blocks), expected)


def note_opened(monkeypatch: pytest.MonkeyPatch) -> list[epath.Path]:
    """The files that are opened for their rows from now on, in order."""
    opened: list[epath.Path] = []
    fill, open_file, is_filling = file.RowReader.fill, file._open, []

    def noting_fill(self, *arguments) -> None:
        is_filling.append(True)
        fill(self, *arguments)
        is_filling.pop()

    def noting_open(path: epath.Path):
        opened.extend([path] * len(is_filling))
        return open_file(path)

    monkeypatch.setattr(file.RowReader, "fill", noting_fill)
    monkeypatch.setattr(file, "_open", noting_open)
    return opened


def test_files_are_read_one_at_a_time_and_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [file_of(tmp_path, str(i), some(4, start=4 * i)) for i in range(5)]
    opened = note_opened(monkeypatch)
    blocks = EmbeddingFiles(paths).blocks(6)
    next(blocks)
    assert opened == paths[:2]
    list(blocks)
    assert opened == paths


def test_any_rows_come_from_the_files_that_hold_them_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = (5, 0, 7, 1, 12)
    starts = np.cumsum((0, *counts))
    paths = [
        file_of(tmp_path, str(i), some(count, "float32", start=int(start)))
        for i, (count, start) in enumerate(zip(counts, starts, strict=False))
    ]
    opened = note_opened(monkeypatch)
    sequence = EmbeddingFiles(paths)
    indices = np.array([[24, 0, 4], [12, 24, 3]])
    found = sequence.rows(indices)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.repeat(indices[..., None], 4, axis=2))
    assert opened == [paths[0], paths[3], paths[4]]
    everything = np.arange(25)[::-1]
    np.testing.assert_array_equal(sequence.rows(everything), sequence.vectors()[::-1])
    assert sequence.rows(np.zeros((0, 3), np.int64)).shape[:2] == (0, 3)
    for wrong in ([-1, 3], [25]):
        with pytest.raises(IndexError, match=r"rows .* of 25"):
            sequence.rows(np.array(wrong))


@pytest.mark.parametrize("missing", [1, 100, 400])
def test_files_that_are_cut_short_are_named_before_anything_is_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    paths = [file_of(tmp_path, f"{i}.safetensors", some(40, start=40 * i)) for i in range(2)]
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[:-missing])
    opened = note_opened(monkeypatch)
    whole, cut = f"{len(data):,}", f"{len(data) - missing:,}"
    message = rf"1\.safetensors is cut short: {cut} of {whole} bytes; remove it .*copy it again"
    for ask in (
        lambda files: next(files.blocks(8)),
        lambda files: files.num_rows(),
        lambda files: files.rows(np.array([0])),
        lambda files: files.ids(),
    ):
        with pytest.raises(UserError, match=message):
            ask(EmbeddingFiles(paths))
    for reader in (file.read_ids, file.read_numbers):
        with pytest.raises(UserError, match=message):
            reader(paths[1])
    assert opened == []


def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path: pathlib.Path) -> None:
    path = file_of(tmp_path, "a.safetensors", some(4000, dim=64))
    blocks = EmbeddingFiles([path]).blocks(1000)
    next(blocks)
    path.write_bytes(path.read_bytes()[:300_000])
    next(blocks)
    with pytest.raises(UserError, match="a.safetensors is cut short: it ends at 300,000 of"):
        next(blocks)


@pytest.mark.parametrize("shape", [[40, 5], [41, 4]])
def test_a_header_that_does_not_fit_its_tensors_is_named(
    tmp_path: pathlib.Path, shape: list[int]
) -> None:
    path = file_of(tmp_path, "a.safetensors", some(40))
    path.write_bytes(path.read_bytes().replace(b"[40,4]", str(shape).replace(" ", "").encode()))
    with pytest.raises(UserError, match=r"a\.safetensors is damaged .*do not fit .*remove it"):
        EmbeddingFiles([path]).num_rows()


def test_forged_headers_are_named(tmp_path: pathlib.Path) -> None:
    path = file_of(tmp_path, "a.safetensors", some(40))
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    whole = json.loads(data[8:end])
    ours = json.loads(whole["__metadata__"]["ilias_jax"])
    no_fingerprint = {key: value for key, value in ours.items() if key != "fingerprint"}
    for changes in (
        {"vectors": {**whole["vectors"], "shape": ["many", 4]}},
        {"vectors": {**whole["vectors"], "shape": None}},
        {"vectors": {**whole["vectors"], "dtype": "F64"}},
        {"vectors": {**whole["vectors"], "data_offsets": [-8, 312]}},
        {"ids": {**whole["ids"], "data_offsets": [700, 650]}},
        {"numbers": 3},
        {"__metadata__": {"ilias_jax": json.dumps(no_fingerprint)}},
        {"__metadata__": {"ilias_jax": json.dumps({**ours, "rejected": [1]})}},
    ):
        header = json.dumps({**whole, **changes}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
        for reader in (read, file.read_header, file.read_ids, file.read_numbers):
            with pytest.raises(UserError, match=r"a\.safetensors is damaged \(.*remove it"):
                reader(path)


def test_ids_that_are_no_text_are_named(tmp_path: pathlib.Path) -> None:
    path = file_of(tmp_path, "a.safetensors", some(40))
    path.write_bytes(path.read_bytes().replace("tär".encode(), b"t\xff\xffr"))
    with pytest.raises(UserError, match=r"a\.safetensors is damaged \(.*utf-8.*remove it"):
        file.read_ids(path)


def test_folders_and_missing_files_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for name, what in (("folder", "is a folder"), ("none", "no such file")):
        path = epath.Path(tmp_path) / f"{name}.safetensors"
        with pytest.raises(UserError, match=rf"{name}\.safetensors: {what}"):
            EmbeddingFiles([path]).num_rows()
        with pytest.raises(UserError, match=what):
            file.read_header(path)


def test_files_of_another_length_are_named_before_anything_is_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [file_of(tmp_path, str(dim), some(3, start=dim, dim=dim)) for dim in (4, 6)]
    opened = note_opened(monkeypatch)
    message = f"differ in length: {paths[0]} has D = 4 and {paths[1]} has D = 6; are they of one"
    with pytest.raises(UserError, match=message):
        next(EmbeddingFiles(paths).blocks(2))
    assert opened == []


def test_headers_are_read_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = EmbeddingFiles([file_of(tmp_path, "a", some(9))])
    assert sequence.num_rows() == 9
    monkeypatch.setattr(file, "_read_start", None)
    assert sequence.num_rows() == 9 and sequence.dim == 4 and len(sequence.ids()) == 9
    assert len(list(sequence.blocks(2))) == 5 and len(sequence.rows(np.array([3]))) == 1


def test_rows_of_mixed_dtypes_are_float32_wherever_they_are(tmp_path: pathlib.Path) -> None:
    dtypes = ("float16", "float32", "float16", "float32")
    paths = [
        file_of(tmp_path, str(i), some(0 if i == 3 else 5, dtype, start=5 * i))
        for i, dtype in enumerate(dtypes)
    ]
    expected = np.repeat(np.arange(15)[:, None], 4, axis=1)
    sequence = EmbeddingFiles(paths)
    for found in (
        sequence.vectors(),
        sequence.rows(np.arange(15)),
        np.concatenate(list(sequence.blocks(4))),
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert {block.dtype for block in sequence.blocks(2)} == {np.dtype(np.float32)}
    # A shard without a row says nothing.
    assert EmbeddingFiles([paths[0], paths[3]]).dtype == np.float16


@pytest.mark.parametrize("has_readinto", [True, False])
def test_files_of_buckets_may_read_little_at_a_time_and_lack_readinto(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, has_readinto: bool
) -> None:
    class Slow:
        def __init__(self, path: epath.Path) -> None:
            self.file = path.open("rb")
            self.seek, self.close = self.file.seek, self.file.close
            if has_readinto:
                self.readinto = lambda target: self.file.readinto(target[:100])

        def read(self, count: int) -> bytes:
            return self.file.read(min(count, 100))

    paths = [file_of(tmp_path, str(i), some(30, start=30 * i)) for i in range(3)]
    sequence = EmbeddingFiles(paths)
    expected = sequence.vectors()
    monkeypatch.setattr(file, "_open", Slow)
    for num_rows in (7, 45, 100):
        np.testing.assert_array_equal(np.concatenate(list(sequence.blocks(num_rows))), expected)
    chosen = np.array([1, 2, 50, 88, 3])
    np.testing.assert_array_equal(sequence.rows(chosen), expected[chosen])


def test_blocks_that_were_handed_on_are_not_kept(tmp_path: pathlib.Path) -> None:
    """Memory is what the caller keeps, and one block while it is read."""
    sequence = EmbeddingFiles([file_of(tmp_path, str(i), some(8, start=8 * i)) for i in range(3)])
    for source in (sequence, Checked(EmbeddingFiles([file_of(tmp_path, "u", units(24))]))):
        blocks = source.blocks(5)
        for _ in range(5):
            block = next(blocks)
            gone = weakref.ref(block)
            del block
            assert gone() is None


def units(count: int) -> Embeddings:
    """Rows of length 1."""
    rows = np.eye(4, dtype=np.float16)[np.arange(count) % 4]
    return Embeddings(tuple(map(str, range(count))), rows, np.arange(count), {})


def test_blocks_stay_as_they_are_when_the_next_is_read(tmp_path: pathlib.Path) -> None:
    paths = [file_of(tmp_path, str(i), some(10, start=10 * i)) for i in range(3)]
    kept = list(EmbeddingFiles(paths).blocks(4))
    assert not any(np.shares_memory(a, b) for a, b in zip(kept, kept[1:], strict=False))
    np.testing.assert_array_equal(np.concatenate(kept)[:, 0], np.arange(30))


@pytest.mark.parametrize("gap", [0, 8, 80, 10**6])
@pytest.mark.parametrize("run", [16, 200, 10**6])
def test_picked_rows_are_the_same_whatever_is_read_together(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, gap: int, run: int
) -> None:
    monkeypatch.setattr(file, "_GAP_LOCAL", gap)
    monkeypatch.setattr(file, "_RUN_BYTES", run)
    counts, rng = (50, 0, 70, 1), np.random.default_rng(0)
    starts = np.cumsum((0, *counts))
    sequence = EmbeddingFiles(
        [
            file_of(tmp_path, str(i), some(count, start=int(start)))
            for i, (count, start) in enumerate(zip(counts, starts, strict=False))
        ]
    )
    for count in (1, 5, 40, 121):
        indices = rng.choice(121, (count, 2))
        np.testing.assert_array_equal(
            sequence.rows(indices), np.repeat(indices[..., None], 4, axis=2)
        )


def test_the_place_of_a_row_is_its_file_its_row_there_and_its_id(tmp_path: pathlib.Path) -> None:
    paths = [
        file_of(tmp_path, str(i), some(count, start=start))
        for i, (count, start) in enumerate(((5, 0), (0, 5), (7, 5)))
    ]
    sequence = EmbeddingFiles(paths)
    assert sequence.place_of(4) == f"{paths[0]}, row 4 (tär 0/4)"
    assert sequence.place_of(5) == f"{paths[2]}, row 0 (tär 5/5)"
    assert sequence.place_of(11) == f"{paths[2]}, row 6 (tär 5/11)"


def test_rows_open_the_files_alone_that_hold_them(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [file_of(tmp_path, str(i), some(4, start=4 * i)) for i in range(5)]
    opened = note_opened(monkeypatch)
    found = EmbeddingFiles(paths).rows(np.arange(5, 15))
    np.testing.assert_array_equal(found[:, 0], np.arange(5, 15))
    assert set(opened) == set(paths[1:4])


@pytest.fixture
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_STRETCH", 40)  # of rows of 8 bytes each: no stretch is alone


@pytest.mark.usefixtures("short_stretches")
@pytest.mark.parametrize("num_rows", [1, 2, 4, 5, 7, 64])
@pytest.mark.parametrize("row", [0, 4, 5, 28, 31])
def test_altered_vectors_are_named_however_they_are_read(
    tmp_path: pathlib.Path, num_rows: int, row: int
) -> None:
    """The sign of one channel: the length of the vector stays."""
    first, second = file_of(tmp_path, "a", some(3)), file_of(tmp_path, "b", some(32, start=9))
    files = EmbeddingFiles([first, second])
    assert sum(map(len, files.blocks(num_rows))) == 35
    start, _ = file.read_header(second).vectors
    data = bytearray(second.read_bytes())
    at = start + 8 * row
    data[at + 1] ^= 0x80
    second.write_bytes(data)
    number = 40 * (8 * row // 40)
    rows = f"rows {number // 8} to {min(number + 39, 255) // 8} are not those that were written"
    for way in (
        lambda: list(files.blocks(num_rows)),
        files.vectors,
        lambda: files.rows(np.arange(2, 35)),
    ):
        with pytest.raises(UserError, match=f"{second} is damaged .{rows}"):
            way()


@pytest.mark.usefixtures("short_stretches")
@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 16, 31])
def test_windows_read_apart_miss_no_altered_stretch(tmp_path: pathlib.Path, size: int) -> None:
    """As ScaNN's build reads a database, and processes that share an exact search."""
    path = file_of(tmp_path, "a", some(32))
    files, good = EmbeddingFiles([path]), path.read_bytes()
    start, end = file.read_header(path).vectors
    windows = [np.arange(at, min(at + size, 32)) for at in range(0, 32, size)]
    for at in range(start, end, 9):
        data = bytearray(good)
        data[at] ^= 0x80
        path.write_bytes(data)
        found = 0
        for window in windows:
            try:
                files.rows(window)
            except UserError as error:
                assert "are not those that were written" in str(error)
                found += 1
        assert found == 1
    path.write_bytes(good)
    np.testing.assert_array_equal(
        np.concatenate([files.rows(w) for w in windows]), some(32).vectors
    )


@pytest.mark.usefixtures("short_stretches")
def test_rows_of_any_stretches_are_compared_and_read(tmp_path: pathlib.Path) -> None:
    path = file_of(tmp_path, "a", some(32))
    files = EmbeddingFiles([path])
    for wanted in ([3], [3, 4, 5, 6], [0, 1, 7, 8, 9, 20], [4, 5, 6, 7, 8, 9, 10, 31]):
        np.testing.assert_array_equal(files.rows(np.array(wanted)), some(32).vectors[wanted])


def test_files_without_checksums_are_read(tmp_path: pathlib.Path) -> None:
    """Of versions that wrote none."""
    path = file_of(tmp_path, "a", some(3))
    with safetensors.safe_open(str(path), "np") as opened:
        header = json.loads(opened.metadata()[file.KEY])
        tensors = {name: opened.get_tensor(name) for name in ("vectors", "numbers", "ids")}
    del header["checksums"]
    path.write_bytes(safetensors.numpy.save(tensors, {file.KEY: file.canonical_json(header)}))
    np.testing.assert_array_equal(EmbeddingFiles([path]).vectors(), some(3).vectors)
