"""Writes the small files of PyTorch under `tests/data/torch_files/` that the reader is tested on.

    pip install torch==2.14.1
    python tests/reference/make_torch_files.py

Every value is a function of its place, so that the test computes what it must read.
"""

import argparse
import collections
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parents[2] / "tests" / "data" / "torch_files"


class LinearAdapter(torch.nn.Module):
    """A module with the names of the official adapters: `layer.weight` and `layer.bias`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.arange(15.0).reshape(3, 5) - 7)
            self.layer.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))


class Hostile:
    """What pickle would call on loading."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        """Would make a folder."""
        return os.mkdir, ("hacked",)


def every_type() -> dict[str, torch.Tensor]:
    """All element types, views, shared storages and odd shapes."""
    base = torch.arange(24.0)
    values = torch.from_numpy(np.arange(6).reshape(2, 3) - 2)
    names = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8")
    return {
        **{name: values.to(getattr(torch, name)) for name in names},
        "uint8": values.abs().to(torch.uint8),
        "bool": values > 0,
        "shared": base,
        "transposed": base.reshape(4, 6).T,
        "slice": base.reshape(4, 6)[1:3, 1::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
    }


def training_state() -> dict[str, Any]:
    """A checkpoint as training programs write it: weights among much else."""
    model = LinearAdapter()
    state = collections.OrderedDict(
        (f"module.encoder.{name}", value.clone()) for name, value in model.state_dict().items()
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.layer(torch.ones(5)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    options = argparse.Namespace(
        arch="linear",
        output=pathlib.PurePosixPath("runs/1"),
        device=torch.device("cpu"),
        dtype=torch.float16,
        names={"a"},
        crop=torch.Size([5, 3]),
    )
    return {
        "epoch": 3,
        "arch": "linear",
        "state_dict": state,
        "head": {"counts": {"seen": torch.tensor(7)}, "scale": torch.nn.Parameter(torch.ones(2))},
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "scaler": {"scale": 65536.0, "growth_interval": 2000},
        "args": options,
        "best": np.float64(0.5),
        "mean": np.arange(3.0),
        "history": collections.defaultdict(list, {"loss": [0.5, 0.25]}),
        "extra": (None, True, [torch.zeros(4)]),
    }


def save_both(value: Any, name: str) -> None:
    """Saves in the form of today and, under `<name>_stream.pth`, in that of before 1.6."""
    torch.save(value, FOLDER / f"{name}.pth")
    torch.save(value, FOLDER / f"{name}_stream.pth", _use_new_zipfile_serialization=False)


def main() -> None:
    """Writes all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    state = LinearAdapter().state_dict()
    save_both(state, "adapter")
    save_both(every_type(), "types")
    torch.save(state, FOLDER / "protocol4.pth", pickle_protocol=4)
    torch.save(LinearAdapter(), FOLDER / "module.pth")
    save_both({"layer.weight": Hostile()}, "hostile")
    torch.save({"state_dict": state, "epoch": 3}, FOLDER / "nested.pth")
    torch.save({"a": torch.zeros(1).expand(1000, 1000)}, FOLDER / "expanded.pth")
    save_both(training_state(), "checkpoint")
    torch.save(training_state(), FOLDER / "checkpoint_protocol4.pth", pickle_protocol=4)
    hidden = argparse.Namespace(arch="linear", callback=Hostile())
    save_both({"model": state, "args": hidden}, "hostile_checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a form of old files, deprecated
        torch.jit.script(LinearAdapter()).save(str(FOLDER / "script.pt"))


if __name__ == "__main__":
    main()
