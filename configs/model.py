"""Any model of the table at its usual test size; `ilias-jax models` prints their names.

    python main.py --config configs/model.py:vit_so400m_patch16_siglip_512.v2_webli
    python main.py --config configs/model.py:NAME --config.dataset.subset=mini
    python main.py --config configs/model.py:NAME --config.model.weights=timm \
        --config.model.towers=image

The weights and the tokenizer are downloaded on first use; `--config.model.checkpoint=FILE` takes
others. A model without a text tower runs image queries alone, and so does the last command, from
timm's file of the image tower.

Cost: `ilias-jax plan --config configs/model.py:NAME` says it for this machine. Expected: where a
number is published for the same setting, the report shows it beside its own; else it says what
differs.
"""

import ml_collections

from ilias_jax.config import with_defaults
from ilias_jax.models.registry.registry import VARIANTS


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The recipe; `arg` is the name of a model."""
    row = VARIANTS.get(arg)  # an unknown name is refused with a suggestion when the recipe is read
    return with_defaults(
        {
            "dataset": {"name": "ILIAS", "data_dir": "datasets/ilias", "read_threads": 16},
            "model": {
                "name": arg,
                "towers": "both" if row is None else row.towers,
                "activation": "reference",
                "dtype": "auto",
            },
            "embed": {"batch_size_per_device": 64, "num_buckets": 8},
            "search": {"block_rows": 65536},
        }
    )
