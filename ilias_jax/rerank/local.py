"""What all re-rankers of local descriptors share: how they are created, stored and combined."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from ilias_jax.config import RerankConfig
from ilias_jax.errors import UserError
from ilias_jax.files import sha256
from ilias_jax.rerank.descriptors import Descriptors, LocalSettings
from ilias_jax.rerank.layers import Parameters
from ilias_jax.rerank.pairs import PairScorer
from ilias_jax.rerank.weights import read_weights


@dataclasses.dataclass(frozen=True)
class Combination:
    """lambda * similarity + (1 - lambda) * sigmoid(gamma * score), as AMES has it.

    Attributes:
        similarity_weight: lambda in [0, 1]; None for the re-ranker's score alone.
        temperature: gamma > 0; None for the score itself in place of the sigmoid.
    """

    similarity_weight: float | None = None
    temperature: float | None = None

    def configured(self, config: RerankConfig) -> "Combination":
        """The same with what the configuration says instead."""
        share, gamma = config.similarity_weight, config.temperature
        return Combination(
            self.similarity_weight if share < 0 else share,
            gamma or self.temperature,
        )

    def __call__(self, similarities: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The final scores [B, M] float32 of similarities and scores [B, M] float32."""
        if self.similarity_weight is None:
            return scores.astype(np.float32)
        own = scores.astype(np.float64)
        if self.temperature is not None:
            own = np.exp(-np.logaddexp(0, -self.temperature * own))
        share = self.similarity_weight
        return (share * similarities + (1 - share) * own).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class LocalMethod:
    """A re-ranker of local descriptors; see `reranker.LocalReranker`.

    Attributes:
        scorer: of pairs.
        storage: how projected database descriptors are kept.
        input_dim: channels of the descriptors that `project` takes; None for any.
        parameters: of `project`.
        combination: of its scores with the search's.
        origin: facts of its weights and settings, for the report.
    """

    inputs: ClassVar[Literal["vectors", "descriptors"]] = "descriptors"
    usual: ClassVar[LocalSettings]
    takes_detector_map: ClassVar[bool]
    projection: ClassVar[str]

    scorer: PairScorer
    storage: Literal["float16", "bits"]
    input_dim: int | None
    parameters: Parameters
    combination: Combination
    origin: Mapping[str, object]

    def project(self, parameters: Any, values: jax.Array) -> jax.Array:
        """What is kept of descriptors [..., D] float32; see `reranker.LocalReranker`."""
        raise NotImplementedError

    def score(
        self,
        queries: np.ndarray | Descriptors,
        images: np.ndarray | Descriptors,
        indices: np.ndarray,
        similarities: np.ndarray,
    ) -> np.ndarray:
        """Scores [B, M] float32 of the method alone; see `reranker.Reranker`."""
        assert isinstance(queries, Descriptors) and isinstance(images, Descriptors)
        return self.scorer.score(queries, images, indices)

    def combine(self, similarities: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The final scores [B, M] float32."""
        return self.combination(similarities, scores)

    def facts(self) -> dict[str, object]:
        """For the report."""
        binary = {"binary": self.storage == "bits"}
        return {**self.origin, **binary, **dataclasses.asdict(self.combination)}


def configured_weights(config: RerankConfig, example: str) -> dict[str, np.ndarray]:
    """All tensors of `rerank.weights`; raises UserError if it names no readable checkpoint."""
    if not config.weights:
        raise UserError(
            f"rerank.method={config.method!r} needs rerank.weights, the path of a checkpoint such "
            f"as {example}"
        )
    return read_weights(config.weights)


def origin_of(config: RerankConfig, dtype: str, revision: int) -> dict[str, object]:
    """What scores depend on beside descriptors."""
    weights = sha256(config.weights) if config.weights else None
    return {"weights_sha256": weights, "dtype": dtype, "revision": revision}
