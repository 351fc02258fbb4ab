"""Runs the reference implementations on seeded weights and stores what they give for the tests.

    pip install -e ".[parity]"
    python tests/reference/make_parity_values.py            # about 40 minutes on 2 cores, 16 GB
    python tests/reference/make_parity_values.py small base

Writes `tests/data/parity_NAME.npz` for the cases of `tests/parity_cases.py`: image tower of timm,
text tower of open_clip, outputs and what each layer holds. With `--big_vision FOLDER`, a checkout
of google-research/big_vision, and flax, einops, scipy and ml_collections installed, its own towers
run as well in the small case, at the native grid, the only one they take. With `--toolkit FOLDER`,
a checkout of ilias-vrg/ilias, every picture is preprocessed by its code too and must be the same.
"""

import argparse
import importlib
import pathlib
import sys
import types

import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from reference_towers import (
    Arrays,
    image_tower,
    image_values,
    preprocess,
    text_tower,
    text_values,
)

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
import parity_weights as seeded  # noqa: E402
from parity_cases import CASES, DATA, Case  # noqa: E402

MAX_MEAN_COSINE = 0.95  # outputs of different inputs must differ, or agreement would mean nothing


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine between the outputs [N, D] of different inputs."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float((unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean())


def require_distinct(name: str, vectors: np.ndarray) -> None:
    """Prints how much the outputs of different inputs are alike.

    Raises:
        ValueError: too much.
    """
    cosine = mean_cosine(vectors)
    print(f"{name}: {vectors.shape}, mean cosine {cosine:.3f}", flush=True)
    if not cosine < MAX_MEAN_COSINE:
        raise ValueError(f"{name}: the outputs are too much alike (limit {MAX_MEAN_COSINE})")


def image_part(case: Case) -> Arrays:
    """What timm gives."""
    arrays = seeded.draw(seeded.image_layout(case.sizes))
    values, pictures = {"image_weights": seeded.fingerprint(arrays)}, case.pictures()
    for activation in case.activations:
        module = image_tower(arrays, case, activation)
        for resolution in case.resolutions:
            outputs, summaries = image_values(module, case, resolution, pictures)
            require_distinct(f"image_{activation}_{resolution}", outputs)
            values[f"image_{activation}_{resolution}"] = outputs
            values[f"image_trace_{activation}_{resolution}"] = summaries
    return values


def text_part(case: Case) -> Arrays:
    """What open_clip gives."""
    arrays = seeded.draw(seeded.text_layout(case.sizes))
    values, tokens = {"text_weights": seeded.fingerprint(arrays)}, seeded.tokens(case.sizes)
    for activation in case.activations:
        outputs, summaries = text_values(text_tower(arrays, case, activation), tokens)
        require_distinct(f"text_{activation}", outputs)
        values[f"text_{activation}"] = outputs
        values[f"text_trace_{activation}"] = summaries
    return values


def native_pictures(case: Case) -> list[int]:
    """Pictures that fill the native grid after padding, so that big_vision can run them."""
    side = case.sizes.patch * case.sizes.native_grid
    shapes = [preprocess(picture, side, case.sizes.patch).shape[2:] for picture in case.pictures()]
    return [i for i, shape in enumerate(shapes) if tuple(shape) == (side, side)]


def big_vision_part(case: Case, checkout: str) -> Arrays:
    """Outputs of big_vision's towers, which it gives L2-normalised."""
    sys.path.insert(0, checkout)
    import flax.training.checkpoints
    import flax.traverse_util

    # big_vision's utilities import TensorFlow to open files, which nothing here does. flax looks
    # for TensorFlow when it is imported, so it comes first.
    for name in ("tensorflow", "tensorflow.io", "tensorflow.io.gfile"):
        sys.modules.setdefault(name, types.ModuleType(name))
    from big_vision.models.proj.image_text import two_towers

    sizes = case.sizes
    model = two_towers.Model(
        image={**sizes.image, "pool_type": "map", "patch_size": (sizes.patch, sizes.patch)},
        text_model="proj.image_text.text_transformer",
        text={**sizes.text, "vocab_size": sizes.vocab},
        out_dim=(None, sizes.image["width"]),
        temperature_init=10.0,
        bias_init=-10.0,
    )
    side, chosen, pictures = sizes.patch * sizes.native_grid, native_pictures(case), case.pictures()
    pixels = [
        preprocess(pictures[i], side, sizes.patch)[0].permute(1, 2, 0).numpy() for i in chosen
    ]
    tree = flax.traverse_util.unflatten_dict(seeded.weights(sizes), sep="/")
    image, text, _ = model.apply({"params": tree}, np.stack(pixels), seeded.tokens(sizes))
    values = {"big_vision_image": np.asarray(image), "big_vision_text": np.asarray(text)}
    for name, vectors in values.items():
        require_distinct(name, vectors)
    return values | {"big_vision_pictures": np.asarray(chosen)}


def check_preprocessing(case: Case, checkout: str) -> None:
    """Compares `preprocess` with the toolkit's own code.

    Raises:
        ValueError: a picture differs.
    """
    package = "src"
    root = pathlib.Path(checkout) / "feature_extraction" / package
    for name, path in ((package, root), (f"{package}.datasets", root / "datasets")):
        sys.modules[name] = types.ModuleType(name)  # its __init__ would import the whole toolkit
        sys.modules[name].__path__ = [str(path)]
    toolkit = importlib.import_module(f"{package}.datasets.transforms")
    pad = toolkit.MultiplierPadding(case.sizes.patch)
    for resolution in case.resolutions:
        how = toolkit.InferenceTransforms.RESIZE_LARGE.get_transforms(
            resolution, mean=[0.5] * 3, std=[0.5] * 3
        )
        for i, picture in enumerate(case.pictures()):
            ours = preprocess(picture, resolution, case.sizes.patch)
            if not torch.equal(pad(how(Image.fromarray(picture))[None]), ours):
                raise ValueError(f"picture {i} at {resolution} is not the toolkit's")
    print("preprocessing: that of the toolkit, bit for bit")


def main() -> None:
    """Writes the files of the chosen cases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--big_vision", help="checkout of google-research/big_vision")
    parser.add_argument("--toolkit", help="checkout of ilias-vrg/ilias")
    arguments = parser.parse_args()
    versions = [f"{module.__name__} {module.__version__}" for module in (torch, timm, open_clip)]
    for name in arguments.cases:
        case = CASES[name]
        print(f"== {name}", flush=True)
        if arguments.toolkit:
            check_preprocessing(case, arguments.toolkit)
        values = image_part(case)
        if case.open_clip_name:
            values |= text_part(case)
        if arguments.big_vision and name == "small":
            values |= big_vision_part(case, arguments.big_vision)
        values["versions"] = np.asarray(versions)
        np.savez_compressed(DATA / f"parity_{name}.npz", **values)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
