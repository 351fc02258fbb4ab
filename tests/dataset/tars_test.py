"""Tars: the same members as Python's tarfile finds, and hostile ones named with their byte."""

import gzip
import io
import pathlib
import random
import tarfile
import tracemalloc

import pytest
from official_forms import tar_of

from ilias_jax.dataset import tars
from ilias_jax.dataset.tars import DamagedTarError

LONG = "f" * 120 + "/" + "n" * 60 + ".jpg"  # needs the prefix of ustar
VERY_LONG = "/".join(["deep" * 20] * 5) + "/größe.jpg"
CONTENT = [("a.jpg", b"x" * 1000), ("b.txt", b""), (LONG, b"y" * 512), ("c.jpg", b"z")]


def expected(path: pathlib.Path) -> list[tuple[str, int, int, bytes | None]]:
    """(name, offset, size, data of files) as tarfile has them."""
    with tarfile.open(path) as oracle:
        found = []
        for member in oracle:
            file = oracle.extractfile(member) if member.isreg() and not member.issparse() else None
            found.append((member.name, member.offset_data, member.size, file and file.read()))
    return found


def found(path: pathlib.Path) -> list[tuple[str, int, int, bytes | None]]:
    return [(m.name.rstrip("/"), m.offset, m.size, m.data) for m in tars.members(path)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(tmp_path, form):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=form) as writer:
        for name, data in CONTENT:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            writer.addfile(member, io.BytesIO(data))
        if form != tarfile.USTAR_FORMAT:
            member = tarfile.TarInfo(VERY_LONG)
            member.size = 3
            writer.addfile(member, io.BytesIO(b"abc"))
        for kind, name in ((tarfile.DIRTYPE, "d"), (tarfile.SYMTYPE, "s"), (tarfile.LNKTYPE, "l")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a" * 150 if form != tarfile.USTAR_FORMAT else "a"
            writer.addfile(member)
        member = tarfile.TarInfo("last.jpg")
        member.size = 5
        writer.addfile(member, io.BytesIO(b"12345"))
    assert found(path) == expected(path)


def test_random_tars_are_read_as_tarfile_reads_them(tmp_path):
    rng = random.Random(3)
    for number in range(20):
        path = tmp_path / f"{number}.tar"
        form = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
        with tarfile.open(path, "w", format=form) as writer:
            for _ in range(rng.randrange(12)):
                data = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 5000]))
                name = "é" * rng.choice([1, 3]) + "/" + "f" * rng.choice([1, 60, 97])
                member = tarfile.TarInfo(name)
                member.size = len(data)
                writer.addfile(member, io.BytesIO(data))
        assert found(path) == expected(path)


def test_data_that_is_not_wanted_is_not_read(tmp_path):
    path = tar_of(tmp_path / "x.tar", CONTENT)
    members = list(tars.members(path, is_wanted=lambda name: name == "c.jpg"))
    assert [(m.name, m.data) for m in members] == [
        (n, b"z" * (n == "c.jpg") or None) for n, _ in CONTENT
    ]


def test_kinds_are_in_words(tmp_path):
    path = tmp_path / "x.tar"
    kinds = {
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a character device",
        tarfile.BLKTYPE: "a block device",
        tarfile.FIFOTYPE: "a named pipe",
        tarfile.GNUTYPE_SPARSE: "a sparse file",
        tarfile.DIRTYPE: "a folder",
        b"Z": "a member of the unknown type b'Z'",
    }
    with tarfile.open(path, "w") as writer:
        for kind in kinds:
            member = tarfile.TarInfo("x.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            writer.addfile(member)
    members = list(tars.members(path))
    assert [m.kind for m in members] == list(kinds.values())
    assert all(m.data is None for m in members)


def test_pax_sparse_files_are_no_files(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as writer:
        member = tarfile.TarInfo("GNUSparseFile.0/x.jpg")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "x.jpg"}
        member.size = 512
        writer.addfile(member, io.BytesIO(bytes(512)))
    (member,) = tars.members(path)
    assert (member.name, member.kind, member.data) == ("x.jpg", "a sparse file", None)


def test_an_old_sparse_map_is_passed_over(tmp_path):
    path = tmp_path / "x.tar"
    member = tarfile.TarInfo("s.jpg")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1  # the map goes on in two more blocks
    sealed = seal(header)
    more, last = bytearray(512), bytes(512)
    more[504] = 1
    after = tarfile.TarInfo("after.jpg").tobuf()
    path.write_bytes(sealed + bytes(more) + last + b"d" * 512 + after + bytes(1024))
    assert [(m.name, m.kind) for m in tars.members(path)] == [
        ("s.jpg", "a sparse file"),
        ("after.jpg", "a file"),
    ]


def test_names_that_are_not_utf_8_are_marked(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as writer:
        writer.addfile(tarfile.TarInfo("gr\xf6\xdfe.jpg"))
    (member,) = tars.members(path)
    assert (member.name, member.is_utf8) == ("gr\\xf6\\xdfe.jpg", False)


def test_a_member_that_is_too_large_is_passed_over(tmp_path):
    """4 GB that are truly there: a hole in the file, which is not read."""
    path, size = tmp_path / "x.tar", 4 << 30
    big = tarfile.TarInfo("big.jpg")
    big.size = size
    with path.open("wb") as file:
        file.write(big.tobuf(tarfile.GNU_FORMAT))
        file.seek(size, 1)
        file.write(tarfile.TarInfo("after.jpg").tobuf() + bytes(1024))
    assert [(m.name, m.size, m.data) for m in tars.members(path)] == [
        ("big.jpg", size, None),
        ("after.jpg", 0, b""),
    ]


def seal(header: bytearray) -> bytes:
    """A header with the right checksum."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def claiming(field: bytes, kind: bytes = b"0") -> bytes:
    """A header whose size field is as given."""
    header = bytearray(tarfile.TarInfo("x.jpg").tobuf())
    header[124:136] = field.ljust(12, b"\0")
    header[156:157] = kind
    return seal(header)


def base256(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big")


GOOD = tarfile.TarInfo("good.jpg").tobuf()
END = bytes(1024)
BAD_PAX = claiming(b"00000000010", b"x") + b"99 path=".ljust(512, b"\0")


@pytest.mark.parametrize(
    ("content", "byte", "message"),
    [
        (b"", 0, "no end of archive"),
        (GOOD, 512, "no end of archive"),
        (GOOD + bytes(100), 512, "no end of archive"),
        (GOOD + b"\x1f\x8b" + END, 512, "checksum is wrong"),
        (GOOD + b"<html>not found".ljust(512), 512, "checksum is wrong"),
        (GOOD + END + GOOD, 1024, "more than zeros follow"),
        (claiming(b"77777777777") + END, 0, "claims 8,589,934,591 bytes, but 1,024 are left"),
        (claiming(base256(4 << 30)) + END, 0, "claims 4,294,967,296 bytes"),
        (claiming(base256(1 << 80)) + END, 0, "claims 1,208,925,819,614,629,174,706,176 bytes"),
        (claiming(b"\xff" * 12) + END, 0, "its header has the size"),
        (claiming(b"-1") + END, 0, "its header has the size"),
        (claiming(b"12x") + END, 0, "its header has the size"),
        (claiming(b"77777777777", b"L") + END, 0, "long name or pax header claims 8,589,934,591"),
        (claiming(b"77777777777", b"x") + END, 0, "long name or pax header claims 8,589,934,591"),
        (claiming(b"10000", b"L") + b"n", 0, "is cut"),
        (BAD_PAX + GOOD + END, 1024, "pax header is malformed"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_byte(tmp_path, content, byte, message):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(DamagedTarError) as error:
        list(tars.members(path))
    assert str(error.value).startswith(f"{path} is damaged at byte {byte:,} (")
    assert message in str(error.value) and str(error.value).endswith("; download it again")


def test_a_claimed_size_takes_no_memory(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(claiming(base256(200 << 20)) + END)  # allowed for an image, but not there
    tracemalloc.start()
    with pytest.raises(DamagedTarError, match="claims 209,715,200 bytes"):
        list(tars.members(path))
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("size", ["4294967296", "-5", "1e9", "9" * 30])
def test_a_pax_size_is_not_trusted(tmp_path, size):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as writer:
        member = tarfile.TarInfo("x.jpg")
        member.pax_headers = {"size": size}
        writer.addfile(member)
    with pytest.raises(DamagedTarError, match="claims 4,294|pax header has the size"):
        list(tars.members(path))


def test_a_global_header_that_renames_all_members_is_refused(tmp_path):
    path = tmp_path / "x.tar"
    for headers, bad in (({"comment": "fine"}, False), ({"path": "x"}, True)):
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=headers) as writer:
            writer.addfile(tarfile.TarInfo("x.jpg"))
        if bad:
            with pytest.raises(DamagedTarError, match=r"a global header sets \[b'path'\]"):
                list(tars.members(path))
        else:
            assert [m.name for m in tars.members(path)] == ["x.jpg"]


def test_every_cut_is_noticed(tmp_path):
    """A tar cut anywhere before its end mark is never taken for whole."""
    whole = tar_of(tmp_path / "whole.tar", CONTENT).read_bytes()
    end = whole.rindex(b"z") + 511  # the last member's block
    path = tmp_path / "x.tar"
    for length in [*range(0, end, 97), end // 512 * 512, end]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedTarError):
            list(tars.members(path))


def test_random_damage_gives_members_or_a_message(tmp_path):
    rng = random.Random(5)
    whole = tar_of(tmp_path / "whole.tar", CONTENT).read_bytes()
    path = tmp_path / "x.tar"
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            list(tars.members(path))
        except DamagedTarError as error:
            assert str(path) in str(error)


def test_a_packed_tar_is_named_as_one(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(gzip.compress(bytes(4096)))
    with pytest.raises(DamagedTarError, match="x.tar is a file packed with gzip; unpack it"):
        list(tars.members(path))
