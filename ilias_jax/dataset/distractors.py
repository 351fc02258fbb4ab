"""One tar of distractors becomes one shard: the unit of work of every way to run a conversion."""

import dataclasses
import pathlib
from collections.abc import Iterator

from etils import epath

from ilias_jax.dataset import finished
from ilias_jax.dataset.digest import head_and_tail
from ilias_jax.dataset.finished import Place
from ilias_jax.dataset.intake import Intake, read_tar
from ilias_jax.dataset.inventory import Source
from ilias_jax.dataset.tar import DamagedTarError
from ilias_jax.errors import UserError
from ilias_jax.records import ImageRecord


@dataclasses.dataclass(frozen=True)
class Job:
    """A tar and the place of its shard."""

    tar: pathlib.Path
    place: Place


@dataclasses.dataclass(frozen=True)
class Done:
    """What came of a tar: counts of images stored and rejected, and of other files in it."""

    num_stored: int
    num_rejected: int
    num_others: int


def source_of(tar: pathlib.Path) -> Source:
    """What identifies a tar."""
    return Source(tar.name, tar.stat().st_size, head_and_tail(epath.Path(tar)))


def _checked(tar: pathlib.Path, intake: Intake) -> Iterator[ImageRecord]:
    """The records of a tar; an error at its end, while nothing is finished, if they are not all."""
    before = tar.stat()
    yield from read_tar(tar, intake)
    after = tar.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DamagedTarError(f"{tar} was written to while it was read; convert it again")
    stored, rejected = len(intake.ids), len(intake.rejected)
    if intake.num_images != stored + rejected:
        raise UserError(
            f"{tar} has {intake.num_images:,} images, but {stored:,} were stored and "
            f"{rejected:,} rejected; please report this"
        )
    if not stored:
        first = f"; the first of {rejected:,} rejected: {intake.rejected[0]}" if rejected else ""
        raise DamagedTarError(f"{tar} holds no .jpg file that can be stored{first}")


def convert_tar(job: Job) -> Done:
    """Writes the shard of a tar and its inventory.

    Raises:
        DamagedTarError: the tar cannot be read to its end, or holds no image.
        UserError: the shard cannot be written.
    """
    intake = Intake(job.tar.name)
    records = _checked(job.tar, intake)
    finished.write(job.place, source_of(job.tar), records, intake.rejected)
    return Done(len(intake.ids), len(intake.rejected), intake.num_others)
