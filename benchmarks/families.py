"""Prints images per second of one model of each family, beside timm's model of the same network.

    pip install torch timm
    python benchmarks/families.py [--images 8] [--rounds 3] [NAMES]

Each pair of ways runs as in `benchmarks/extraction.py`, in turns and from JPEG bytes to vectors, at
the model's test size; a table says the ratio of medians. UNICOM has no model in timm: it is timed
alone, beside the bare product of its own run. Weights are random.
"""

import argparse
import json
import os
import pathlib
import platform
from typing import Any

from extraction import draw_aspects, measure, summary

from ilias_jax.config import EmbedConfig
from ilias_jax.models.registry.registry import VARIANTS

_RESULTS = pathlib.Path(__file__).parent / "results" / "families.json"
_WITHOUT_PEER = ("unicom_vit_base_patch16_224",)
FAMILIES = (
    "vit_base_patch16_224.augreg_in21k",
    "deit3_base_patch16_224.fb_in1k",
    "vit_base_patch16_clip_224.openai",
    "dino_vitb16",
    "dinov2_vitb14",
    "dinov2_vitb14_reg",
    "eva02_base_patch14_224.mim_in22k",
    "eva02_base_patch16_clip_224.merged2b",
    "vit_pe_core_base_patch16_224.fb",
    "dinov3_vitb16",
    "vit_base_patch16_siglip_256.webli",
    "resnet50.tv_in1k",
    "convnext_base.fb_in1k",
    "tf_efficientnet_b4.ns_jft_in1k",
    "densenet169.tv_in1k",
    *_WITHOUT_PEER,
)


def run(model: str, images: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """The numbers of one model."""
    arguments = argparse.Namespace(
        model=model,
        resolution=VARIANTS[model].test_resolution,
        dtype="float32",
        batch_size=batch_size,
        buckets=EmbedConfig().num_buckets,
        canvas=EmbedConfig().canvas,
        threads=os.cpu_count(),
        rounds=rounds,
        no_peer=model in _WITHOUT_PEER,
    )
    aspects = draw_aspects("photos", images)
    found = measure(arguments, aspects)
    return {"resolution": arguments.resolution, **summary(arguments, aspects, found)}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=FAMILIES)
    parser.add_argument("--images", type=int, default=8)
    # With so few images the last batches of all lengths, which are not full, would count too much.
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    document: dict[str, Any] = {
        "benchmark": "families",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{name: getattr(arguments, name) for name in ("images", "batch_size", "rounds")},
        "models": {},
    }
    print(f"{'':<44}{'at':>5}{'ours, images/s':>16}{'timm':>8}{'ratio':>8}{'MFU':>7}")
    for name in arguments.names:
        found = run(name, arguments.images, arguments.batch_size, arguments.rounds)
        document["models"][name] = found
        ours, peer = found["ways"]["ours"], found["ways"].get("timm")
        beside = "       -       -"
        if peer is not None:
            ratio = found["ratio_to_timm"]["images_per_second"]
            beside = f"{peer['images_per_second']:>8.3f}{ratio:>8.3f}"
        print(
            f"{name:<44}{found['resolution']:>5}{ours['images_per_second']:>16.3f}{beside}"
            f"{ours['mfu']:>7.2f}",
            flush=True,
        )
        _RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
