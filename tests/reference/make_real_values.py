"""Writes tests/data/real_network.npz: what PyTorch makes of photographs with trained weights.

    pip install torch efficientnet-lite-pytorch==0.1.0
    python tests/reference/make_real_values.py

The network is EfficientNet-Lite0, run by the code that was published with its weights, on one
picture of `tests/real_network.py` at a time, on the CPU in float32.
"""

import importlib.metadata
import pathlib
import sys
import tempfile

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from real_network import EXPECTED, MEAN, STD, checkpoint, digest, pictures  # noqa: E402


def network() -> torch.nn.Module:
    """With "same" padding for any size, where the code's default is for 224 x 224 alone."""
    module = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    with tempfile.TemporaryDirectory() as folder:
        module.load_state_dict(torch.load(checkpoint(pathlib.Path(folder))))
    return module.eval()


@torch.inference_mode()
def main() -> None:
    """Writes the file."""
    module, images = network(), pictures()
    logits = []
    for image in images:
        pixels = (image.astype(np.float32) - 255 * MEAN) / (255 * STD)
        batch = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
        logits.append(module(batch).numpy()[0])
        print(image.shape, logits[-1].argmax(), logits[-1].max())
    packages = "torch", "pillow", "efficientnet-lite-pytorch"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    np.savez_compressed(EXPECTED, logits=logits, pictures=digest(images), versions=versions)


if __name__ == "__main__":
    main()
