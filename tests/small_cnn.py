"""A row of the table that is a CNN, with a file of drawn weights, as a user would run it."""

import pathlib

import cnn_towers
import numpy as np
import safetensors.numpy
from cnn_cases import CNNS

ROW = "alexnet.tv_in1k"


def words(folder: pathlib.Path) -> tuple[str, ...]:
    """What the command needs beside the recipe of the row; writes the weights."""
    file = folder / "alexnet.safetensors"
    arrays = {key: np.ascontiguousarray(v) for key, v in cnn_towers.arrays(CNNS["alexnet"]).items()}
    safetensors.numpy.save_file(arrays, file)
    return f"--config.model.checkpoint={file}", "--config.model.resolution=128"
