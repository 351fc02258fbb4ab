"""Moved to ilias_jax.models.custom."""

from ilias_jax.config import BenchmarkConfig
from ilias_jax.model import Model
from ilias_jax.models.custom import find_factory, resolve_factory  # noqa: F401


def build_model(config: BenchmarkConfig) -> Model:
    """The model that `config.model.factory` returns."""
    return resolve_factory(config.model, config.views.max_scale, config.embed.num_buckets).load()
