"""Writes tests/data/siglip_layouts.json: the layouts of timm's and open_clip's own SigLIP models.

    python tests/reference/make_layout_values.py

Needs torch, timm and open_clip_torch beside the project (the file was made with timm 1.0.31 and
open_clip 3.3.0); the tests need none of them. No weights are read or drawn: the models are built
without memory. For each model of the table, as far as the libraries have it, the file holds what
identifies its state dictionary (number of tensors and the sha256 of their sorted names and shapes),
its number of parameters, its activation, and what its configuration says of texts.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping

import open_clip
import timm
import torch
from open_clip.model import CustomTextCLIP

from ilias_jax.models.registry.registry import VARIANTS

OUTPUT = pathlib.Path(__file__).parents[2] / "tests" / "data" / "siglip_layouts.json"


def layout(module: torch.nn.Module) -> dict[str, object]:
    """Identifies the names and shapes of a state dictionary."""
    state = module.state_dict()
    lines = "".join(f"{key} {list(state[key].shape)}\n" for key in sorted(state))
    return {
        "tensors": len(state),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }


def activation(module: torch.nn.Module) -> str:
    """The one activation that all MLPs of a tower have."""
    text = re.findall(r"GELUTanh|GELU\(approximate='\w+'\)", str(module))
    names = {"gelu_exact" if "none" in name else "gelu_tanh" for name in text}
    (name,) = names
    return name


def image_tower(name: str) -> dict[str, object]:
    """timm's model of this name."""
    model = timm.create_model(name, num_classes=0)
    configuration = timm.get_pretrained_cfg(name)
    hub = configuration.hf_hub_id + ("" if not configuration.hf_hub_id.endswith("/") else name)
    return {
        **layout(model),
        "activation": activation(model),
        "input_size": configuration.input_size[1],
        "licence": configuration.license,
        "hub": hub,
    }


def both_towers(name: str) -> dict[str, object]:
    """open_clip's model of this name."""
    configuration = open_clip.get_model_config(name)
    model = CustomTextCLIP(
        **{key: value for key, value in configuration.items() if key != "custom_text"}
    )
    text = configuration["text_cfg"]
    return {
        **layout(model),
        "text_parameters": sum(parameter.numel() for parameter in model.text.parameters()),
        "activation": activation(model.text),
        "context_length": text["context_length"],
        "vocab_size": text["vocab_size"],
        "clean": text["tokenizer_kwargs"]["clean"],
        "trunk": configuration["vision_cfg"]["timm_model_name"],
    }


def main() -> None:
    """Writes the file."""
    layouts: dict[str, Mapping[str, object]] = {}
    with torch.device("meta"):
        for name, row in VARIANTS.items():
            if row.bundled:
                continue
            both = row.files.get("open_clip")
            layouts[name] = {
                "timm": image_tower(name),
                "open_clip": both and both_towers(both.url.split("/")[-4]),
            }
            print(name, flush=True)
    OUTPUT.write_text(json.dumps(layouts, indent=1) + "\n")


if __name__ == "__main__":
    main()
