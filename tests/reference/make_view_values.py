"""Runs the official toolkit's image options on seeded pictures and stores what they give.

    pip install torch==2.14.1 torchvision==0.29.1 einops
    python tests/reference/make_view_values.py --toolkit ILIAS   # a checkout of ilias-vrg/ilias

Writes `tests/data/views.npz`: torch's own operations on small arrays, and embeddings of whole
pictures through the toolkit's dataset, transforms and `forward` around a model of one product.
"""

import argparse
import itertools
import pathlib
import sys
import tempfile
import types
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import view_cases as cases  # noqa: E402

OUTPUT = ROOT / "tests" / "data" / "views.npz"


def operations() -> dict[str, np.ndarray]:
    """Scaling, rotation and the mask's resize, one by one."""
    found = {}
    for shape in cases.SHAPES:
        image = torch.from_numpy(cases.array(shape)).permute(2, 0, 1)[None]
        name = f"{shape[0]}x{shape[1]}"
        for scale in (0.707, 1.414):
            if min(shape) * scale >= 1:
                scaled = F.interpolate(
                    image, scale_factor=scale, mode="bicubic", align_corners=False
                )
                found[f"scale {scale} {name}"] = scaled[0].permute(1, 2, 0).numpy()
        for angle in (90, 180, 270):
            turned = transforms.rotate(image, angle, InterpolationMode.BILINEAR)
            found[f"rotate {angle} {name}"] = turned[0].permute(1, 2, 0).numpy()
    for old, new in cases.NEAREST:
        mask = torch.from_numpy(cases.mask(old))[None, None].float()
        resized = F.interpolate(mask, size=new, mode="nearest")[0, 0].numpy() > 0
        found[f"nearest {old} {new}"] = resized
    return found


def import_toolkit(folder: pathlib.Path) -> tuple[Any, Any, Any]:
    """The toolkit's modules for datasets, transforms and extractors."""
    sys.path.insert(0, str(folder / "feature_extraction"))
    sys.modules["webdataset"] = types.ModuleType("webdataset")  # for distractors alone
    for name in ("WebLoader", "DataPipeline"):
        setattr(sys.modules["webdataset"], name, object)
    from src.datasets import generators
    from src.datasets import transforms as official

    # Its package imports every framework that the toolkit knows; one class is needed.
    package = types.ModuleType("src.model.extractors")
    package.__path__ = [str(folder / "feature_extraction" / "src" / "model" / "extractors")]
    sys.modules["src.model.extractors"] = package
    from src.model.extractors import generic_extractor

    return generators, official, generic_extractor


def embeddings(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """[pictures, WIDTH] float32 for every set of options."""
    generators, official, extractors = import_toolkit(folder)
    weights = torch.from_numpy(cases.weights())
    pad = official.MultiplierPadding(cases.PATCH)

    class Product(extractors.GenericFeatureExtractor):  # type: ignore[name-defined]
        def _extract_features(self, x: torch.Tensor) -> torch.Tensor:
            x = pad(x)
            rows, columns = (side // cases.PATCH for side in x.shape[2:])
            cut = x.reshape(len(x), 3, rows, cases.PATCH, columns, cases.PATCH)
            patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(len(x), rows * columns, -1)
            return torch.tanh(patches @ weights).sum(dim=1)

    preprocess = official.InferenceTransforms.RESIZE_LARGE.get_transforms(
        resolution=cases.RESOLUTION, mean=cases.MEAN, std=cases.STD
    )
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        home = pathlib.Path(directory) / "thing" / "query"
        home.mkdir(parents=True)
        for number, (data, boxes) in enumerate(cases.pictures()):
            (home / f"Q{number}.jpg").write_bytes(data)
            lines = [" ".join(map(str, box)) for box in boxes]
            (home / f"Q{number}_bbox.txt").write_text("\n".join(lines) + "\n")
        for name, options in cases.OPTIONS.items():
            dataset = generators.ImageDataset(
                directory,
                preprocess,
                masking=bool(options.get("mask_outside_box")),
                crop_resize=bool(options.get("crop_to_box")),
            )
            scales = [0.707, 1, 1.414] if "scales" in options else [1]
            rotations = [0, 90, 180, 270] if "rotations" in options else [0]
            model = Product(model="product", pooling="head")
            with torch.no_grad():
                vectors = [model(image[None], scales, rotations)[0] for image, _ in dataset]
            found[f"embeddings {name}"] = torch.stack(vectors).numpy()
    return found


def main() -> None:
    """Writes the file; refuses values that would not tell one option from another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toolkit", type=pathlib.Path, required=True)
    found = operations()
    vectors = embeddings(parser.parse_args().toolkit)
    for one, two in itertools.combinations(vectors.values(), 2):
        if np.abs(one - two).max() < 0.01:
            raise SystemExit("two sets of options give the same embeddings")
    arrays: dict[str, Any] = {**found, **vectors}
    np.savez_compressed(OUTPUT, **arrays)
    print(f"{OUTPUT}: {len(found)} operations, {len(vectors)} options")


if __name__ == "__main__":
    main()
