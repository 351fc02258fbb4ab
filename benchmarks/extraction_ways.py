"""The two ways that `benchmarks/extraction.py` times, each run in a process of its own.

*ours* is the path of a user's extraction, from JPEG bytes to vectors. *timm* restates the official
toolkit in a few lines: Pillow on the host, images grouped by exact aspect ratio within a batch of
128, torch's model with position embeddings resampled on every pass, float16 autocast on CUDA.

A process gets one word a line on its standard input, does it, and answers with a line of JSON.
"""

import argparse
import collections
import concurrent.futures
import functools
import io
import itertools
import json
import os
import pathlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from search import peak_bytes

_TOOLKIT_BATCH = 128
_PRODUCTS = 8  # timed together
Embed = Callable[[list[bytes]], np.ndarray]
# timm's models of the same network as one of the authors' own.
TIMM_NAMES = {
    "dino_vitb16": "vit_base_patch16_224.dino",
    "dinov2_vitb14": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov3_vitb16": "vit_base_patch16_dinov3.lvd1689m",
}


def ours(arguments: argparse.Namespace) -> tuple[Embed, dict[str, Callable[[], Any]]]:
    """JPEG bytes -> [N, D] by this project; and the bare product of the same dtype and device."""
    import jax

    from ilias_jax.embeddings.embedder import Embedder, collect, place_parameters
    from ilias_jax.embeddings.extract import compiler_options, images_forward
    from ilias_jax.embeddings.sources import read_ahead
    from ilias_jax.mesh import make_mesh
    from ilias_jax.models.load import tower_model
    from ilias_jax.models.parameters import random_parameters
    from ilias_jax.preprocessing.batching import PreparedImage, batch_items, bucket_shapes
    from ilias_jax.preprocessing.decode import decode, prepared, resize, to_canvas_image
    from ilias_jax.profiling import Timings

    architecture = architecture_of(arguments)
    model = tower_model(
        arguments.model,
        architecture,
        random_parameters(architecture),
        None,
        arguments.resolution,
        arguments.dtype,
        {},
    )
    image = architecture.image
    mesh, how = make_mesh(), model.preprocessing
    forward = functools.partial(images_forward, model)
    parameters = place_parameters(model.parameters, mesh)
    embedder = Embedder(forward, parameters, mesh, arguments.batch_size, compiler_options(how))
    shapes = bucket_shapes(how, arguments.buckets)
    threads = concurrent.futures.ThreadPoolExecutor(arguments.threads)

    side = max(arguments.canvas, how.resolution) if arguments.canvas else 0

    def load(jpeg: bytes) -> PreparedImage:
        if side:
            image = decode(jpeg, exif_transpose=False)
            return to_canvas_image(image, how, side)
        return prepared(resize(decode(jpeg, exif_transpose=False), how.resolution), how)

    timings = Timings()

    def embed(jpegs: list[bytes]) -> np.ndarray:
        items = enumerate(ahead(threads, load, jpegs))
        names = [str(row) for row in range(len(jpegs))]
        with timings.stage("embed"):
            batches = read_ahead(batch_items(items, shapes, embedder.batch_size), 2)
            return collect(embedder.run(batches), names, "benchmark")

    # Of a CNN a product as one of its many: a map at a sixteenth of the resolution.
    shape = ((max(shapes[-1]) // 16) ** 2 * 16, 512, 512)
    if not image.whole:
        shape = (arguments.batch_size * shapes[-1][0], image.size.width, image.size.mlp_dim)
    x = jax.numpy.ones(shape[:2], arguments.dtype)
    w = jax.numpy.ones(shape[1:], arguments.dtype)
    precision = "highest" if arguments.dtype == "float32" else "default"
    product = jax.jit(functools.partial(jax.numpy.matmul, precision=precision))

    def bare() -> dict[str, float]:
        start = time.perf_counter()
        jax.block_until_ready([product(x, w) for _ in range(_PRODUCTS)])
        seconds = time.perf_counter() - start
        return {"flops_per_second": 2 * np.prod(shape, dtype=float) * _PRODUCTS / seconds}

    def about() -> dict[str, object]:
        return {
            "device": jax.devices()[0].device_kind,
            "platform": jax.default_backend(),
            "num_devices": jax.local_device_count(),
            "shapes": shapes,
            "compiles": timings.stages["embed"].compiles,
            "compile_seconds": timings.stages["embed"].compile_s,
            "versions": {"jax": jax.__version__},
        }

    return embed, {"bare": bare, "about": about}


def ahead(
    threads: concurrent.futures.Executor, function: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
    """What `map` gives, in order, no more than a batch and a half of the toolkit ahead."""
    waiting: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
    for item in items:
        waiting.append(threads.submit(function, item))
        if len(waiting) > 3 * _TOOLKIT_BATCH // 2:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def architecture_of(arguments: argparse.Namespace) -> Any:
    """The image tower of the model, with the activation that timm has."""
    from ilias_jax.models.dual_encoder import DualEncoderConfig
    from ilias_jax.models.registry.registry import VARIANTS

    return DualEncoderConfig(VARIANTS[arguments.model].architecture_with("reference").image)


def with_timm(arguments: argparse.Namespace) -> tuple[Embed, dict[str, Callable[[], Any]]]:
    """JPEG bytes -> [N, D] as the official toolkit does it."""
    import timm
    import torch
    from PIL import Image

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = TIMM_NAMES.get(arguments.model, arguments.model)
    projected = "clip" in name or "pe_core" in name  # the toolkit keeps the head of these alone
    is_cnn = architecture_of(arguments).image.whole
    model = timm.create_model(
        name,
        pretrained=False,
        num_classes=None if projected else 0,
        **({} if is_cnn else {"dynamic_img_size": True}),
    )
    model = model.eval().to(device)
    threads = concurrent.futures.ThreadPoolExecutor(arguments.threads)

    def load(jpeg: bytes) -> torch.Tensor:
        """[3, H, W]: longest side to the resolution, normalised with mean and deviation 0.5."""
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        longest, aspect = arguments.resolution, image.height / image.width
        size = (longest, max(1, int(longest * aspect)))
        if aspect > 1:
            size = (max(1, int(longest / aspect)), longest)
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)
        return torch.from_numpy((pixels / 255 - 0.5) / 0.5).permute(2, 0, 1)

    def pad(images: torch.Tensor) -> torch.Tensor:
        """Zeros around [N, 3, H, W] up to whole patches; none for a CNN."""
        if is_cnn:
            return images
        patch = model.patch_embed.patch_size[0]
        missing = [-side % patch for side in (images.shape[3], images.shape[2])]
        sides = [part for m in missing for part in (m // 2, m - m // 2)]
        return torch.nn.functional.pad(images, sides)

    @torch.inference_mode()
    def embed(jpegs: list[bytes]) -> np.ndarray:
        vectors: dict[int, np.ndarray] = {}
        images = enumerate(ahead(threads, load, jpegs))
        for batch in iter(lambda: list(itertools.islice(images, _TOOLKIT_BATCH)), []):
            groups = defaultdict(list)
            for row, image in batch:
                groups[image.shape[1] / image.shape[2]].append((row, image))
            for group in groups.values():
                pixels = torch.stack([image for _, image in group]).to(device)
                with torch.autocast("cuda", torch.float16, enabled=device == "cuda"):
                    found = torch.nn.functional.normalize(model(pad(pixels)), dim=-1)
                found = found.half().cpu().numpy()
                vectors.update(zip((row for row, _ in group), found, strict=True))
        return np.stack([vectors[row] for row in range(len(jpegs))])

    def about() -> dict[str, object]:
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        versions = {"torch": torch.__version__, "timm": timm.__version__}
        dtype = "float16 autocast" if device == "cuda" else "float32"
        return {"device": name, "dtype": dtype, "versions": versions}

    return embed, {"about": about}


def serve(arguments: argparse.Namespace) -> None:
    """Answers one line of JSON for every word: `warm`, `round`, or a name of the way's own."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing else can be taken for an answer
    jpegs = [path.read_bytes() for path in sorted(pathlib.Path(arguments.folder).glob("*.jpg"))]
    few = [path.read_bytes() for path in sorted(pathlib.Path(arguments.folder).glob("*.few"))]
    embed, more = {"ours": ours, "timm": with_timm}[arguments.child](arguments)
    for word in map(str.strip, sys.stdin):
        images = few if word == "warm" else jpegs
        answer = more[word]() if word in more else timed(embed, images)
        print(json.dumps(answer), file=answers, flush=True)


def timed(embed: Embed, jpegs: list[bytes]) -> dict[str, float]:
    """Wall and processor seconds of one pass, and the peak memory so far."""
    start, used = time.perf_counter(), time.process_time()
    vectors = embed(jpegs)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    assert vectors.shape[0] == len(jpegs) and np.isfinite(vectors).all()
    return {"seconds": seconds, "processor_seconds": used, "peak_bytes": peak_bytes()}
