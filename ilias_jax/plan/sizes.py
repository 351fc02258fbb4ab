"""How large demo, mini-ILIAS and full ILIAS are."""

import dataclasses

from ilias_jax.config import WorldConfig
from ilias_jax.records import OFFICIAL_CORE, OFFICIAL_DISTRACTORS

# Published totals of the distractors: 6.3 TB of tars, 1,000 of them, for all 100 million images.
FULL_TAR_BYTES = 6.3e12
FULL_TARS = 1_000
MINI_TARS = 45  # of the Hugging Face copy, which has these 5 million images alone


@dataclasses.dataclass(frozen=True)
class Sizes:
    """One of the databases, with its queries.

    Attributes:
        name: "demo", "mini" or "full".
        num_image_queries: at least 1.
        num_text_queries: of all objects.
        num_positives: P.
        num_distractors: that are searched; all of them are fetched, too.
        num_tars: files that the distractors come in; each becomes one shard.
        image_bytes: mean bytes of an image in its tar, None for pictures that are generated.
    """

    name: str
    num_image_queries: int
    num_text_queries: int
    num_positives: int
    num_distractors: int
    num_tars: int
    image_bytes: float | None

    @property
    def num_rows(self) -> int:
        """N, rows of the database."""
        return self.num_positives + self.num_distractors

    @property
    def num_images(self) -> int:
        """Images that are embedded: queries and the database."""
        return self.num_image_queries + self.num_rows

    @property
    def num_queries(self) -> int:
        """Image queries and text queries."""
        return self.num_image_queries + self.num_text_queries

    @property
    def is_generated(self) -> bool:
        """Whether the pictures are drawn and not downloaded."""
        return self.image_bytes is None


def sizes_of(world: WorldConfig | None) -> tuple[Sizes, Sizes, Sizes]:
    """Demo, mini and full.

    Args:
        world: of the recipe; None for the demo's own, which is the default.
    """
    demo = world or WorldConfig()
    return (
        Sizes(
            "demo",
            demo.num_image_queries,
            demo.num_objects,
            demo.num_positives,
            demo.num_distractors,
            demo.num_tars,
            None,
        ),
        _official("mini", MINI_TARS),
        _official("full", FULL_TARS),
    )


def _official(name: str, num_tars: int) -> Sizes:
    return Sizes(
        name,
        OFFICIAL_CORE["image_query"],
        OFFICIAL_CORE["text_query"],
        OFFICIAL_CORE["positive"],
        OFFICIAL_DISTRACTORS[name],
        num_tars,
        FULL_TAR_BYTES / OFFICIAL_DISTRACTORS["full"],
    )
