"""One tar of distractors becomes one shard: which tars are to be converted, and converting them.

Shards are numbered by the names of their tars. If tars were added since, the finished shards get
their new numbers by renaming. A shard whose tar is gone stays part of the dataset, so that tars
can be converted and removed a few at a time.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from ilias_jax.dataset import tars
from ilias_jax.dataset.image_filter import ImageFilter, looks_like_image
from ilias_jax.dataset.inventory import ShardSlot, Source, finished_shards, head_and_tail
from ilias_jax.dataset.layout import HUGGING_FACE_TAR, ImageRecord
from ilias_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Job:
    """A tar and where its shard goes."""

    tar: pathlib.Path
    slot: ShardSlot


@dataclasses.dataclass(frozen=True)
class TarCounts:
    """What came of a tar: images stored and rejected, and other files in it."""

    num_stored: int
    num_rejected: int
    num_others: int


Outcome = TarCounts | UserError


def convert_tar(job: Job) -> TarCounts:
    """Writes the shard of a tar and its inventory: the unit of work of every way to run it.

    Raises:
        DamagedTarError: the tar cannot be read to its end, or holds no image.
        UserError: the shard cannot be written.
    """
    images = ImageFilter(job.tar.name)
    job.slot.write(_source_of(job.tar), _checked(job.tar, images), images.rejected)
    return TarCounts(len(images.ids), len(images.rejected), images.num_others)


def attempt_tar(job: Job) -> Outcome:
    """As `convert_tar`, but returns the error of a damaged tar: it does not hold up the others."""
    try:
        return convert_tar(job)
    except tars.DamagedTarError as error:
        return error


def _source_of(tar: pathlib.Path) -> Source:
    return Source(tar.name, tar.stat().st_size, head_and_tail(tar))


def _checked(tar: pathlib.Path, images: ImageFilter) -> Iterator[ImageRecord]:
    """The records of a tar; an error at its end, while nothing is finished, if they are not all."""
    before = tar.stat()
    yield from images.records(tars.members(tar, looks_like_image))
    after = tar.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise tars.DamagedTarError(f"{tar} was written to while it was read; convert it again")
    stored, rejected = len(images.ids), len(images.rejected)
    if images.num_images != stored + rejected:
        raise UserError(
            f"{tar} has {images.num_images:,} images, but {stored:,} were stored and "
            f"{rejected:,} rejected; please report this"
        )
    if not stored:
        first = f"; the first of {rejected:,} rejected: {images.rejected[0]}" if rejected else ""
        raise tars.DamagedTarError(f"{tar} holds no .jpg file that can be stored{first}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do with the distractors.

    Attributes:
        jobs: a job for every tar that is there and not done.
        moves: (slot now, slot to be) of finished shards with another number, in an order in which
            no move meets a file that is to be moved.
        slots: of all shards, in order.
        num_absent: finished shards whose tars are not there any more.
    """

    jobs: tuple[Job, ...]
    moves: tuple[tuple[ShardSlot, ShardSlot], ...]
    slots: tuple[ShardSlot, ...]
    num_absent: int

    def strays(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Distractor shards and inventories in none of the slots: left by unfinished runs."""
        keep = {path for slot in self.slots for path in (slot.shard, slot.inventory)}
        found = [
            *folder.glob("ilias-distractor.array_record-*"),
            *folder.glob("inventory/distractor-*.json"),
        ]
        return sorted(path for path in found if path not in keep)


def make_plan(data_dir: pathlib.Path, paths: Sequence[pathlib.Path]) -> Plan:
    """Compares the tars with the shards of a data folder; changes nothing.

    Raises:
        UserError: the folder holds shards of the other published form of the distractors.
    """
    present = {tar.name: tar for tar in paths}
    done = {
        source.file: slot
        for slot, source in finished_shards(data_dir, "distractor").items()
        if source.file not in present or source == _source_of(present[source.file])
    }
    names = sorted(present.keys() | done.keys())
    _check_one_form(data_dir, names)
    slots = {n: ShardSlot(data_dir, "distractor", i, len(names)) for i, n in enumerate(names)}
    moves = [(now, slots[n]) for n, now in done.items() if now != slots[n]]
    return Plan(
        jobs=tuple(Job(present[n], slots[n]) for n in names if n not in done),
        moves=tuple(_in_safe_order(moves)),
        slots=tuple(slots.values()),
        num_absent=len(done.keys() - present.keys()),
    )


def _check_one_form(data_dir: pathlib.Path, names: Sequence[str]) -> None:
    """The Hugging Face tars hold images of the YFCC tars again, under other ids."""
    mini = [name for name in names if name.startswith(HUGGING_FACE_TAR)]
    others = [name for name in names if not name.startswith(HUGGING_FACE_TAR)]
    if mini and others:
        raise UserError(
            f"{mini[0]} (Hugging Face, mini) and {others[0]} (YFCC) hold the same images under "
            f"different ids and cannot be in one dataset; convert into another folder than "
            f"{data_dir}"
        )


def _in_safe_order(
    moves: Iterable[tuple[ShardSlot, ShardSlot]],
) -> list[tuple[ShardSlot, ShardSlot]]:
    """Upward moves from the top, then downward moves from the bottom.

    Both numberings follow the tars' names, so what occupies the target of an upward move goes
    upward itself, and is moved before it.
    """

    def order(move: tuple[ShardSlot, ShardSlot]) -> tuple[bool, int]:
        now, to_be = move
        is_down = to_be.number <= now.number
        return is_down, now.number if is_down else -now.number

    return sorted(moves, key=order)
