"""Which number each tar's shard has, which shards are done, and which must be renamed.

Shards are numbered by the names of their tars. If tars were added since, the finished shards get
their new numbers by renaming. A shard whose tar is gone stays part of the dataset, so that tars
can be converted and removed a few at a time.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

from ilias_jax.dataset import finished, shards
from ilias_jax.dataset.distractors import Job, source_of
from ilias_jax.dataset.finished import Place
from ilias_jax.dataset.inputs import MINI_PREFIX
from ilias_jax.errors import UserError
from ilias_jax.records import Split

_SPLIT: Split = "distractor"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do with the distractors.

    Attributes:
        jobs: a job for every tar that is there and not done.
        moves: (place now, place to be) of finished shards with another number, in an order in
            which no move meets a file that is to be moved.
        places: where all shards will be, in order.
        num_absent: finished shards whose tars are not there any more.
    """

    jobs: tuple[Job, ...]
    moves: tuple[tuple[Place, Place], ...]
    places: tuple[Place, ...]
    num_absent: int


def make_plan(data_dir: pathlib.Path, tars: Sequence[pathlib.Path]) -> Plan:
    """Compares the tars with the shards of a data folder; changes nothing.

    Raises:
        UserError: the folder holds shards of the other published form of the distractors.
    """
    present = {tar.name: tar for tar in tars}
    done: dict[str, Place] = {}
    for place, summary in finished.find_all(data_dir, _SPLIT).items():
        name = summary.source.file
        if name not in present or summary.source == source_of(present[name]):
            done[name] = place
    _check_one_form(data_dir, present.keys() | done.keys())
    names = sorted(present.keys() | done.keys())
    places = {n: Place(data_dir, _SPLIT, i, len(names)) for i, n in enumerate(names)}
    moves = [(now, places[n]) for n, now in done.items() if now != places[n]]
    return Plan(
        jobs=tuple(Job(present[n], places[n]) for n in names if n not in done),
        moves=tuple(_in_safe_order(moves)),
        places=tuple(places.values()),
        num_absent=len(done.keys() - present.keys()),
    )


def _check_one_form(data_dir: pathlib.Path, names: Iterable[str]) -> None:
    """The Hugging Face tars hold images of the YFCC tars again, under other ids."""
    mini = {name for name in names if name.startswith(MINI_PREFIX)}
    if mini and (others := set(names) - mini):
        raise UserError(
            f"{min(mini)} (Hugging Face, mini) and {min(others)} (YFCC) hold the same images under "
            f"different ids and cannot be in one dataset; convert into another folder than "
            f"{data_dir}"
        )


def _in_safe_order(moves: Sequence[tuple[Place, Place]]) -> list[tuple[Place, Place]]:
    """Upward moves from the top, downward moves from the bottom.

    Both numberings follow the tars' names, so what occupies the target of an upward move goes
    upward itself, and is moved before it.
    """
    up = [move for move in moves if move[1].number > move[0].number]
    down = [move for move in moves if move[1].number <= move[0].number]
    return sorted(up, key=lambda m: -m[0].number) + sorted(down, key=lambda m: m[0].number)


def strays(data_dir: pathlib.Path, places: Iterable[Place]) -> list[pathlib.Path]:
    """Distractor shards and inventories at none of the places: left by unfinished runs."""
    keep = {path for place in places for path in (place.shard, place.inventory)}
    some = Place(data_dir, _SPLIT, 0, 1)
    found = [
        *shards.images_folder(data_dir).glob(f"ilias-{_SPLIT}.array_record-*"),
        *some.inventory.parent.glob(f"{_SPLIT}-*.json"),
    ]
    return sorted(path for path in found if path not in keep)
