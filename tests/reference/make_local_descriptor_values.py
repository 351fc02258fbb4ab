"""Runs the authors' extractors of AMES and ELViS on seeded towers and stores their descriptors.

    pip install torch torchvision timm h5py tqdm opencv-python-headless==4.10.0.84
    python tests/reference/make_local_descriptor_values.py --upstream FOLDER         # all but "full"
    python tests/reference/make_local_descriptor_values.py --upstream FOLDER ames_whole

Writes `tests/data/rerank/descriptors_NAME.npz` for the cases of `tests/local_descriptor_cases.py`,
on the CPU in float32: from files of pictures to what the extractors store. FOLDER has checkouts of
github.com/pavelsuma/ames, github.com/pavelsuma/ELViS, and facebookresearch's dinov2 and dinov3,
named OWNER+NAME. Nothing of them is changed but that towers are narrow and have drawn weights, that
nothing moves to a GPU, and that AMES's rows are as wide as the tower asks.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import os
import pathlib
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import cv2
import numpy as np
import timm
import torch
from make_graph_values import load
from reference_graphs import importing
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
from local_descriptor_cases import (  # noqa: E402
    CASES,
    FULL,
    JPEG,
    PICTURES,
    DescriptorCase,
    draw_jpeg,
    some,
)

Files = list[tuple[list[str], list[list[float]]]]  # paths, and the corners of boxes if they are cut
_AMES_CHANNELS = 768  # that its extractor writes down


@dataclasses.dataclass(frozen=True)
class Run:
    """What an extractor gave for some pictures.

    Attributes:
        rows: [n, 5 + D] each: row, column, scale, whether it is padding, weight and value.
        tokens: [T, D] each, before the detector.
        layout: of the detector's arrays, if there is one.
    """

    rows: list[np.ndarray]
    tokens: list[np.ndarray]
    layout: dict[str, np.ndarray]


def tower(case: DescriptorCase, upstream: pathlib.Path) -> torch.nn.Module:
    """As its authors build the row, of the case's sizes."""
    width, depth, mlp_dim, num_heads = case.size
    sizes = {"embed_dim": width, "depth": depth, "num_heads": num_heads}
    if case.row.startswith("vit"):
        sizes["mlp_ratio"] = mlp_dim / width
        return timm.create_model(case.row, num_classes=0, dynamic_img_size=True, **sizes)
    project = case.row.partition("_")[0]
    with importing(upstream / f"facebookresearch+{project}"):
        hub = importlib.import_module(f"{project}.hub.backbones")
        vits = importlib.import_module(f"{project}.models.vision_transformer")
        small = functools.partial(_small, vits.DinoVisionTransformer, sizes)
        with mock.patch.object(vits, "DinoVisionTransformer", small):
            return getattr(hub, case.row)(pretrained=False)


def _small(cls: Callable[..., torch.nn.Module], sizes: Any, **options: Any) -> torch.nn.Module:
    return cls(**{**options, **sizes})


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Nothing moves to a GPU."""
    with (
        mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor),
        mock.patch.object(torch.nn.Module, "cuda", lambda module: module),
    ):
        yield


class Watched:
    """Calls a backbone and keeps the tokens [T, D] that it gives for each picture."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        self.backbone, self.tokens = backbone, []

    def __call__(self, pixels: torch.Tensor) -> Any:
        """Class token, tokens and None of AMES's, or a map and the class token of ELViS's."""
        output = self.backbone(pixels)
        is_map = len(output) == 1
        tokens = output[0][0].flatten(2).mT if is_map else output[1]
        self.tokens.append(tokens[0].numpy())
        return output


class Storage:
    """In place of the extractors' HDF5 files."""

    def __init__(self) -> None:
        self.storage = {"local": None}
        self.local_dtype = np.float32
        self.rows: list[np.ndarray] = []

    def save(self, rows: torch.Tensor, kind: str) -> None:
        """AMES's."""
        if kind == "local":
            self.rows.extend(rows.numpy())

    def update_pointer(self, size: int) -> None:
        """AMES's."""

    def save_local(self, places: np.ndarray, values: np.ndarray, ids: np.ndarray) -> None:
        """ELViS's."""
        self.rows.extend(np.concatenate([places, values], axis=-1))


@contextlib.contextmanager
def rows_of(width: int) -> Iterator[None]:
    """Rows that AMES writes have room for so many channels."""
    zeros = torch.zeros

    def roomy(shape: Any, *rest: Any, **options: Any) -> torch.Tensor:
        if isinstance(shape, tuple) and shape[-1] == _AMES_CHANNELS + 5:
            shape = (*shape[:-1], width + 5)
        return zeros(shape, *rest, **options)

    with mock.patch.object(torch, "zeros", roomy):
        yield


def detector_of(
    code: types.ModuleType, case: DescriptorCase
) -> tuple[torch.nn.Module | None, dict[str, np.ndarray]]:
    """A detector with drawn weights, and their layout."""
    if not case.has_detector:
        return None, {}
    module = code.SpatialAttention2d(case.size[0]).eval()
    return module, {"detector_layout": load(module)["layout"]}


def ames(
    case: DescriptorCase, module: torch.nn.Module, files: Files, upstream: pathlib.Path
) -> Run:
    """By AMES's extractor."""
    names = ("extract_dino", "image_dataset", "spatial_attention_2d")
    with importing(upstream / "pavelsuma+ames"):
        extract, data, detectors = (importlib.import_module(f"extract.{name}") for name in names)
    with mock.patch.object(torch.hub, "load", lambda *_: module):
        backbone = Watched(extract.load_dinov2())
    detector, layout = detector_of(detectors, case)
    storage, how = Storage(), {"imsize": case.resolution, "patch_size": case.patch_size}
    for paths, boxes in files:
        truth = [{"bbx": box} for box in boxes] or None
        dataset = data.DataSet("test", "/", [1.0], paths, gnd=truth, **how)
        batches = BatchSampler(SequentialSampler(dataset), 1, False)
        loader = DataLoader(dataset, batch_size=1, sampler=batches)
        with rows_of(case.size[0]):
            extract.extract_features(
                backbone, detector, loader, storage, ps=case.patch_size, topk=case.count
            )
    return Run(storage.rows, backbone.tokens, layout)


def elvis(
    case: DescriptorCase, module: torch.nn.Module, files: Files, upstream: pathlib.Path
) -> Run:
    """By ELViS's extractor."""
    hydra, omegaconf = types.ModuleType("hydra"), types.ModuleType("omegaconf")
    hydra.main, omegaconf.DictConfig = lambda **_: lambda function: function, dict
    names = ("extract", "image_dataset", "spatial_attention_2d", "extract_descriptors", "utils")
    with importing(upstream / "pavelsuma+ELViS", hydra=hydra, omegaconf=omegaconf):
        parts = [importlib.import_module(f"extract.{name}") for name in names]
    extract, data, detectors, command, utils = parts
    with (
        mock.patch.object(torch.hub, "load", lambda *_, **__: module),
        mock.patch.object(timm, "create_model", lambda *_, **__: module),
    ):
        backbone, mean, std = loaded_backbone(command, case)
    watched = Watched(backbone)
    detector, layout = detector_of(detectors, case)
    storage = Storage()
    how = {"imsize": case.resolution, "patch_size": case.patch_size, "mean": mean, "std": std}
    for paths, boxes in files:
        truth = [{"bbx": box} for box in boxes] or None
        dataset = data.DataSet("test", "/", [1.0], paths, gnd_data=truth, **how)
        loader = DataLoader(dataset, batch_size=1, collate_fn=utils.collate_batches)
        extract.extract_features(
            watched, detector, None, loader, storage, 1, False, topk=case.count
        )
    return Run(storage.rows, watched.tokens, layout)


def loaded_backbone(command: types.ModuleType, case: DescriptorCase) -> tuple[Any, ...]:
    """Backbone, mean and std; the authors' own function returns one value less for DINO."""
    if case.row.startswith("vit"):
        return command.load_model(case.row)
    return command.load_dino(case.row), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_files(folder: pathlib.Path) -> Files:
    """Paths of the pictures that stay whole; then those that are cut, with corners of boxes."""
    whole: list[str] = []
    cut: tuple[list[str], list[list[float]]] = [], []
    for i, picture in enumerate(PICTURES):
        path = folder / f"{i}.{picture.format.lower()}"
        path.write_bytes(picture.file())
        if picture.box is None:
            whole.append(str(path))
        else:
            left, top, width, height = picture.box
            cut[0].append(str(path))
            cut[1].append([left, top, left + width, top + height])
    return [(whole, []), cut]


@torch.inference_mode()
def values(case: DescriptorCase, upstream: pathlib.Path) -> dict[str, np.ndarray]:
    """What the file of a case holds."""
    module = tower(case, upstream).eval()
    layout = load(module)["layout"]
    with tempfile.TemporaryDirectory() as folder, on_cpu():
        extractor = {"ames": ames, "elvis": elvis}[case.extractor]
        run = extractor(case, module, write_files(pathlib.Path(folder)), upstream)
    found = np.stack(run.rows).astype(np.float32)
    print(case.name, [len(each) for each in run.tokens], found[:, :3, 4], flush=True)
    return {
        "weights": found[..., 4],
        "locations": found[..., :2],
        "values": found[:, :: case.step, 5:],
        "tokens": np.stack([some(each) for each in run.tokens]),
        "counts": np.asarray([len(each) for each in run.tokens], np.int32),
        "layout": layout,
        **run.layout,
        "versions": np.asarray(
            [f"{each.__name__} {each.__version__}" for each in (torch, timm, cv2)]
        ),
    }


def main() -> None:
    """Writes the files of the chosen cases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", help="names; all but the full one if there is none")
    parser.add_argument("--upstream", required=True, type=pathlib.Path, help="folder of checkouts")
    arguments = parser.parse_args()
    if not JPEG.exists():
        JPEG.write_bytes(draw_jpeg())
    os.environ["XFORMERS_DISABLED"] = "1"
    by_name = {case.name: case for case in (*CASES, FULL)}
    for name in arguments.cases or [case.name for case in CASES]:
        np.savez_compressed(by_name[name].path, **values(by_name[name], arguments.upstream))


if __name__ == "__main__":
    main()
