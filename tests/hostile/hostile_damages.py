"""What is done to a good file before a command reads it, by name; a seed makes each the same again."""

import gzip
import io
import json
import os
import pathlib
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable

import h5py
import numpy as np

Damage = Callable[[pathlib.Path, np.random.Generator], None]
CANARY = "code_of_a_file_ran"
DEPTH = 100_000


class _Payload:
    """Makes a file where it is unpickled, which every snapshot shows."""

    def __reduce__(self):
        return os.mkdir, (CANARY,)


def _bytes(change: Callable[[bytes, np.random.Generator], bytes]) -> Damage:
    return lambda path, rng: path.write_bytes(change(path.read_bytes(), rng)) and None


def _instead(make: Callable[[pathlib.Path], object]) -> Damage:
    def damage(path: pathlib.Path, rng: np.random.Generator) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return damage


def _flip(count: int, first: int | None = None) -> Damage:
    """Random bits of `count` bytes, among the `first` bytes if given."""

    def change(data: bytes, rng: np.random.Generator) -> bytes:
        out = bytearray(data)
        for place in rng.integers(0, min(first or len(out), len(out)), count):
            out[place] ^= int(rng.integers(1, 256))
        return bytes(out)

    return _bytes(change)


def _cut(share: float) -> Damage:
    return _bytes(lambda data, _: data[: int(share * len(data))])


def _larger_numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """One little-endian word that is small becomes huge: lengths, counts and offsets."""
    words = np.frombuffer(data[: len(data) // 8 * 8], "<u8").copy()
    small = np.flatnonzero((words > 0) & (words < 100_000))
    if small.size:
        words[rng.choice(small)] = rng.choice([2**62, 10**10, 2**31])
    return words.tobytes() + data[len(words) * 8 :]


def _digits(data: bytes, rng: np.random.Generator) -> bytes:
    """One number of a text becomes a huge one."""
    places = [n for n in range(len(data)) if data[n : n + 1].isdigit()]
    place = int(rng.choice(places)) if places else 0
    return data[:place] + b"1" + 10 * b"0" + data[place + 1 :]


def _h5(path: pathlib.Path, **options) -> None:
    with h5py.File(path, "w") as file:
        shape = options.pop("shape", (10**10, 16))
        file.create_dataset("features", shape, np.float16, **options)
        file.create_dataset("index", shape[:1], h5py.string_dtype("ascii"), chunks=(2**16,))


def _npz(path: pathlib.Path) -> None:
    head = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (10**10, 4)}
    np.lib.format.write_array_header_1_0(head, fields)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scores.npy", head.getvalue())


def _bomb(path: pathlib.Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(2**24))
        archive.writestr("a/version", "3")


def _safetensors(header: bytes, claim: int | None = None) -> Damage:
    data = struct.pack("<Q", len(header) if claim is None else claim) + header
    return _bytes(lambda *_: data)


_DEEP_PICKLE = b"\x80\x02" + b"]" * DEPTH + b"a" * (DEPTH - 1) + b"."
_CLAIM = {"dtype": "F32", "shape": [10**10, 16], "data_offsets": [0, 64 * 10**10]}
_TENSOR = json.dumps({"vectors": _CLAIM}).encode()

BYTES: dict[str, Damage] = {
    "good": lambda path, rng: None,
    "empty": _bytes(lambda *_: b""),
    **{f"cut {share}": _cut(share) for share in (0.05, 0.5, 0.9, 0.99)},
    "cut by a byte": _bytes(lambda data, _: data[:-1]),
    **{f"flip 1, {n}": _flip(1) for n in range(4)},
    **{f"flip 30, {n}": _flip(30) for n in range(3)},
    **{f"flip of the head, {n}": _flip(2, 400) for n in range(4)},
    **{f"huge word {n}": _bytes(_larger_numbers) for n in range(3)},
    "twice": _bytes(lambda data, _: 2 * data),
    "tail": _bytes(lambda data, _: data + b"\0tail"),
    "zeros": _bytes(lambda data, _: bytes(len(data))),
    "noise": _bytes(lambda data, rng: rng.bytes(len(data))),
    "text": _bytes(lambda *_: b"no such format\n"),
    "gzip": _bytes(lambda data, _: gzip.compress(data)),
    "long line": _bytes(lambda data, _: b"a" * 3_000_000 + data),
    "payload": _bytes(lambda *_: pickle.dumps({"query_ids": _Payload()}, 2)),
    "payload, protocol 0": _bytes(lambda *_: pickle.dumps(_Payload(), 0)),
    "deep pickle": _bytes(lambda *_: _DEEP_PICKLE),
    "deep JSON": _bytes(lambda *_: b"[" * DEPTH + b"]" * DEPTH),
    "deep objects": _bytes(lambda *_: b'{"a":' * DEPTH + b"1" + b"}" * DEPTH),
    "HDF5 of 10**10 rows": lambda path, _: _h5(path, chunks=(1, 16)),
    "HDF5 of one huge chunk": lambda path, _: _h5(
        path, chunks=(2**20, 2**10), shape=(2**20, 2**10)
    ),
    "npz of 10**10 rows": lambda path, _: _npz(path),
    "zip bomb": lambda path, _: _bomb(path),
    "safetensors, huge header": _safetensors(b"{}", 2**62),
    "safetensors, huge tensor": _safetensors(_TENSOR),
    "safetensors, deep": _safetensors(b'{"a":' * DEPTH),
}
TEXT: dict[str, Damage] = {
    "mark": _bytes(lambda data, _: b"\xef\xbb\xbf" + data),
    "CRLF": _bytes(lambda data, _: data.replace(b"\n", b"\r\n")),
    "CR": _bytes(lambda data, _: data.replace(b"\n", b"\r")),
    "UTF-16": _bytes(lambda data, _: data.decode(errors="replace").encode("utf-16")),
    "no UTF-8": _bytes(lambda data, _: data.replace(b"0", b"\xff", 3)),
    "control": _bytes(lambda data, _: data.replace(b"0", b"\x1b]0;x\x07", 2)),
    "spaces": _bytes(lambda data, _: data.replace(b",", b" , ")),
    "blank lines": _bytes(lambda data, _: data.replace(b"\n", b"\n\n")),
    "NaN": _bytes(lambda data, _: data.replace(b",0.", b",nan", 1).replace(b": 0.", b": NaN0.", 1)),
    **{f"huge number {n}": _bytes(_digits) for n in range(4)},
    "first line twice": _bytes(lambda data, _: data.split(b"\n")[0] + b"\n" + data),
    "other separator": _bytes(lambda data, _: data.replace(b",", b";")),
}
JSON: dict[str, Damage] = {
    f"JSON {text[:30]}": _bytes(lambda *_, text=text: text.encode())
    for text in (
        *("null", "[]", "{}", "1", '""', "NaN", "1e999", "9" * 5000, '{"a": null}', "[[]]"),
        *('{"a": {"b": {"c": 5}}}', '{"a": {"b": NaN}}', '{"a": {"b": 1}, "a": {"b": 1}}'),
        *('{"queries": 5}', '{"queries": [], "aps": []}', '{"schema": 99}', '{"results": []}'),
        *('{"splits": [{"name": "distractor", "shardLengths": ["1000000000"]}]}', '["\\ud800"]'),
    )
}
PLACES: dict[str, Damage] = {
    "missing": _instead(lambda path: None),
    "folder": _instead(lambda path: path.mkdir()),
    "FIFO": _instead(os.mkfifo),
    "endless": _instead(lambda path: path.symlink_to("/dev/zero")),
    "memory": _instead(lambda path: path.symlink_to("/proc/self/mem")),
    "loop": _instead(lambda path: path.symlink_to(path.name)),
    "broken link": _instead(lambda path: path.symlink_to("nowhere")),
}
ALL = {**BYTES, **TEXT, **JSON, **PLACES}
