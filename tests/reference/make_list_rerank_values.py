"""Runs the authors' SuperGlobal and k-reciprocal re-ranking on drawn lists and stores the results.

    pip install torch
    python tests/reference/make_list_rerank_values.py --upstream FOLDER

FOLDER has checkouts of ShihaoShao-GH/SuperGlobal and zhunzhong07/person-re-ranking, each under
OWNER+NAME. Writes `tests/data/rerank/lists.npz`: for each case of `tests/list_cases.py`
"NAME_superglobal" and "NAME_k_reciprocal", [Q, M] float32: the final score of each entry of a list,
and minus the final distance.
"""

import argparse
import importlib.util
import pathlib
import sys
from typing import Any
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from list_cases import CASES, FILE, Lists, draw  # noqa: E402


def module(path: pathlib.Path) -> Any:
    """A file of a checkout as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def superglobal(folder: pathlib.Path, lists: Lists) -> np.ndarray:
    """The authors' scores in the order of the lists; their second module keeps them to itself."""
    modules = folder / "ShihaoShao-GH+SuperGlobal" / "modules" / "reranking"
    count = lists.indices.shape[1]
    images, queries = torch.from_numpy(lists.images), torch.from_numpy(lists.queries)
    ranks = torch.from_numpy(lists.indices.T)
    with mock.patch.object(torch.Tensor, "cuda", lambda self: self):
        refine = module(modules / "MDescAug.py").MDescAug(M=count)
        found = refine(images, queries, ranks)
        expand = module(modules / "RerankwMDA.py").RerankwMDA(M=count)
        scores, argsort = [], torch.argsort

        def noted(values: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            scores.append(-values)
            return argsort(values, *rest, **named)

        with mock.patch.object(torch, "argsort", noted):
            expand(ranks, *found)
    ordered = np.zeros(lists.indices.shape, np.float32)
    np.put_along_axis(ordered, found[2].numpy(), scores[-1].numpy(), axis=1)
    return ordered


def k_reciprocal(folder: pathlib.Path, lists: Lists) -> np.ndarray:
    """Minus the authors' distances, of one query and its list at a time."""
    path = folder / "zhunzhong07+person-re-ranking" / "python-version" / "re_ranking_ranklist.py"
    rank, found = module(path).re_ranking, []
    for query, row in zip(lists.queries.astype(np.float64), lists.indices, strict=True):
        points = np.concatenate([query[None], lists.images[row]])
        distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
        found.append(-rank(distances[:1, 1:], distances[:1, :1], distances[1:, 1:])[0])
    return np.array(found, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", type=pathlib.Path, required=True)
    folder = parser.parse_args().upstream
    found = {}
    for case in CASES:
        lists = draw(case)
        found[f"{case.name}_superglobal"] = superglobal(folder, lists)
        found[f"{case.name}_k_reciprocal"] = k_reciprocal(folder, lists)
    np.savez_compressed(FILE, **found)
    print(FILE, FILE.stat().st_size)


if __name__ == "__main__":
    main()
