"""Things: what a particular object of the miniature world is, and how it is described in words.

A `Thing` is one particular object: a kind (its silhouette) with colours, a texture and a printed
mark. Everything that makes it this thing and no other is in the dataclass, so two things are the
same exactly when they are equal. Pose, size and light belong to a picture, not to a thing.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

Pool = Literal["benchmark", "training"]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (208, 32, 38), "orange": (240, 130, 24), "yellow": (244, 212, 48),
    "green": (44, 150, 60), "teal": (24, 158, 158), "blue": (36, 74, 198),
    "purple": (122, 52, 168), "pink": (242, 130, 178), "brown": (116, 72, 40),
    "black": (28, 28, 30), "white": (244, 244, 240), "grey": (136, 138, 142),
}  # fmt: skip
PATTERNS = (
    "horizontal stripes", "vertical stripes", "diagonal stripes", "dots", "checks", "rings",
    "zigzags", "a broad cross",
)  # fmt: skip
LETTERS = "ABCDEFHJKLMNPRSTUXYZ"
DIGITS = "123456789"

# coarse -> mid -> fine: the three levels of the official taxonomy. A fine class is a silhouette.
TAXONOMY: dict[str, dict[str, tuple[str, ...]]] = {
    "kitchen": {"cups": ("mug", "goblet"), "bottles": ("bottle", "flask")},
    "signs": {"road_signs": ("stop sign", "warning sign"), "shop_signs": ("shield", "arrow sign")},
    "toys": {"vehicles": ("toy car", "toy boat"), "animals": ("toy fish", "toy bird")},
    "clothing": {"tops": ("t-shirt", "waistcoat"), "headwear": ("cap", "crown")},
    "decorations": {"celestial": ("star", "moon"), "natural": ("heart", "flower")},
    "print": {"labels": ("tag", "ticket"), "stationery": ("book", "envelope")},
}
_TAXONOMY_OF = {
    fine: (coarse, mid, fine)
    for coarse, mids in TAXONOMY.items()
    for mid, fines in mids.items()
    for fine in fines
}
KINDS = tuple(_TAXONOMY_OF)


@dataclasses.dataclass(frozen=True)
class Thing:
    """One particular object."""

    kind: str  # fine class, one of `KINDS`; it decides the silhouette
    color: str  # name of the body's colour, a key of `COLORS`
    accent: str  # name of the pattern's colour, another key of `COLORS`
    pattern: str  # texture of the body, one of `PATTERNS`
    mark: str  # printed mark, one letter and one digit, such as "K7"
    label: str  # name of the colour of the label that carries the mark

    @property
    def taxonomy(self) -> tuple[str, str, str]:
        """The (coarse, mid, fine) classes; spaces are written as underscores."""
        coarse, mid, fine = _TAXONOMY_OF[self.kind]
        return coarse, mid, fine.replace(" ", "_").replace("-", "_")

    @property
    def pool(self) -> Pool:
        """Whether this thing may appear in a benchmark or in training data, never in both.

        A hash of all attributes decides, so that the two pools are disjoint for every pair of seeds
        and yet alike in every attribute.
        """
        digest = hashlib.sha256(repr(dataclasses.astuple(self)).encode()).digest()
        return "benchmark" if digest[0] < 64 else "training"

    def describe(self, template: int = 0) -> str:
        """One sentence that names every attribute, in one of `NUM_TEMPLATES` wordings."""
        return _TEMPLATES[template % NUM_TEMPLATES].format(
            **dataclasses.asdict(self), article="an" if self.color[0] in "aeiou" else "a"
        )


_TEMPLATES = (
    "{article} {color} {kind} with {accent} {pattern} and the mark {mark} on a {label} label",
    "{color} {kind}, {accent} {pattern}, {label} label that reads {mark}",
    "the {kind} is {color} with {pattern} in {accent}; its {label} label says {mark}",
    "{kind} marked {mark} on a {label} label, {color} body with {accent} {pattern}",
)
NUM_TEMPLATES = len(_TEMPLATES)


def _pick(rng: np.random.Generator, values: Sequence[str], but: Sequence[str] = ()) -> str:
    choices = [value for value in values if value not in but]
    return choices[int(rng.integers(len(choices)))]


def _random_mark(rng: np.random.Generator) -> str:
    return _pick(rng, LETTERS) + _pick(rng, DIGITS)


def sample_thing(rng: np.random.Generator, pool: Pool, kind: str | None = None) -> Thing:
    """Draws a thing of the pool, of a fine class `kind` or of any."""
    while True:
        color = _pick(rng, tuple(COLORS))
        accent = _pick(rng, tuple(COLORS), but=(color,))
        thing = Thing(
            kind=kind or _pick(rng, KINDS),
            color=color,
            accent=accent,
            pattern=_pick(rng, PATTERNS),
            mark=_random_mark(rng),
            label=_pick(rng, ("white", "black", "yellow"), but=(color,)),
        )
        if thing.pool == pool:
            return thing


def sample_sibling(rng: np.random.Generator, thing: Thing, num_changes: int) -> Thing:
    """Draws another thing of the kind; it differs in the mark and `num_changes` more attributes.

    Siblings make the benchmark one of instances: whoever knows the category, or most of the
    attributes, still has the wrong object.
    """
    while True:
        changed = {"mark": _random_mark(rng)}
        for field in rng.permutation(["color", "accent", "pattern"])[:num_changes]:
            if field == "pattern":
                changed["pattern"] = _pick(rng, PATTERNS, but=(thing.pattern,))
            else:
                changed[str(field)] = _pick(rng, tuple(COLORS), but=(thing.color, thing.accent))
        sibling = dataclasses.replace(thing, **changed)
        is_other = sibling.mark != thing.mark
        is_legible = sibling.color not in (sibling.accent, sibling.label)
        if is_other and is_legible and sibling.pool == thing.pool:
            return sibling
