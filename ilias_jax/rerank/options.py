"""Options of the configuration that a method has no use for."""

from collections.abc import Iterable

from ilias_jax.config import RerankConfig
from ilias_jax.errors import UserError


def refuse_unused(config: RerankConfig, names: Iterable[str], reason: str) -> None:
    """Raises UserError if one of these options is set; the reason says what the method does."""
    for name in names:
        value, usual = getattr(config, name), getattr(RerankConfig(), name)
        if value != usual:
            raise UserError(
                f"rerank.{name}={value!r} does nothing for rerank.method={config.method!r}, "
                f"which {reason}; leave it at {usual!r}"
            )
