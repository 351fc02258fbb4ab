"""A made-up run for the report's tests: a document with known numbers, and drawn pictures."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ilias_jax.report.gallery import GalleryEntry, GalleryResult, Picture

SCALE_KEYS = (
    "0-0.06880213760855043",
    "0.06880213760855043-0.13526567164179104",
    "0.13526567164179104-0.2729876723163842",
    "0.2729876723163842-inf",
)
CLUTTER_KEYS = ("0-18", "18-33", "33-53", "53-inf")
CATEGORIES = ("art", "clothing", "household", "landmark", "media", "product", "souvenir", "toy")
HOSTILE = "<script>alert('caption')</script> & \"quotes\" | pipe `tick`"
HOSTILE_ID = "obj_<img src=x onerror=alert(1)>_000/pos/P000_01.jpg"


def picture(seed: int, size: tuple[int, int] = (320, 240), **kwargs: Any) -> Picture:
    """Returns a picture of one object, a coloured ellipse in the box, before some clutter."""
    rng = np.random.default_rng(seed)
    shades = rng.integers(60, 200, (6, 8, 3)).astype(np.uint8)
    image = Image.fromarray(shades).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = (int(rng.integers(0, side)) for side in size)
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        draw.rectangle((x, y, x + 25, y + 18), fill=colour)
    width, height = size[0] // 3, size[1] // 2
    left, top = (int(rng.integers(5, n // 2)) for n in size)
    draw.ellipse((left, top, left + width, top + height), fill=(220, 40, 40), outline=(0, 0, 0))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=90)
    return Picture(encoded.getvalue(), ((left, top, width, height),), **kwargs)


def metrics(seed: int, num_queries: int, num_subcategories: int = 48) -> dict[str, Any]:
    """Returns the metrics of one section, of the shape that the metrics stage gives."""
    rng = np.random.default_rng(seed)
    aps = np.clip(rng.beta(0.35, 0.8, num_queries) * 110 - 8, 0, 100)
    kinds = ("musical instrument", "packaged_goods", "decor", "statue")
    subcategories = [f"{CATEGORIES[i % 8]}-{kinds[i % 4]} {i}" for i in range(num_subcategories)]
    keys = {
        "scale": SCALE_KEYS,
        "clutter": CLUTTER_KEYS,
        "categories": CATEGORIES,
        "subcategories": subcategories,
    }
    values: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    counts: dict[str, dict[str, int]] = {}
    for group, names in keys.items():
        values[group] = {name: float(rng.uniform(8, 60)) for name in names}
        intervals[group] = {
            name: (value - 3.21, value + 4.32) for name, value in values[group].items()
        }
        counts[group] = {name: int(rng.integers(3, 700)) for name in names}
    mean = float(aps.mean())
    return {
        "map@1000": mean,
        "ci95": (mean - 2.13, mean + 2.24),
        "oracle": mean + 31.5,
        **values,
        "num_queries": num_queries,
        "intervals": {**intervals, "oracle": {"oracle": (mean + 29.4, mean + 33.3)}},
        "counts": counts,
        "aps": {f"object_{i:03d}/query/Q{i:03d}_00.jpg": float(ap) for i, ap in enumerate(aps)},
    }


def published() -> dict[str, Any]:
    """Returns a published number that is not sure, beside ours."""
    return {
        "comparable": True,
        "published": 24.2,
        "status": "secondary",
        "caveat": "quoted elsewhere",
        "databases": ["mini-ILIAS"],
        "adapted": False,
        "ours": 23.456,
        "difference": -0.744,
        "difference_ci95": [-2.874, 1.496],
        "inside_ci95": True,
    }


def not_comparable(*reasons: str) -> dict[str, Any]:
    """Returns what stands where no published number may."""
    return {"comparable": False, "reasons": list(reasons) or [HOSTILE, "search.k=100"]}


def document() -> dict[str, Any]:
    """Returns a whole document, as the benchmark makes it."""
    stages = {
        "embed_images": (0.0, 1.0, 0),  # see below
        "embed_text_query": (9.8, 1.1, 1000),
        "search": (2.6, 213.5, 2232),
        "metrics": (0.9, 0.42, 2232),
    }
    embedding = {
        "compile_s": 25.1,
        "steady_s": 8155.5,
        "items": 5_005_947,
        "items_per_s": 613.8,
        "fill_rate": 0.931,
        "device_idle_share": 0.042,
    }
    return {
        "schema": 1,
        "dataset": {
            "name": "mini-ilias",
            "num_image_queries": 1232,
            "num_text_queries": 1000,
            "num_positives": 4715,
            "num_distractors": 1_250_000,
        },
        "model": {
            "name": "siglip-large-patch16-384",
            "checkpoint": "gs://some-bucket/a/long/path/to/checkpoints/siglip_l16_384_webli.npz",
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "resolution": 512,
            "activation": "gelu_tanh",
            "embedding_dim": 1024,
            "num_parameters": 652_150_000,
        },
        "results": {"image_to_image": metrics(1, 1232), "text_to_image": metrics(2, 1000)},
        "published": {"image_to_image": published(), "text_to_image": not_comparable()},
        "search": {
            "backend": "scann",
            "k": 1000,
            "num_leaves": 2000,
            "ann_recall": {"image_to_image": 0.9812, "text_to_image": 0.9704},
        },
        "timings": {
            "stages": {
                name: {"compile_s": c, "steady_s": s, "items": n, "items_per_s": n / s}
                for name, (c, s, n) in stages.items()
            }
            | {"embed_images": embedding},
            "total_s": 8463.2,
        },
        "manifest": {
            "config": {"model": {"variant": "so400m", "dtype": "bfloat16"}, "batch": {"size": 256}},
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "versions": {"jax": "0.10.2", "numpy": "2.3.1", "python": "3.11.9"},
            "dataset_counts": {"distractors": 1_250_000},
            "machine": {"platform": "tpu", "num_devices": 8, "devices": ["TPU v4"] * 2},
            "date": "2025-01-31T12:00:00+00:00",
            "argv": ["main.py", "--config=configs/siglip.py", "--workdir=gs://bucket/run-1"],
        },
    }


def gallery(entries: int = 4, results: int = 8) -> list[GalleryEntry]:
    """Returns best and worst queries of both sections; some captions, an id and a JPEG are bad."""
    made = []
    for s, section in enumerate(("image_to_image", "text_to_image")):
        for g, group in enumerate(("best", "worst")):
            for e in range(entries):
                made.append(_entry(section, group, 1000 * s + 100 * g + 10 * e, results))
    return made


def _entry(section: str, group: str, seed: int, results: int) -> GalleryEntry:
    rng = np.random.default_rng(seed)
    is_image = section == "image_to_image"
    captions = (
        HOSTILE,
        "A small hand-painted ceramic rooster with a red comb, black dotted wings and a chipped "
        "green base, standing about ten centimetres tall.",
    )
    shown = []
    for i in range(results):
        positive = bool(rng.random() < (0.7 if group == "best" else 0.15))
        size = ((320, 240), (200, 320), (300, 300), (480, 160))[int(rng.integers(4))]
        image = picture(seed + i, size)
        if not positive:
            image = Picture(image.jpeg)
        if (seed, i) == (0, 3):
            image = Picture(image.jpeg[:900])
        image_id = f"rooster_figure_{seed:03d}/pos/P{seed:03d}_{i:02d}.jpg"
        if not positive:
            image_id = f"yfcc100m_{seed:05d}/00000000{i}_1234567890abcdef"
        if (seed, i) == (0, 1):
            image_id = HOSTILE_ID
        shown.append(GalleryResult(image_id, i + 1, 0.91 - 0.037 * i, positive, image))
    return GalleryEntry(
        section=section,
        group=group,
        query_id=f"rooster_figure_{seed:03d}/query/{'Q' if is_image else 'T'}{seed:03d}"
        + ("_00.jpg" if is_image else ".txt"),
        text=None if is_image else captions[seed % 100 != 0],
        picture=picture(seed + 7, (240, 320) if seed % 20 else (320, 240)) if is_image else None,
        ap=float(rng.uniform(80, 100) if group == "best" else rng.uniform(0, 5)),
        num_positives=int(rng.integers(0, 4)) + max(1, sum(r.is_positive for r in shown)),
        results=tuple(shown),
    )
