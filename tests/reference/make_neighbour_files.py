"""Makes tests/data/rerank/nn_*.pkl: nearest neighbours as AMES's `prepare_topk_global.py` keeps them.

    python tests/reference/make_neighbour_files.py

That script stacks similarities and rows, which `torch.topk` gives, to one tensor and pickles it;
these files are of torch 2.14.1 and pickle's default protocol of Python 3.11.
"""

import pathlib
import pickle

import torch

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "rerank"


def main() -> None:
    """Writes a file for each case."""
    similarities = torch.tensor([[0.9, 0.5, 0.25], [0.75, 0.5, -0.125]])
    rows = torch.tensor([[4, 0, 2], [1, 3, 0]])
    two = torch.stack((similarities, rows))  # as float32
    three = torch.stack((similarities, rows, rows.flip(1)))
    large = two.clone()
    large[1, 0, 1] = 2**24
    fraction = two.clone()
    fraction[1, 1, 2] = 0.5
    cases = {
        "two": two,
        "three": three,
        "view": torch.stack((similarities.T, rows.T)).transpose(1, 2)[..., 1:],
        "large": large,
        "fraction": fraction,
        "whole": rows,
        "dictionary": {"nn": two},
    }
    for name, tensor in cases.items():
        (FOLDER / f"nn_{name}.pkl").write_bytes(pickle.dumps(tensor))


if __name__ == "__main__":
    main()
