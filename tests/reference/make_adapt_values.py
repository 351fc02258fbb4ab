"""Trains the linear adapter in PyTorch by the published recipe and stores what comes out.

    pip install torch==2.14.1
    python tests/reference/make_adapt_values.py

Writes `tests/data/adapt_values.npz`: for every case of `tests/adapt_inputs.py` the loss of each of
200 steps and the layers after them. With `--toolkit FOLDER`, a checkout of ilias-vrg/ilias, the
toolkit's own network, loss and optimizer settings run on the same batches and must agree.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import adapt_inputs as seeded  # noqa: E402

DATA = ROOT / "tests" / "data"
Losses = list[float]


class Network(torch.nn.Module):
    """Linear layer, L2 norm, cosines with the classes."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(seeded.INPUT_DIM, seeded.DIM, dtype=dtype)
        self.classifier = torch.nn.Linear(seeded.DIM, seeded.NUM_CLASSES, bias=False, dtype=dtype)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[B, D] -> cosines [B, C]."""
        adapted = functional.normalize(self.layer(rows), dim=1)
        return adapted @ functional.normalize(self.classifier.weight, dim=1).T


def set_layers(layer: torch.nn.Linear, classifier: torch.nn.Linear) -> None:
    """Fills a network with the seeded weights."""
    first = seeded.layers()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(first["weight"]))
        layer.bias.copy_(torch.from_numpy(first["bias"]))
        classifier.weight.copy_(torch.from_numpy(first["classifier"]))


def train(
    network: torch.nn.Module,
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    case: seeded.Case,
    dtype: torch.dtype,
) -> Losses:
    """Takes all steps; returns their losses."""
    rows, classes = seeded.embeddings()
    data, labels = torch.from_numpy(rows).to(dtype), torch.from_numpy(classes).long()
    optimizer = torch.optim.Adam(
        network.parameters(), lr=case.learning_rate, weight_decay=case.weight_decay
    )
    losses = []
    for batch in seeded.order().reshape(-1, seeded.BATCH_SIZE):
        optimizer.zero_grad()
        value = criterion(network(data[batch]), labels[batch])
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def run(case: seeded.Case, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Losses and final layers of our own loop."""
    network = Network(dtype)
    set_layers(network.layer, network.classifier)

    def criterion(cosines: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(seeded.SCALE * cosines, labels)

    losses = train(network, criterion, case, dtype)
    tensors = {
        "weight": network.layer.weight,
        "bias": network.layer.bias,
        "classifier": network.classifier.weight,
    }
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    return {"losses": np.array(losses), **arrays}


def run_toolkit(folder: pathlib.Path, case: seeded.Case) -> Losses:
    """Losses of the toolkit's own network and loss."""
    sys.path.insert(0, str(folder / "linear_adaptation"))
    from src import lin_adapt

    network = lin_adapt.ClassificationNetwork(seeded.INPUT_DIM, seeded.DIM, seeded.NUM_CLASSES)
    set_layers(network.adaptation_layer.layer, network.classifier)
    criterion = lin_adapt.SoftmaxMarginLoss(
        seeded.NUM_CLASSES, scale=seeded.SCALE, margin=0.0, transform_logits_type="cosface"
    )
    return train(network, criterion, case, torch.float32)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main() -> None:
    """Trains all cases and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toolkit", type=pathlib.Path, help="checkout of ilias-vrg/ilias")
    arguments = parser.parse_args()
    stored: dict[str, np.ndarray] = {}
    for name, case in seeded.CASES.items():
        values, exact = run(case, torch.float32), run(case, torch.float64)
        noise = {key: relative(values[key], exact[key]) for key in values}
        print(f"{name}: float32 against float64 {noise}")
        if arguments.toolkit:
            losses = np.array(run_toolkit(arguments.toolkit, case))
            print(f"{name}: toolkit against this loop {relative(losses, values['losses']):.1e}")
        stored |= {f"{name}/{key}": array.astype(np.float32) for key, array in values.items()}
    np.savez(DATA / "adapt_values.npz", **stored)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
