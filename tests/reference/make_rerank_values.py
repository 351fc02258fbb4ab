"""Runs the authors' code of AMES and ELViS on seeded weights and stores its scores for the tests.

    pip install torch
    python tests/reference/make_rerank_values.py --upstream FOLDER

Writes `tests/data/rerank/NAME.npz` for the networks of `tests/local_pairs.py`, on the CPU in
float32. FOLDER has checkouts of github.com/pavelsuma/ames and github.com/pavelsuma/ELViS, named
OWNER+NAME. Nothing of them is changed but that a binary network draws the first value of W itself
and does not download it; the drawn weights replace it.
"""

import argparse
import functools
import importlib
import json
import pathlib
import sys
from unittest import mock

import numpy as np
import torch
from reference_graphs import importing

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
from local_pairs import (  # noqa: E402
    FOLDER,
    INPUT_DIM,
    LARGE,
    NETWORKS,
    SMALL,
    Network,
    Pairs,
    draw,
    padded,
    unit,
)

# As `conf/model/ames.yaml` has them.
_AMES = {
    "data_root": "",
    "local_dim": INPUT_DIM,
    "model_dim": 128,
    "nhead": 2,
    "num_encoder_layers": 5,
    "dim_feedforward": 1024,
    "activation": "relu",
    "normalize_before": False,
}


def build(network: Network, upstream: pathlib.Path) -> torch.nn.Module:
    """The authors' class."""
    if network.method == "ames":
        with importing(upstream / "pavelsuma+ames/src"):
            code = importlib.import_module("models.matcher")
            layers, make = code, functools.partial(code.AMES, **_AMES)
    else:
        with importing(upstream / "pavelsuma+ELViS"):
            code = importlib.import_module("elvis.models.elvis")
            layers = importlib.import_module("elvis.models.matcher")
            make = functools.partial(code.Elvis, "dinov2", INPUT_DIM)
    layer = layers.BinarizationLayer
    with mock.patch.object(
        layers, "BinarizationLayer", lambda **_: layer(dims=INPUT_DIM, bits=128)
    ):
        return make(binarized=network.is_binary)


def scores(module: torch.nn.Module, network: Network, pairs: Pairs) -> np.ndarray:
    """[queries, images] float32, one query at a time as the authors do."""
    queries, images = pairs.draw()
    if network.method == "elvis":  # as its extraction leaves them
        queries, images = ([unit(each) for each in side] for side in (queries, images))
    found = []
    database = torch.from_numpy(padded(images, pairs.padded[1]))
    mask = torch.arange(pairs.padded[1]) >= torch.tensor(pairs.images)[:, None]
    for query in queries:
        values = torch.from_numpy(padded([query], pairs.padded[0])).expand(len(images), -1, -1)
        absent = (torch.arange(pairs.padded[0]) >= len(query)).expand(len(images), -1)
        found.append(module(values, absent, database, mask).numpy())
    return np.stack(found)


@torch.inference_mode()
def values(network: Network, upstream: pathlib.Path) -> dict[str, np.ndarray]:
    """What the file of a network holds."""
    module = build(network, upstream).eval()
    layout = {name: list(value.shape) for name, value in module.state_dict().items()}
    drawn = {name: torch.from_numpy(array) for name, array in draw(layout).items()}
    module.load_state_dict(drawn, strict=True)
    found = {name: scores(module, network, each) for name, each in CASES.items()}
    for name, each in found.items():
        print(f"{network.name} {name}\n{np.array2string(each, precision=4)}", flush=True)
    return {
        **found,
        "layout": np.frombuffer(json.dumps(layout).encode(), np.uint8),
        "versions": np.asarray([f"torch {torch.__version__}"]),
    }


CASES = {"small": SMALL, "large": LARGE}


def main() -> None:
    """Writes all files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upstream", required=True, type=pathlib.Path, help="folder of checkouts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for network in NETWORKS:
        np.savez_compressed(network.path, **values(network, arguments.upstream))


if __name__ == "__main__":
    main()
