"""Times the host's and the device's share of the pixels beside a bare decode and the toolkit's way.

    python benchmarks/pixels.py [--images 32] [--rounds 15] [--seconds 2]

JPEGs of 500 x 375: generated ones (smooth noise at four scales, discs with sharp edges, grain) and,
where scikit-learn is installed, crops of its two sample photos. Every round runs three ways in turn
on one thread:

* bare decode: Pillow's open and convert to RGB, nothing else;
* ours: what the host does for an image, from the record's bytes to its place in the batch's canvas;
* toolkit: decode, Pillow's bicubic resize to 512, channels first, float32, normalise, pad.

A cost is CPU time of the thread, so that other programs on the machine count little. Then the first
two ways run on one thread, two threads and two processes in turn, by the wall clock. That scaling
is the machine's own as well, so run it on one that does nothing else: "cores" is the CPU time that
the workers had over the wall time, and images per second and core is what they made of it. Last,
the device's resize at 512, in batches of 8, beside the same products and nothing else, and beside
a square float32 product; its patches are compared with those of Pillow's resize on the host.

A table and a JSON line go to the screen, the JSON also to `--output`.
"""

import argparse
import importlib.util
import io
import json
import multiprocessing
import os
import pathlib
import platform
import queue
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL
from PIL import Image

from ilias_jax.model import Preprocessing
from ilias_jax.preprocessing.decode import (
    decode,
    jpeg_to_patches,
    resized_size,
    to_canvas_image,
)
from ilias_jax.preprocessing.resize import CPU_PARTS, MATRIX_UNIT_PARTS, canvas_to_patches

_RESULTS = pathlib.Path(__file__).parent / "results" / "pixels.json"
_WIDTH, _HEIGHT, _QUALITY = 500, 375, 90
_RESOLUTION, _PATCH, _SIDE, _BATCH = 512, 16, 512, 8
_RESIZE = "canvas_to_patches"
_TARGET = 1.5  # times the bare decode
Way = Callable[[bytes, np.ndarray], object]
Rate = tuple[float, float]  # images per second, cores


def generated(seed: int) -> Image.Image:
    """Smooth noise at four scales, a dozen discs with sharp edges, a little grain."""
    rng = np.random.default_rng(seed)
    levels = np.full((_HEIGHT, _WIDTH, 3), 128.0)
    for size in (4, 16, 64, 250):
        grid = rng.normal(scale=56 / size**0.35, size=(3, max(2, size * 3 // 4), size))
        for channel, plane in enumerate(grid.astype(np.float32)):
            smooth = Image.fromarray(plane).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
            levels[..., channel] += np.asarray(smooth)
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    for _ in range(12):
        radius = rng.uniform(10, 90)
        inside = (x - rng.uniform(0, _WIDTH)) ** 2 + (y - rng.uniform(0, _HEIGHT)) ** 2 < radius**2
        levels[inside] += rng.normal(scale=40, size=3)
    levels += rng.normal(scale=4, size=(_HEIGHT, _WIDTH, 1))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def photographed(seed: int) -> Image.Image:
    """A crop of one of scikit-learn's sample photos, reduced to the size of the others."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    photo = Image.fromarray(load_sample_images().images[seed % 2])
    width = int(rng.integers(520, photo.width - 80))
    height = width * _HEIGHT // _WIDTH
    left, top = (
        int(rng.integers(0, room)) for room in (photo.width - width, photo.height - height)
    )
    crop = photo.crop((left, top, left + width, top + height))
    return crop.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)


def make_jpegs(num_images: int) -> tuple[list[bytes], int]:
    """JPEGs, of photos every fourth where there are some; and how many are of photos."""
    has_photos = importlib.util.find_spec("sklearn") is not None
    jpegs, num_photos = [], 0
    for seed in range(num_images):
        is_photo = has_photos and seed % 4 == 0
        buffer = io.BytesIO()
        (photographed if is_photo else generated)(seed).save(buffer, "JPEG", quality=_QUALITY)
        jpegs.append(buffer.getvalue())
        num_photos += is_photo
    return jpegs, num_photos


def bare_decode(jpeg: bytes, _: np.ndarray) -> object:
    """Pillow's decode alone."""
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def ours(jpeg: bytes, canvas: np.ndarray) -> object:
    """Bytes to a picture in the canvas [S, S, 3] and both sizes."""
    picture = to_canvas_image(
        decode(jpeg, exif_transpose=False), Preprocessing(_RESOLUTION, _PATCH), _SIDE
    )
    height, width, _ = picture.pixels.shape
    canvas[:height, :width] = picture.pixels
    return (height, width), picture.size


def toolkit(jpeg: bytes, _: np.ndarray) -> object:
    """The toolkit's preprocessing in numpy, without torch's own cost."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image = image.resize(resized_size(*image.size, _RESOLUTION))
    planes = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    normal = planes.astype(np.float32)
    normal /= 255
    normal -= 0.5
    normal /= 0.5
    missing = [-length % _PATCH for length in normal.shape[1:]]
    if not any(missing):
        return normal
    return np.pad(normal, [(0, 0), *((total // 2, total - total // 2) for total in missing)])


WAYS: Mapping[str, Way] = {"bare decode": bare_decode, "ours": ours, "toolkit": toolkit}


def new_canvases() -> np.ndarray:
    """A batch of canvases, filled in turn."""
    return np.zeros((_BATCH, _SIDE, _SIDE, 3), np.uint8)


def host_costs(jpegs: Sequence[bytes], rounds: int) -> dict[str, list[float]]:
    """CPU microseconds an image by way and round, the ways by turns."""
    canvases = new_canvases()
    costs: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, way in WAYS.items():
            start = time.thread_time()
            for index, jpeg in enumerate(jpegs):
                way(jpeg, canvases[index % _BATCH])
            if number:  # the first round warms up
                costs[name].append((time.thread_time() - start) / len(jpegs) * 1e6)
    return costs


def work(name: str, jpegs: Sequence[bytes], seconds: float, barrier: Any, counts: Any) -> None:
    """Warms up, runs a way for so long from when all workers are ready.

    Puts images per second and the cores that it had.
    """
    canvases, done = new_canvases(), 0
    for jpeg, canvas in zip(jpegs, canvases, strict=False):
        WAYS[name](jpeg, canvas)  # a new process has Pillow's plugins to import
    barrier.wait()
    start, cpu = time.perf_counter(), time.thread_time()
    while (now := time.perf_counter()) < start + seconds:
        WAYS[name](jpegs[done % len(jpegs)], canvases[done % _BATCH])
        done += 1
    counts.put((done / (now - start), (time.thread_time() - cpu) / (now - start)))


def throughput(
    make: Callable[..., Any], barrier: Any, counts: Any, num: int, *arguments: Any
) -> Rate:
    """What `num` workers reach together; `make` is Thread or Process."""
    workers = [make(target=work, args=(*arguments, barrier, counts)) for _ in range(num)]
    for worker in workers:
        worker.start()
    rates, cores = zip(*(counts.get() for _ in workers), strict=True)
    for worker in workers:
        worker.join()
    return sum(rates), sum(cores)


def scaling(
    jpegs: Sequence[bytes], rounds: int, seconds: float
) -> dict[str, dict[str, list[Rate]]]:
    """Rates by way and workers, every round all of them in turn."""
    context = multiprocessing.get_context("spawn")  # JAX runs threads: no fork
    rates: dict[str, dict[str, list[Rate]]] = {
        name: {"1 thread": [], "2 threads": [], "2 processes": []}
        for name in ("bare decode", "ours")
    }
    for _ in range(rounds):
        for name, found in rates.items():
            for num, key in ((1, "1 thread"), (2, "2 threads"), (2, "2 processes")):
                tools: tuple[Any, ...] = (threading.Thread, threading.Barrier(num), queue.Queue())
                if key == "2 processes":
                    tools = (context.Process, context.Barrier(num), context.Queue())
                found[key].append(throughput(*tools, num, name, jpegs, seconds))
    return rates


def device_batch(jpegs: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canvases, sources and targets of the first images."""
    canvases = new_canvases()
    sizes = [WAYS["ours"](jpeg, row) for jpeg, row in zip(jpegs[:_BATCH], canvases, strict=True)]
    source, target = np.asarray(sizes, np.int32).swapaxes(0, 1)
    return canvases, source, target


def product_of_parts(pixels: jax.Array, weights: jax.Array, dtype: Any, num: int) -> jax.Array:
    """The products of a resize and nothing else: per axis as many as the weights have parts."""
    first, *others = (
        jnp.einsum(
            "brs,bst->brt",
            pixels.astype(dtype),
            (weights + part).astype(dtype),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        for part in range(2 * num)
    )
    return sum(others, start=first)


def device_programs(
    batch: Sequence[np.ndarray],
) -> dict[str, tuple[Callable[[], jax.Array], float, int]]:
    """By name: what to run on the device, its operations, and the images that these are for."""
    dtype, bits = CPU_PARTS if jax.default_backend() == "cpu" else MATRIX_UNIT_PARTS
    grid = _RESOLUTION // _PATCH
    rng = np.random.default_rng(0)
    arrays = jax.device_put(tuple(batch))
    shapes = (_BATCH, 3 * _SIDE, _SIDE), (_BATCH, _SIDE, _RESOLUTION), (2048, 2048)
    *factors, square = (jax.device_put(rng.random(shape, np.float32)) for shape in shapes)
    resize = jax.jit(canvas_to_patches, static_argnums=(3, 4, 5))
    products = jax.jit(lambda a, b: product_of_parts(a, b, dtype, len(bits)))
    bare = jax.jit(lambda a: jnp.dot(a, a, precision=jax.lax.Precision.HIGHEST))
    flop = 2 * len(bits) * 2 * 3 * _SIDE * _SIDE * _RESOLUTION * _BATCH
    return {
        _RESIZE: (lambda: resize(*arrays, grid * grid, grid, _PATCH), flop, _BATCH),
        "its products alone": (lambda: products(*factors), flop, _BATCH),
        "float32 product": (lambda: bare(square), 2 * 2048**3, 1),
    }


def device_costs(jpegs: Sequence[bytes], rounds: int) -> tuple[dict[str, Any], int]:
    """Medians of milliseconds an image and GFLOP/s, and levels that differ from Pillow's."""
    programs = device_programs(device_batch(jpegs))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, (run, _, _) in programs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run().block_until_ready()
            if number:  # the first round compiles
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    found = {}
    for name, (_, operations, num) in programs.items():
        wall, cpu = (statistics.median(values) for values in zip(*times[name], strict=True))
        found[name] = {
            "milliseconds": round(wall / num * 1e3, 3),
            "cpu_milliseconds": round(cpu / num * 1e3, 3),
            "gflop_per_second": round(operations / wall / 1e9, 1),
            "gflop_per_cpu_second": round(operations / cpu / 1e9, 1),
        }
    return found, levels_that_differ(jpegs, np.asarray(programs[_RESIZE][0]()))


def levels_that_differ(jpegs: Sequence[bytes], patches: np.ndarray) -> int:
    """Of a batch's patches from the device and Pillow's."""
    num_wrong = 0
    for jpeg, row in zip(jpegs[:_BATCH], patches, strict=True):
        expected = jpeg_to_patches(jpeg, _RESOLUTION, _PATCH, exif_transpose=False).pixels
        num_wrong += int(np.count_nonzero(row[: len(expected)] != expected))
    return num_wrong


def main() -> None:
    """Prints the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("images", 32), ("rounds", 15), ("scaling-rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run that scales")
    parser.add_argument("--output", type=pathlib.Path, default=_RESULTS)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    jpegs, num_photos = make_jpegs(max(_BATCH, arguments.images))
    costs = host_costs(jpegs, arguments.rounds)
    rates = scaling(jpegs, arguments.scaling_rounds, arguments.seconds)
    device, num_wrong = device_costs(jpegs, arguments.rounds)
    document = {
        "benchmark": "pixels",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        "load_average_before": round(load, 2),
        "sizes": {
            "images": len(jpegs),
            "photos_of_scikit_learn": num_photos,
            "mean_kilobytes": round(statistics.mean(map(len, jpegs)) / 1e3, 1),
            "resolution": _RESOLUTION,
            "canvas": _SIDE,
            "rounds": arguments.rounds,
        },
        **summarize(costs, rates),
        "device": device,
        "levels_that_differ_from_pillow": num_wrong,
        "host_cpu_microseconds_by_round": {
            name: [round(value) for value in values] for name, values in costs.items()
        },
        "images_per_second_by_round": {
            name: {key: [round(rate) for rate, _ in values] for key, values in found.items()}
            for name, found in rates.items()
        },
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }
    report(document)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")


def summarize(
    costs: Mapping[str, list[float]], rates: Mapping[str, Mapping[str, list[Rate]]]
) -> dict[str, Any]:
    """Medians and ratios of them."""
    medians = {name: statistics.median(values) for name, values in costs.items()}
    ratios = {name: value / medians["bare decode"] for name, value in medians.items()}
    workers = {}
    for name, found in rates.items():
        workers[name] = {
            key: {
                "images_per_second": round(statistics.median(rate for rate, _ in values)),
                "cores": round(statistics.median(cores for _, cores in values), 2),
                "per_core": round(statistics.median(rate / cores for rate, cores in values)),
            }
            for key, values in found.items()
        }
    return {
        "host_cpu_microseconds": {name: round(value) for name, value in medians.items()},
        "ratios_to_bare_decode": {name: round(value, 3) for name, value in ratios.items()},
        "target_ratio": _TARGET,
        "target_met": ratios["ours"] <= _TARGET,
        "workers": workers,
        "scaling": {
            name: {
                key: round(one["images_per_second"] / found["1 thread"]["images_per_second"], 2)
                for key, one in found.items()
            }
            for name, found in workers.items()
        },
    }


def report(document: Mapping[str, Any]) -> None:
    """Prints the tables and the JSON line."""
    print(f"{'one thread':<20}{'CPU us/image':>14}{'of bare decode':>16}")
    for name, cost in document["host_cpu_microseconds"].items():
        print(f"{name:<20}{cost:>14}{document['ratios_to_bare_decode'][name]:>16.2f}")
    met = "met" if document["target_met"] else "NOT MET"
    print(f"target: ours at most {_TARGET:g} times a bare decode: {met}")
    print(f"{'workers':<20}{'images/s':>14}{'scaling':>10}{'cores':>10}{'a core':>10}")
    for name, workers in document["workers"].items():
        for key, found in workers.items():
            rate, cores, per_core = found.values()
            gain = document["scaling"][name][key]
            print(f"{name + ', ' + key:<24}{rate:>10}{gain:>10.2f}{cores:>10.2f}{per_core:>10}")
    print(f"{'device':<20}{'ms/image':>14}{'CPU ms':>10}{'GFLOP/s':>10}{'a CPU s':>10}")
    for name, found in document["device"].items():
        wall, cpu, *speeds = found.values()
        columns = "".join(f"{speed:>10.1f}" for speed in speeds)
        print(f"{name:<20}{wall:>14.1f}{cpu:>10.1f}{columns}")
    print(
        f"{document['levels_that_differ_from_pillow']} levels differ from Pillow's; "
        f"load average before: {document['load_average_before']}"
    )
    print(json.dumps({key: one for key, one in document.items() if not key.endswith("by_round")}))


if __name__ == "__main__":
    main()
