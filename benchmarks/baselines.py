"""Prints the demo's scores beside three baselines: thumbnails, the untrained tower, chance.

    python benchmarks/baselines.py --workdir runs/baselines

All four go through the whole pipeline on the same miniature world. A table goes to the screen and a
JSON line after it.
"""

import argparse
import dataclasses
import json
import pathlib
import runpy
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from flax import nnx

from ilias_jax import benchmark, cli
from ilias_jax.config import BenchmarkConfig, parse
from ilias_jax.dataset.ground_truth import read_ground_truth
from ilias_jax.metrics import evaluate
from ilias_jax.model import Model, Preprocessing
from ilias_jax.models.dual_encoder import DualEncoder
from ilias_jax.models.load import tower_model
from ilias_jax.models.parameters import parameters_of
from ilias_jax.models.registry.registry import resolve_row
from ilias_jax.models.registry.siglip import TINY, TINY_LENGTH, TINY_RESOLUTION
from ilias_jax.models.tokenizers import Tokenizer
from ilias_jax.search.ranking import Ranking

_SECTIONS = ("image_to_image", "text_to_image")


def thumbnails() -> Model:
    """The 16 x 16 picture itself, its mean colour taken off: the classic baseline of pixels."""

    def embed(parameters: object, pixels: jax.Array, grid: jax.Array) -> jax.Array:
        del parameters, grid
        colors = pixels.reshape(len(pixels), 16 * 16, 3)
        return (colors - colors.mean(axis=1, keepdims=True)).reshape(len(pixels), -1)

    return Model("thumbnails 16x16", {}, Preprocessing(16, 16), embed, None, None, {"name": "t16"})


def untrained(seed: int) -> Model:
    """The tiny model with the parameters it starts training from."""
    parameters = parameters_of(DualEncoder(TINY, nnx.Rngs(seed)))
    files = resolve_row(demo().model)
    tokenizer = Tokenizer.from_file(files.tokenizer, TINY_LENGTH)
    fingerprint = {"name": "untrained", "seed": seed}
    return tower_model(
        "untrained", TINY, parameters, tokenizer, TINY_RESOLUTION, "float32", fingerprint
    )


def demo() -> BenchmarkConfig:
    """The demo's configuration without the comparison of search backends."""
    recipe = pathlib.Path(__file__).parents[1] / "configs" / "demo.py"
    config = parse(runpy.run_path(str(recipe))["get_config"]().to_dict())
    search = dataclasses.replace(config.search, measure_ann_recall=False)
    return dataclasses.replace(config, search=search)


def chance(config: BenchmarkConfig, seed: int) -> dict[str, float]:
    """mAP of rankings in random order, by section."""
    truth = read_ground_truth(config.dataset.data_dir)
    assert config.dataset.world is not None
    num_database = len(truth.positive_ids) + config.dataset.world.num_distractors
    rng = np.random.default_rng(seed)
    scores = {}
    for section, ids in zip(_SECTIONS, (truth.image_query_ids, truth.text_query_ids), strict=True):
        order = np.stack([rng.permutation(num_database)[: config.search.k] for _ in ids])
        values = np.tile(np.linspace(1, 0, config.search.k, dtype=np.float32), (len(ids), 1))
        ranking = Ranking(ids, order.astype(np.int32), values)
        scores[section] = evaluate(ranking, truth, config.search.k, num_database).map
    return scores


def main(argv: Sequence[str] | None) -> None:
    """Runs the demo and the baselines, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=epath.Path, default="runs/baselines")
    parser.add_argument("--seed", type=int, default=0, help="of untrained parameters and chance")
    arguments = parser.parse_args(argv)
    config, workdir = demo(), epath.Path(arguments.workdir)
    rows: dict[str, dict[str, float]] = {}
    models = (("bundled model", None), ("thumbnails", thumbnails()), ("untrained", None))
    for name, model in models:
        chosen = untrained(arguments.seed) if name == "untrained" else model
        benchmark.run(config, workdir / name.replace(" ", "_"), chosen)
        report = workdir / name.replace(" ", "_") / "report" / "report.json"
        results = json.loads(report.read_text())["results"]
        rows[name] = {s: results[s][f"map@{config.search.k}"] for s in results}
    rows["random ranking"] = chance(config, arguments.seed)
    title = f"mAP@{config.search.k}, %"
    print(f"\n{title:<18}{'image-to-image':>16}{'text-to-image':>16}")
    for name, row in rows.items():
        cells = (f"{row[s]:.2f}" if s in row else "-" for s in _SECTIONS)
        print(f"{name:<18}" + "".join(f"{cell:>16}" for cell in cells))
    print(json.dumps({"benchmark": "baselines", "world": config.dataset.name, "map": rows}))


if __name__ == "__main__":
    cli.run(main)
