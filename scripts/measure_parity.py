"""Runs our towers at full depth beside the stored outputs of the references; writes the table.

    python scripts/measure_parity.py                 # every network, about an hour on 2 cores
    python scripts/measure_parity.py clip_b16 base   # these; the others keep their rows

Writes `data/parity.csv`, which `ilias-jax models` shows. The references' outputs come from the
scripts in `tests/reference/`; nothing of them runs here. Networks that fail are written too, so
that the table never says more than was measured.
"""

import argparse
import csv
import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import cnn_towers  # noqa: E402
import graph_towers  # noqa: E402
import parity_towers  # noqa: E402
from cnn_cases import CNNS, CnnCase  # noqa: E402
from graph_cases import GRAPHS, GraphCase, Pictures  # noqa: E402
from graph_towers import outputs  # noqa: E402
from parity_cases import CASES  # noqa: E402
from parity_summary import cosines, relative_errors  # noqa: E402
from parity_towers import values  # noqa: E402

from ilias_jax.metrics.published import Modality, Parity  # noqa: E402
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.models.registry.siglip import SIGLIP_ROWS

TABLE = pathlib.Path(__file__).parents[1] / "data" / "parity.csv"
SIGLIP = {
    "base": "vit_base_patch16_siglip_384.webli",
    "large": "vit_large_patch16_siglip_384.webli",
    "whole_so400m14": "vit_so400m_patch14_siglip_384.webli",
    "whole_so400m16": "vit_so400m_patch16_siglip_256.webli_i18n",
    "whole_giant": "vit_giantopt_patch16_siglip_384.v2_webli",
    "whole_b32": "vit_base_patch32_siglip_256.v2_webli",
    "whole_naflex_base": "naflexvit_base_patch16_siglip.v2_webli",
    "whole_naflex_so400m": "naflexvit_so400m_patch16_siglip.v2_webli",
}


def compared(ours: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """What the table says of two sets of outputs [N, D]."""
    return {
        "cosine": float(cosines(ours, reference).min()),
        "error": float(relative_errors(ours, reference).max()),
        "largest_difference": float(np.abs(ours - reference).max()),
    }


def of_graph(case: GraphCase) -> Iterator[Parity]:
    """The rows of one network of `graph_cases`."""
    activation = case.activations[0]
    reference = graph_towers.stored(case.name)[f"{case.modality}_{activation}"]
    found = compared(outputs(case, activation), reference)
    resolution = case.inputs.resolution if isinstance(case.inputs, Pictures) else 0
    for row in (case.row, *case.shared):
        yield Parity(row, case.modality, case.name, case.kind, len(reference), resolution, **found)


def of_cnn(case: CnnCase) -> Iterator[Parity]:
    """The rows of one network of `cnn_cases`."""
    reference = cnn_towers.stored(case.name)["outputs"]
    found = compared(cnn_towers.on_one_canvas(case.name), reference)
    for row in (case.row, *case.shared):
        resolution = case.pictures.resolution
        yield Parity(row, "image", case.name, case.kind, len(reference), resolution, **found)


def network(config: DualEncoderConfig, modality: str) -> object:
    """What a tower computes, without its sizes of the input and its activation."""
    tower = getattr(config, modality)
    block = dataclasses.replace(tower.block, activation="gelu_exact")
    if modality == "image":
        return dataclasses.replace(tower, block=block, native_grid=1)
    return dataclasses.replace(tower, block=block, vocab_size=1, length=1)


def of_siglip(name: str) -> Iterator[Parity]:
    """The rows of one network of `parity_cases`."""
    case, stored = CASES[name], values(name)
    activation, resolution = case.activations[0], max(case.resolutions)
    model = parity_towers.model(name, activation)
    runs: list[tuple[Modality, str, int]] = [
        ("image", f"image_{activation}_{resolution}", resolution)
    ]
    if case.open_clip_name:
        runs.append(("text", f"text_{activation}", 0))
    for modality, key, side in runs:
        reference = stored[key]
        if modality == "image":
            ours = parity_towers.image_embeddings(model, resolution)
        else:
            ours = parity_towers.text_embeddings(model)
        found = compared(ours, reference)
        own = network(VARIANTS[SIGLIP[name]].architecture, modality)
        code = "timm" if modality == "image" else "open_clip"
        graph = f"siglip_{name.removeprefix('whole_')}"
        for row, variant in SIGLIP_ROWS.items():
            if network(variant.architecture, modality) == own:
                yield Parity(row, modality, graph, code, len(reference), side, **found)


def measured(name: str) -> Iterator[Parity]:
    """The rows of one network."""
    if name in SIGLIP:
        return of_siglip(name)
    return of_cnn(CNNS[name]) if name in CNNS else of_graph(GRAPHS[name])


def main() -> None:
    """Measures what is asked for and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    every = [*SIGLIP]
    every += [case.name for case in (*GRAPHS.values(), *CNNS.values()) if not case.reduced]
    parser.add_argument("names", nargs="*", default=every, help=f"of {', '.join(every)}")
    rows = {}
    if TABLE.exists():
        with TABLE.open(newline="") as file:
            rows = {(row["model"], row["modality"]): row for row in csv.DictReader(file)}
    for name in parser.parse_args().names:
        if name not in SIGLIP and not {**GRAPHS, **CNNS}[name].path.exists():
            print(f"{name}: no expected values; scripts in tests/reference make them")
            continue
        for row in measured(name):
            print(f"{row.model}: {row}", flush=True)
            rows[row.model, row.modality] = {
                key: f"{value:.8g}" if isinstance(value, float) else str(value)
                for key, value in dataclasses.asdict(row).items()
            }
        write(rows)
        jax.clear_caches()
        graph_towers.parameters.cache_clear()
        parity_towers.parameters.cache_clear()
        cnn_towers.model.cache_clear()


def write(rows: dict[tuple[str, str], dict[str, str]]) -> None:
    """Writes the table in the order of the models."""
    names = [field.name for field in dataclasses.fields(Parity)]
    order = {name: i for i, name in enumerate(VARIANTS)}
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows, key=lambda k: (order[k[0]], k[1])))


if __name__ == "__main__":
    main()
