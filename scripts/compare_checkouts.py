"""Runs two checkouts on the same inputs and says where their numbers differ.

    python scripts/compare_checkouts.py OLD NEW [--work DIR] [--seeds 7 8]

For each checkout and seed: the demo from the world to the report, `export`, and `evaluate` on the
exported lists; then the official-form fixtures: `evaluate` on every list of the tests and `search`
on the small official feature files. Shards, embedding files and exported features must be the same
bytes, rankings the same arrays, and numbers of reports equal; keys of one side alone are named.
Left out: times, versions, and what depends on ScaNN's index, which is trained anew each time.
Exits with 1 if any number differs by more than 1e-9.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

# Differ between any two runs of one checkout.
_VARYING = {"timings", "manifest", "search.sweep", "search.ann_recall", "search.map_minus_exact"}
_LISTS = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import official_cases
folder = pathlib.Path(sys.argv[2])
official_cases.write_ids(folder)
for case in official_cases.CASES:
    path, _ = official_cases.write_lists(case, folder)
    print(path, case.k, ",".join(case.allowed), sep="\\t")
"""
_FEATURES = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import official_case
official_case.write(pathlib.Path(sys.argv[2]))
"""


def run(checkout: pathlib.Path, *words: object) -> str:
    """Runs Python in a checkout; returns its output."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def command(checkout: pathlib.Path, *words: object) -> str:
    """Runs `ilias-jax` of a checkout."""
    return run(checkout, "-m", "ilias_jax.cli", *words)


def demo(checkout: pathlib.Path, work: pathlib.Path, seed: int) -> None:
    """From a world to a report, exported lists and their evaluation."""
    world = work / f"world{seed}"
    config = f"--config={checkout}/configs/demo.py:{seed}"
    place = f"--config.dataset.data_dir={world}"
    run(checkout, "main.py", config, f"--workdir={work}/run{seed}", place)
    command(checkout, "export", "--workdir", work / f"run{seed}", "--output", work / f"out{seed}")
    for lists in sorted((work / f"out{seed}").glob("similarities_*.json")):
        words = ["--similarities", lists, "--ids", world, "--output", lists.with_suffix(".scores")]
        command(checkout, "evaluate", *words)


def fixtures(checkout: pathlib.Path, work: pathlib.Path, tests: pathlib.Path) -> None:
    """Evaluates the official-form lists and searches the official-form features of the tests."""
    lists, features = work / "lists", work / "features"
    features.mkdir(parents=True)
    for line in run(checkout, "-c", _LISTS, tests, lists).splitlines():
        path, k, allowed = line.split("\t")
        words = ["--similarities", path, "--ids", lists, "--output", f"{path}.scores", "--k", k]
        command(checkout, "evaluate", *words, *(["--allow", allowed] if allowed else []))
    run(checkout, "-c", _FEATURES, tests, features)
    for backend in ("exact", "scann"):
        words = ["--queries", features / "features_image_queries.hdf5"]
        words += ["--positives", features / "features_positives.hdf5"]
        words += ["--distractors", features / "features_distractors_{idx}.hdf5"]
        words += ["--output", features / f"{backend}.json", "--backend", backend, "--k", 20]
        command(checkout, "search", *words)


def values(document: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a document with its place, but for those that vary."""
    if place in _VARYING:
        return
    if isinstance(document, dict):
        for key, part in document.items():
            yield from values(part, f"{place}.{key}" if place else str(key))
    elif isinstance(document, list):
        for number, part in enumerate(document):
            yield from values(part, f"{place}[{number}]")
    else:
        yield place, document


def compare_documents(old: Any, new: Any, name: str) -> tuple[float, list[str]]:
    """The largest difference of two numbers, and places that only one side has or that differ."""
    one, other = dict(values(old)), dict(values(new))
    complaints = [f"{name}: only in old: {place}" for place in one.keys() - other.keys()]
    complaints += [f"{name}: only in new: {place}" for place in other.keys() - one.keys()]
    largest = 0.0
    for place in one.keys() & other.keys():
        a, b = one[place], other[place]
        if isinstance(a, float) and isinstance(b, float):
            largest = max(largest, abs(a - b))
            if abs(a - b) > 1e-9:
                complaints.append(f"{name}: {place}: {a!r} is now {b!r}")
        elif a != b:
            complaints.append(f"{name}: {place}: {a!r} is now {b!r}")
    return largest, complaints


def compare_files(old: pathlib.Path, new: pathlib.Path) -> tuple[float, list[str], int]:
    """Compares all files of two folders that hold numbers; the number of files comes last."""
    kinds = {".array_record", ".safetensors", ".hdf5", ".npz", ".json", ".scores", ".csv"}
    names = {p.relative_to(f) for f in (old, new) for p in f.rglob("*") if p.suffix in kinds}
    largest, complaints = 0.0, []
    for name in sorted(names):
        one, other = old / name, new / name
        if not (one.exists() and other.exists()):
            complaints.append(f"only in {'old' if one.exists() else 'new'}: {name}")
        elif name.suffix == ".npz":
            a, b = np.load(one), np.load(other)
            same = a.files == b.files and all(np.array_equal(a[key], b[key]) for key in a.files)
            complaints += [] if same else [f"{name}: arrays differ"]
        elif name.suffix in (".json", ".scores"):
            a, b = json.loads(one.read_text()), json.loads(other.read_text())
            difference, more = compare_documents(a, b, str(name))
            largest, complaints = max(largest, difference), complaints + more
        elif one.read_bytes() != other.read_bytes():
            complaints.append(f"{name}: bytes differ")
    return largest, complaints, len(names)


def main() -> None:
    """Runs both checkouts and compares."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument(
        "--work", type=pathlib.Path, help="kept; a side that is there is not run again"
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[7, 8])
    arguments = parser.parse_args()
    work = arguments.work or pathlib.Path(tempfile.mkdtemp())
    for side in ("old", "new"):
        folder, checkout = (work / side).resolve(), getattr(arguments, side).resolve()
        if not (folder / "lists").exists():
            for seed in arguments.seeds:
                demo(checkout, folder, seed)
            fixtures(checkout, folder, arguments.old.resolve() / "tests")
    largest, complaints, count = compare_files(work / "old", work / "new")
    print("\n".join(complaints))
    print(f"{count} files; largest difference of a number: {largest:g}")
    sys.exit(largest > 1e-9)


if __name__ == "__main__":
    main()
