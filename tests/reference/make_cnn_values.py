"""Runs the code of the table's CNNs on seeded weights and stores what it gives for the tests.

    pip install -e ".[parity]" einops scipy
    python tests/reference/make_cnn_values.py --upstream FOLDER           # the reduced ones
    python tests/reference/make_cnn_values.py --upstream FOLDER --full    # those of the table
    python tests/reference/make_cnn_values.py --upstream FOLDER resnet50

Writes `tests/data/cnns/NAME.npz` for the cases of `tests/cnn_cases.py`, on the CPU in float32.
FOLDER has the checkouts that `reference_graphs.py` lists.
"""

import argparse
import importlib
import json
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import timm
import torch
import torchvision
from open_clip.modified_resnet import ModifiedResNet
from PIL import Image
from reference_graphs import importing, toolkit
from timm.models import efficientnet

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
from cnn_cases import CNNS, FOLDER, CnnCase  # noqa: E402
from graph_weights import fingerprint  # noqa: E402

Call = Callable[[torch.Tensor], torch.Tensor]
# A network to fill, and what is called with pixels [1, 3, H, W] for [1, D].
Built = tuple[torch.nn.Module, Call]
LEAST_DISTANCE = 0.02  # of different pictures' outputs, over the outputs' length


def _timm(case: CnnCase, upstream: pathlib.Path) -> Built:
    """As the toolkit makes it: pooled, without the classes."""
    module = timm.create_model(case.reference, num_classes=0, **case.theirs)
    return module, module


def _timm_map(case: CnnCase, upstream: pathlib.Path) -> Built:
    """The last maps, pooled as the toolkit does where a model has no pooling of its own."""
    module = timm.create_model(case.reference, **case.theirs)
    gem = toolkit(upstream, "model.pooling")._gem
    return module, lambda pixels: gem(module.forward_features(pixels)).reshape(1, -1)


def _efficientnet(case: CnnCase, upstream: pathlib.Path) -> Built:
    """As timm makes its TensorFlow forms, or narrower and shallower."""
    scales = dict(case.theirs)
    lite = scales.pop("lite", False)
    generate = efficientnet._gen_efficientnet_lite if lite else efficientnet._gen_efficientnet
    name = "tf_efficientnet_lite0" if lite else "tf_efficientnet_b0"
    module = generate(name, num_classes=0, bn_eps=1e-3, pad_type="same", **scales)
    return module, module


def _nasnet(case: CnnCase, upstream: pathlib.Path) -> Built:
    """The first cells of the first groups, called as timm's own function does."""
    theirs = dict(case.theirs)
    count, groups = theirs.pop("cells", 6), theirs.pop("groups", 3)
    module = timm.create_model(case.reference, num_classes=0, **theirs)
    for number in range(18):
        if number % 6 >= count or number // 6 >= groups:
            delattr(module, f"cell_{number}")
    for number in range(groups - 1, 2):
        delattr(module, f"reduction_cell_{number}")

    def call(pixels: torch.Tensor) -> torch.Tensor:
        first = module.conv0(pixels)
        before = module.cell_stem_0(first)
        x = module.cell_stem_1(first, before)
        for group in range(groups):
            if group:
                x = getattr(module, f"reduction_cell_{group - 1}")(x, before)
            for number in range(6 * group, 6 * group + count):
                x, before = getattr(module, f"cell_{number}")(x, before), x
        return module.act(x).mean((2, 3))

    return module, module if count == 6 else call


def _clip(case: CnnCase, upstream: pathlib.Path) -> Built:
    """open_clip's tower with the toolkit's function for its pooling."""
    sizes = {"layers": (3, 4, 6, 3), "output_dim": 1024, "heads": 32, "width": 64, **case.theirs}
    tower = ModifiedResNet(**sizes)
    forward = toolkit(upstream, "model.extractors.openclip").refactored_forward
    tower.attnpool.forward = types.MethodType(forward, tower.attnpool)
    return torch.nn.ModuleDict({"visual": tower}), tower


def _cvnet(case: CnnCase, upstream: pathlib.Path) -> Built:
    """As the toolkit makes and calls it, but with fewer blocks for a reduced case."""
    code = toolkit(upstream, "model.extractors.cvnet")
    depth = 101 if "101" in case.row else 50
    depths = case.theirs.get("depths", code._IN_STAGE_DS[depth])
    with mock.patch.dict(code._IN_STAGE_DS, {depth: depths}):
        module = code.ResNet(depth, 2048, code.relup)
    both = [True, True] if "superglobal" in case.row else []
    wrapped = torch.nn.ModuleDict({"encoder_q": module})
    return wrapped, lambda pixels: module(torch.flip(pixels, (1,)), *both)[0]


def _recall(case: CnnCase, upstream: pathlib.Path) -> Built:
    """Its own function around timm's ResNet under the names of its time, up to the last layer."""

    def resnet50(**_: Any) -> torch.nn.Module:
        body = timm.create_model("resnet50.tv_in1k", **case.theirs)
        body.relu, body.last_linear = body.act1, body.fc
        del body.fc
        return body

    stub = types.ModuleType("pretrainedmodels")
    stub.resnet50 = resnet50  # type: ignore[attr-defined]
    with importing(upstream / "yash0307+RecallatK_surrogate/src", pretrainedmodels=stub):
        options = types.SimpleNamespace(not_pretrained=True, embed_dim=512)
        module = importlib.import_module("netlib").ResNet50(options)
    found: list[torch.Tensor] = []
    module.model.last_linear.register_forward_hook(lambda _, __, output: found.append(output))

    def call(pixels: torch.Tensor) -> torch.Tensor:
        module(pixels)
        return found.pop()

    return module, call


def _torchvision(case: CnnCase, upstream: pathlib.Path) -> Built:
    """The same of torchvision's."""
    module = torchvision.models.get_model(case.reference, **case.theirs)
    gem = toolkit(upstream, "model.pooling")._gem
    return module, lambda pixels: gem(module.features(pixels)).reshape(1, -1)


def _timm_clip(case: CnnCase, upstream: pathlib.Path) -> Built:
    """As the toolkit makes it: the last layer, which is no classifier, stays."""
    module = timm.create_model(case.reference, **{"num_classes": None, **case.theirs})
    return module, module


BUILDERS: dict[str, Callable[[CnnCase, pathlib.Path], Built]] = {
    "timm": _timm,
    "clip": _clip,
    "cvnet": _cvnet,
    "efficientnet": _efficientnet,
    "nasnet": _nasnet,
    "recall": _recall,
    "timm_clip": _timm_clip,
    "timm_map": _timm_map,
    "torchvision": _torchvision,
}


def inputs(case: CnnCase, upstream: pathlib.Path) -> list[torch.Tensor]:
    """[1, 3, H, W] float32 each, by the toolkit's code."""
    how, colours = toolkit(upstream, "datasets.transforms"), case.pictures.colours
    resize = how.InferenceTransforms.RESIZE_LARGE.get_transforms(
        case.pictures.resolution, mean=list(colours.mean), std=list(colours.std)
    )
    return [resize(Image.fromarray(picture))[None] for picture in case.pictures.arrays()]


def load(module: torch.nn.Module, case: CnnCase) -> dict[str, np.ndarray]:
    """Fills a network with the drawn weights; what the case's file says of them."""
    layout = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    prints, state, filled = [], module.state_dict(), set()
    for name, array in case.draw(layout):
        if state[name].data_ptr() not in filled:  # RS@k lists its layers twice
            state[name].copy_(torch.from_numpy(array))
            filled.add(state[name].data_ptr())
        prints.append(fingerprint(array))
    module.eval()
    return {
        "layout": np.frombuffer(json.dumps(layout).encode(), np.uint8),
        "weights": np.stack(prints),
    }


@torch.inference_mode()
def values(case: CnnCase, upstream: pathlib.Path) -> dict[str, Any]:
    """What the file of a case holds."""
    module, call = BUILDERS[case.kind](case, upstream)
    stored: dict[str, Any] = load(module, case)
    outputs = np.stack([call(one).numpy()[0] for one in inputs(case, upstream)])
    distance = np.linalg.norm(outputs[:, None] - outputs[None], axis=2)
    typical = distance[~np.eye(len(outputs), dtype=bool)].mean()
    relative = typical / np.linalg.norm(outputs, axis=1).mean()
    print(
        f"{case.name}: {outputs.shape}, of length {np.abs(outputs).max():.1e}, "
        f"distances {relative:.3f} of it",
        flush=True,
    )
    if not relative > LEAST_DISTANCE:
        raise ValueError(f"{case.name}: the outputs are too much alike")
    versions = [f"{module.__name__} {module.__version__}" for module in (torch, torchvision, timm)]
    return stored | {"outputs": outputs, "versions": np.asarray(versions)}


def main() -> None:
    """Writes the files of the chosen cases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", help="names; all of one form if there is none")
    parser.add_argument("--upstream", required=True, type=pathlib.Path, help="folder of checkouts")
    parser.add_argument("--full", action="store_true", help="those of the table, if none is named")
    arguments = parser.parse_args()
    form = [name for name, case in CNNS.items() if case.reduced != arguments.full]
    FOLDER.mkdir(exist_ok=True)
    for name in arguments.cases or form:
        stored = values(CNNS[name], arguments.upstream)
        np.savez_compressed(CNNS[name].path, **stored)


if __name__ == "__main__":
    main()
