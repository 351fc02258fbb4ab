"""Prints images per second from JPEG bytes to vectors, beside timm in torch on the same device.

    pip install torch timm        # the peer; --no_peer goes without
    python benchmarks/extraction.py                                     # B/16 at 384, photos
    python benchmarks/extraction.py --model vit_large_patch16_siglip_384.webli --dtype bfloat16
    python benchmarks/extraction.py --mix any

Both ways get the same JPEG files, run in processes of their own (`extraction_ways.py`) that stay
alive, and take turns for `--rounds` rounds; loading and compiling are over before the first. The
table has medians and the ratio of medians; on a machine with other work, processor seconds per
image are the steadier ratio. Weights are random.

Mixes of aspect ratios: `photos` as `ilias-jax plan` assumes them, `square`, and `any`, uniform in
the logarithm between 1:3 and 3:1. Half of the images are upright.

Model FLOP utilisation (MFU) is operations by `ilias_jax.models.parameters` of the tokens that
images really have, padding not counted, over the rate of the bare product [batch x T, D] x
[D, MLP] of the same dtype on the same device in the same run.
"""

import argparse
import io
import json
import math
import operator
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from extraction_ways import architecture_of, serve
from PIL import Image

from ilias_jax.config import EmbedConfig
from ilias_jax.model import Preprocessing
from ilias_jax.models.parameters import image_flops
from ilias_jax.models.registry.entry import preprocessing_of
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.plan.predict import PHOTO_ASPECTS, num_tokens
from ilias_jax.preprocessing.decode import resized_size

_RESULTS = pathlib.Path(__file__).parent / "results" / "extraction.json"
_LONGEST = 500  # pixels of a source image, as ILIAS's distractors mostly have
_TARGET = 0.9  # times the peer's images per second


def draw_aspects(mix: str, count: int) -> list[float]:
    """Longest by shortest side of every image: shares to the nearest image, in random order."""
    rng = np.random.default_rng(0)
    if mix == "any":
        return np.exp(rng.uniform(0, np.log(3), count)).tolist()
    table = {"photos": PHOTO_ASPECTS, "square": {1.0: 1.0}}[mix]
    ends = np.round(np.cumsum(list(table.values())) * count).astype(int)
    aspects = np.repeat(list(table), np.diff(ends, prepend=0))
    return rng.permutation(aspects).tolist()


def make_jpeg(aspect: float, upright: bool, seed: int) -> bytes:
    """A picture with smooth and fine content, so that its file is as long as a photo's."""
    rng = np.random.default_rng(seed)
    width, height = _LONGEST, round(_LONGEST / aspect)
    size = (height, width) if upright else (width, height)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize(size)
    noise = rng.normal(scale=8, size=(size[1], size[0], 1))
    pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_images(folder: pathlib.Path, aspects: list[float]) -> None:
    """All images, and one of every shape under another name for the first pass."""
    seen: set[tuple[float, bool]] = set()
    for number, aspect in enumerate(aspects):
        upright = number % 2 == 1
        jpeg = make_jpeg(aspect, upright, number)
        (folder / f"{number:06d}.jpg").write_bytes(jpeg)
        shape = (round(aspect, 1), upright)
        if shape not in seen:
            (folder / f"{number:06d}.few").write_bytes(jpeg)
        seen.add(shape)


class Child:
    """One way in a process of its own."""

    def __init__(self, way: str, folder: str, arguments: argparse.Namespace) -> None:
        keys = ("model", "resolution", "dtype", "batch_size", "buckets", "canvas", "threads")
        settings = [f"--{key}={getattr(arguments, key)}" for key in keys]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", way, "--folder", folder, *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, word: str) -> dict[str, Any]:
        """The answer to one word."""
        assert self._process.stdin and self._process.stdout
        print(word, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def measure(arguments: argparse.Namespace, aspects: list[float]) -> dict[str, Any]:
    """Runs all ways in turn; gives their raw numbers."""
    ways = ["ours"] if arguments.no_peer else ["ours", "timm"]
    with tempfile.TemporaryDirectory() as folder:
        write_images(pathlib.Path(folder), aspects)
        children = {way: Child(way, folder, arguments) for way in ways}
        found: dict[str, Any] = {way: {"rounds": []} for way in ways}
        for way, child in children.items():
            found[way]["warm"] = child.ask("warm")
            found[way].update(child.ask("about"))
        found["ours"]["bare"] = []
        children["ours"].ask("bare")  # compiles
        for _ in range(arguments.rounds):
            found["ours"]["bare"].append(children["ours"].ask("bare")["flops_per_second"])
            for way, child in children.items():
                found[way]["rounds"].append(child.ask("round"))
                print(f"{way}: {found[way]['rounds'][-1]}", file=sys.stderr)
        for child in children.values():
            child.close()
    return found


def summary(arguments: argparse.Namespace, aspects: list[float], found: Any) -> dict[str, Any]:
    """Medians, ratios, fill rate and utilisation."""
    image = architecture_of(arguments).image
    how = preprocessing_of(image, arguments.resolution)
    shapes = [tuple(shape) for shape in found["ours"]["shapes"]]
    extents = [extent_of(how, aspect, number) for number, aspect in enumerate(aspects)]
    flops = sum(image_flops(image, extent) for extent in extents)
    padded = [
        next(shape for shape in shapes if all(map(operator.ge, shape, extent)))
        for extent in extents
    ]
    real, computed = (sum(map(math.prod, each)) for each in (extents, padded))
    bare = statistics.median(found["ours"]["bare"])
    table: dict[str, Any] = {}
    for way in ("ours", "timm"):
        if way not in found:
            continue
        rounds = found[way]["rounds"]
        seconds = statistics.median(one["seconds"] for one in rounds)
        used = statistics.median(one["processor_seconds"] for one in rounds)
        table[way] = {
            "images_per_second": len(aspects) / seconds,
            "processor_seconds_per_image": used / len(aspects),
            "mfu": flops / seconds / bare,
            "peak_bytes": max(one["peak_bytes"] for one in rounds),
        }
    ours = found["ours"]
    document = {
        "ways": table,
        "bare_product_flops_per_second": bare,
        "compiles": ours["compiles"],
        "compile_seconds_per_shape": ours["compile_seconds"] / ours["compiles"],
        "shapes_used": sorted(set(padded)),
        "fill_rate_of_shapes": real / computed,
    }
    if "timm" in table:
        ratio = {
            "images_per_second": table["ours"]["images_per_second"]
            / table["timm"]["images_per_second"],
            "images_per_processor_second": table["timm"]["processor_seconds_per_image"]
            / table["ours"]["processor_seconds_per_image"],
        }
        met = ratio["images_per_second"] >= _TARGET
        document |= {"ratio_to_timm": ratio, "target_ratio": _TARGET, "target_met": met}
    return document


def extent_of(how: Preprocessing, aspect: float, number: int) -> tuple[int, ...]:
    """Tokens of an image, or height and width of one that stays whole; odd numbers are upright."""
    if not how.whole:
        return (num_tokens(how, aspect),)
    size = resized_size(_LONGEST, round(_LONGEST / aspect), how.resolution)
    return size if number % 2 else size[::-1]


def report(document: dict[str, Any]) -> None:
    """Prints the table."""
    print(f"{'':<8}{'images/s':>10}{'CPU s/image':>13}{'MFU':>8}{'peak GB':>9}")
    for way, row in document["ways"].items():
        print(
            f"{way:<8}{row['images_per_second']:>10.3f}{row['processor_seconds_per_image']:>13.3f}"
            f"{row['mfu']:>8.2f}{row['peak_bytes'] / 1e9:>9.2f}"
        )
    print(
        f"bare product {document['bare_product_flops_per_second'] / 1e9:,.0f} GFLOP/s; images fill "
        f"{document['fill_rate_of_shapes']:.3f} of the shapes {document['shapes_used']}; "
        f"{document['compile_seconds_per_shape']:.1f} s to compile each"
    )
    if "ratio_to_timm" in document:
        ratio, met = document["ratio_to_timm"], document["target_met"]
        print(
            f"of timm: {ratio['images_per_second']:.3f} times the images per second, "
            f"{ratio['images_per_processor_second']:.3f} times per processor second; "
            f"target {_TARGET:g}: {'met' if met else 'NOT MET'}"
        )


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vit_base_patch16_siglip_256.webli", choices=VARIANTS)
    parser.add_argument("--resolution", type=int, default=0, help="0: the model's usual one")
    parser.add_argument("--mix", default="photos", choices=("photos", "square", "any"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=EmbedConfig().batch_size_per_device)
    parser.add_argument("--buckets", type=int, default=EmbedConfig().num_buckets)
    parser.add_argument("--canvas", type=int, default=EmbedConfig().canvas)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no_peer", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default=_RESULTS)
    parser.add_argument("--child", choices=("ours", "timm"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.resolution = arguments.resolution or VARIANTS[arguments.model].test_resolution
    if arguments.child:
        serve(arguments)
        return
    aspects = draw_aspects(arguments.mix, arguments.images)
    found = measure(arguments, aspects)
    names = ("model", "resolution", "mix", "dtype", "images", "batch_size", "buckets", "rounds")
    document: dict[str, Any] = {
        "benchmark": "extraction",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {found['ours']['device']}",
        "python": platform.python_version(),
        **{name: getattr(arguments, name) for name in names},
        **summary(arguments, aspects, found),
    }
    report(document)
    print(json.dumps(document))
    arguments.output.write_text(json.dumps({**document, "raw": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
