"""What can be wrong with a data folder: problems by name, each with its count and examples."""

import dataclasses
from collections.abc import Sequence

NUM_EXAMPLES = 5
_CORE = "convert the core images again"
_TARS = "convert their tars again"
# name -> what is said around the examples, which take the place of {}, and what to do
_PROBLEMS = {
    **{
        f"{kind}_{what}": f"{text}{{}}; {_CORE}"
        for what in ("image_queries", "positives", "text_queries")
        for kind, text in (
            ("missing", "in image_ids/ but in no shard"),
            ("extra", "in a shard but not in image_ids/"),
            ("repeated", "in the shards more than once"),
            ("misordered", "in another order than in image_ids/"),
        )
    },
    "missing_distractors": "on the list but in no shard{}; convert the missing tars, or allow "
    "missing_distractors",
    "extra_distractors": "in a shard but not on the list{}; remove their tars and convert again, "
    "or allow extra_distractors",
    "repeated_distractors": "in the shards more than once{}; a database row must be there once: "
    "convert each tar once",
    "unchecked_distractors": "no list of distractors{}; download it, or allow "
    "unchecked_distractors",
    "no_text_queries": "not there{}; convert ilias_core.tar, which has the texts, or allow "
    "no_text_queries",
    "missing_shards": "in dataset_info.json but not there{}; convert or copy them again",
    "missing_inventories": "shards without inventory{}; convert again, or allow "
    "missing_inventories; `ilias-jax check --deep` reads the records",
    "damaged_inventories": f"inventories that cannot be read{{}}; {_TARS}",
    "stale_inventories": f"inventories of other shard files{{}}; {_TARS}",
    "wrong_dataset_info": "numbers in dataset_info.json that are not the inventories'{}; convert "
    "again; finished shards are kept",
    "unlisted_files": "files that belong to no shard of dataset_info.json{}; remove them if they "
    "are left over, or allow unlisted_files",
    "damaged_shards": f"shards that cannot be read{{}}; {_TARS}",
    "other_records": f"records that are not what the inventory says{{}}; {_TARS}",
    "no_jpeg": f"records without a JPEG{{}}; {_TARS}",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One kind of problem.

    Attributes:
        name: by which it can be ignored, if it can.
        count: how often it is there.
        examples: the first few.
    """

    name: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """One line: name, count, examples, and what to do."""
        more = ", ..." if self.count > len(self.examples) else ""
        shown = f": {', '.join(self.examples)}{more}" if self.examples else ""
        return f"{self.name} ({self.count:,}): " + _PROBLEMS[self.name].format(shown)


class ValidationReport:
    """Collects problems while a dataset is looked through."""

    def __init__(self) -> None:
        self._problems: dict[str, Problem] = {}

    def add(self, name: str, examples: Sequence[str], count: int | None = None) -> None:
        """Notes `count` problems of a kind, by default one for every example; 0 is none."""
        if name not in _PROBLEMS:
            raise ValueError(f"{name} is no kind of problem")
        number = len(examples) if count is None else count
        if number:
            known = self._problems.get(name, Problem(name, 0, ()))
            shown = (*known.examples, *examples)[:NUM_EXAMPLES]
            self._problems[name] = Problem(name, known.count + number, shown)

    def problems(self) -> tuple[Problem, ...]:
        """All problems in the order in which they were found."""
        return tuple(self._problems.values())
