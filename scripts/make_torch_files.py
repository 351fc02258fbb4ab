"""Writes the small files of PyTorch under `tests/data/torch_files/` that the reader is tested on.

    pip install torch==2.14.1
    python scripts/make_torch_files.py

Every value is a function of its place, so that the test computes what it must read.
"""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parents[1] / "tests" / "data" / "torch_files"


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


def main() -> None:
    """Writes all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    state = LinearAdapter().state_dict()
    torch.save(state, FOLDER / "adapter.pth")
    torch.save(state, FOLDER / "adapter_stream.pth", _use_new_zipfile_serialization=False)
    torch.save(every_type(), FOLDER / "types.pth")
    torch.save(every_type(), FOLDER / "types_stream.pth", _use_new_zipfile_serialization=False)
    torch.save(state, FOLDER / "protocol4.pth", pickle_protocol=4)
    torch.save(LinearAdapter(), FOLDER / "module.pth")
    torch.save({"layer.weight": Hostile()}, FOLDER / "hostile.pth")
    torch.save(
        {"layer.weight": Hostile()},
        FOLDER / "hostile_stream.pth",
        _use_new_zipfile_serialization=False,
    )
    torch.save({"state_dict": state, "epoch": 3}, FOLDER / "nested.pth")
    torch.save({"a": torch.zeros(1).expand(1000, 1000)}, FOLDER / "expanded.pth")


if __name__ == "__main__":
    main()
