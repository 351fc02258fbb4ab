"""Runs the code of the published rows on seeded weights and stores what it gives for the tests.

    pip install -e ".[parity]" einops scipy
    python tests/reference/make_graph_values.py --upstream FOLDER           # the first blocks of each
    python tests/reference/make_graph_values.py --upstream FOLDER --full    # all blocks of each
    python tests/reference/make_graph_values.py --upstream FOLDER clip_b16 clip_b16_reduced

Writes `tests/data/graphs/NAME.npz` for the cases of `tests/graph_cases.py`, on the CPU in float32.
FOLDER has the checkouts that `reference_graphs.py` lists.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from make_parity_values import require_distinct
from reference_graphs import Reference, build, final_norm, inputs

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
from graph_cases import FOLDER, GRAPHS, GraphCase  # noqa: E402
from graph_weights import draw_each, fingerprint  # noqa: E402
from parity_summary import summarise  # noqa: E402

Arrays = dict[str, np.ndarray]


class Trace:
    """Keeps the summary of what each layer gives for one input, in the order of the calls."""

    def __init__(self, reference: Reference, modality: str) -> None:
        self.names: list[str] = []
        self.summaries: list[np.ndarray] = []
        self._after(
            reference.embedding, "token embedding" if modality == "text" else "patch embedding"
        )
        blocks = getattr(reference.parent, reference.blocks)
        blocks[0].register_forward_pre_hook(lambda _, given: self.add("position", given))
        for i, block in enumerate(blocks):
            self._after(block, f"block {i}")
        norm = final_norm(reference.body)
        if norm is not None:
            self._after(norm, "final norm")

    def _after(self, module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda _, __, output: self.add(name, output))

    def add(self, name: str, value: Any) -> None:
        """Tokens [1, T, D] or [1, rows, columns, D]; of some, the first of several values."""
        while not isinstance(value, torch.Tensor):
            value = value[0]
        self.names.append(name)
        self.summaries.append(summarise(value.numpy().reshape(-1, value.shape[-1])))

    def take(self) -> tuple[list[str], np.ndarray]:
        """Names and [layers, 8] summaries of the input since the last time."""
        taken = self.names, np.stack(self.summaries)
        self.names, self.summaries = [], []
        return taken


def load(module: torch.nn.Module) -> Arrays:
    """Writes drawn weights over every tensor of a state dictionary, and says which and how."""
    state = module.state_dict()
    layout = {name: tuple(tensor.shape) for name, tensor in state.items()}
    prints = []
    for name, array in draw_each(layout):
        state[name].copy_(torch.from_numpy(array))
        prints.append(fingerprint(array))
    return {"layout": packed(layout), "weights": np.stack(prints)}


def packed(mapping: Mapping[str, Any]) -> np.ndarray:
    """The bytes of a JSON object."""
    return np.frombuffer(json.dumps(mapping, separators=(",", ":")).encode(), np.uint8)


def epsilons(module: torch.nn.Module) -> np.ndarray:
    """What the norms add to a variance, by their names, as it hardly shows in any output."""
    return packed({name: part.eps for name, part in module.named_modules() if hasattr(part, "eps")})


@torch.inference_mode()
def run(
    reference: Reference, case: GraphCase, given: list[torch.Tensor]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Outputs [N, D], summaries [N, layers, 8] and the names of the layers."""
    trace, outputs, summaries = Trace(reference, case.modality), [], []
    names: list[str] = []
    for one in given:
        output = reference.call(one)
        trace.add("output", output)
        names, summary = trace.take()
        outputs.append(output.numpy()[0])
        summaries.append(summary)
    return np.stack(outputs), np.stack(summaries), names


def values(case: GraphCase, upstream: pathlib.Path) -> Arrays:
    """What the file of a case holds."""
    stored: Arrays = {}
    given = inputs(case, upstream)
    for activation in case.activations:
        reference = build(case, activation, upstream)
        loaded = load(reference.module)
        outputs, summaries, names = run(reference, case, given)
        require_distinct(f"{case.name} {activation}", outputs)
        stored[f"{case.modality}_{activation}"] = outputs
        stored[f"{case.modality}_trace_{activation}"] = summaries
        stored[f"{case.modality}_weights"] = loaded["weights"]
        stored["layout"], stored["epsilons"] = loaded["layout"], epsilons(reference.module)
        stored["layers"] = np.asarray(names)
        del reference  # the next one needs its room
    versions = [f"{module.__name__} {module.__version__}" for module in (torch, timm, open_clip)]
    return stored | {"versions": np.asarray(versions)}


def main() -> None:
    """Writes the files of the chosen cases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", help="names; all of one form if there is none")
    parser.add_argument("--upstream", required=True, type=pathlib.Path, help="folder of checkouts")
    parser.add_argument("--full", action="store_true", help="all blocks, if no name is given")
    arguments = parser.parse_args()
    os.environ["XFORMERS_DISABLED"] = "1"
    form = [name for name, case in GRAPHS.items() if case.reduced != arguments.full]
    FOLDER.mkdir(exist_ok=True)
    for name in arguments.cases or form:
        stored = values(GRAPHS[name], arguments.upstream)
        np.savez_compressed(GRAPHS[name].path, **stored)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
