"""Runs the official toolkit's search and evaluator on a small case and stores what they give.

    git clone https://github.com/ilias-vrg/ilias
    pip install torch faiss-cpu h5py tqdm scikit-learn
    python tests/reference/make_search_values.py --toolkit ilias

Writes `tests/data/official_search.json`: for each setting the similarity file of
`knn_search/search.py` and the mAP that `evaluation/evaluate.py` gives it. The case is that of
`tests/official_case.py`. Scores that lie so close that rounding could order them either way are
refused, so that the order may be compared.
"""

import argparse
import json
import pathlib
import pickle
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import torch

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import official_case  # noqa: E402

_MIN_GAP = 1e-6
_SETTINGS: dict[str, tuple[str, ...]] = {
    "plain": ("--k", "40"),
    "k5": ("--k", "5"),
    "selected": ("--k", "20", "--selected_ids", "selected.txt"),
    "adapted": ("--k", "40", "--lin_adapt_path", "layer.pth"),
}


def _run(folder: pathlib.Path, script: pathlib.Path, *words: str) -> None:
    subprocess.run([sys.executable, str(script), *words], check=True, cwd=folder)


def search(folder: pathlib.Path, toolkit: pathlib.Path, name: str) -> dict[str, Any]:
    """The similarity file and the mAP of one setting."""
    files = [
        *("--query_hdf5", "features_image_queries.hdf5"),
        *("--positive_hdf5", "features_positives.hdf5"),
        *("--distractor_hdf5", "features_distractors_{idx}.hdf5"),
        *("--total_distractors", str(len(official_case.NUM_DISTRACTORS))),
    ]
    where = ("--save_dir", ".", "--save_name", name, "--use_gpu", "false")
    _run(folder, toolkit / "knn_search" / "search.py", *files, *where, *_SETTINGS[name])
    found = folder / f"{name}.json"
    result = folder / f"{name}.pkl"
    words = ("--similarity_file", found.name, "--dataset_dir", ".", "--result_file", result.name)
    _run(folder, toolkit / "evaluation" / "evaluate.py", *words)
    report = pickle.loads(result.read_bytes())
    return {"map": float(report["map"]), "similarities": json.loads(found.read_text())}


def _check_gaps(name: str, similarities: dict[str, dict[str, float]]) -> None:
    gaps = [-np.diff(list(scores.values())).max() for scores in similarities.values()]
    if min(gaps) < _MIN_GAP:
        raise SystemExit(f"{name}: scores lie {min(gaps)} apart; take another seed")


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toolkit", type=pathlib.Path, required=True, help="its checkout")
    toolkit = parser.parse_args().toolkit.resolve()
    values = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        official_case.write(folder)
        weight, bias = map(torch.from_numpy, official_case.adapter())
        torch.save({"layer.weight": weight, "layer.bias": bias}, folder / "layer.pth")
        for setting in _SETTINGS:
            values[setting] = search(folder, toolkit, setting)
            _check_gaps(setting, values[setting]["similarities"])
    official_case.VALUES.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
