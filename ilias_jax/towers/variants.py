"""The table of named models. Names are those of the published table and of timm.

Adding a model that shares its architecture with others takes one row in its family's module.
"""

from ilias_jax.config import unknown_key
from ilias_jax.errors import UserError
from ilias_jax.towers.clip_rows import CLIP_ROWS
from ilias_jax.towers.siglip_rows import SIGLIP_ROWS
from ilias_jax.towers.variant import Variant
from ilias_jax.towers.vit_rows import VIT_ROWS

VARIANTS: dict[str, Variant] = {**SIGLIP_ROWS, **CLIP_ROWS, **VIT_ROWS}


def find_variant(name: str) -> Variant:
    """The table's row of a model.

    Raises:
        UserError: there is no such model.
    """
    if name not in VARIANTS:
        raise UserError(
            unknown_key(name or "''", list(VARIANTS)).replace(
                "is no key of the config", "is no model (model.name)"
            )
        )
    return VARIANTS[name]
