"""What can be wrong with a data folder: problems by name, each with its count and examples."""

import dataclasses
from collections.abc import Sequence

NUM_EXAMPLES = 5

_CONVERT = "convert the core images again"
# name -> (what it says after its count, what to do)
_PROBLEMS = {
    **{
        f"{kind}_{what}": (text.format(what.replace("_", " ")), _CONVERT)
        for what in ("image_queries", "positives", "text_queries")
        for kind, text in (
            ("missing", "{} of image_ids/ are in no shard"),
            ("extra", "{} are not in image_ids/"),
            ("repeated", "{} come more than once"),
            ("misordered", "{} are in another order than in image_ids/"),
        )
    },
    "missing_distractors": (
        "listed distractors are in no shard",
        "convert the missing tars, or allow missing_distractors",
    ),
    "extra_distractors": (
        "distractors are not on the list",
        "remove their tars and convert again, or allow extra_distractors",
    ),
    "repeated_distractors": (
        "distractors come again",
        "a database row must be there once: convert each tar once",
    ),
    "unchecked_distractors": (
        "list of distractors is not there",
        "download it (23 bytes an id, packed), or allow unchecked_distractors",
    ),
    "missing_shards": ("shards of dataset_info.json are not there", "convert or copy them again"),
    "missing_inventories": (
        "shards have no inventory",
        "convert again, or check --deep, or allow missing_inventories",
    ),
    "damaged_inventories": ("inventories cannot be read", "convert their tars again"),
    "stale_inventories": (
        "inventories are of other shard files",
        "convert their tars again",
    ),
    "wrong_dataset_info": (
        "numbers of dataset_info.json are not the inventories'",
        "convert again; finished shards are kept",
    ),
    "unlisted_files": (
        "files are of no shard of dataset_info.json",
        "remove them if they are left over, or allow unlisted_files",
    ),
    "damaged_shards": ("shards cannot be read", "convert their tars again"),
    "other_records": ("records are not what the inventory says", "convert their tars again"),
    "no_jpeg": ("records hold no JPEG", "convert their tars again"),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One kind of problem.

    Attributes:
        name: by which it can be allowed, if it can.
        count: how often it is there.
        examples: the first few places.
    """

    name: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """One line: name, count, examples, and what to do."""
        what, advice = _PROBLEMS[self.name]
        more = ", ..." if self.count > len(self.examples) else ""
        shown = ", ".join(self.examples) + more if self.examples else ""
        return f"{self.name}: {self.count:,} {what}{': ' if shown else ''}{shown}; {advice}"


class Findings:
    """Collects problems while a dataset is looked through."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, name: str, examples: Sequence[str], count: int | None = None) -> None:
        """Notes `count` problems of a kind, by default one for every example; 0 is none."""
        if name not in _PROBLEMS:
            raise ValueError(f"{name} is no kind of problem")
        number = len(examples) if count is None else count
        if number:
            self._counts[name] = self._counts.get(name, 0) + number
            kept = self._examples.setdefault(name, [])
            kept += examples[: NUM_EXAMPLES - len(kept)]

    def problems(self) -> tuple[Problem, ...]:
        """All problems in the order in which they were found."""
        return tuple(
            Problem(name, count, tuple(self._examples[name]))
            for name, count in self._counts.items()
        )
