"""Official layout to a data folder: core and tars of distractors, one tar one shard.

Every shard is followed by its inventory, which marks it as done; TFDS metadata come last and are
taken back before anything changes. So a run that was killed is continued by the next one, and a
folder with `dataset_info.json` is whole.

Shards are numbered by the names of their tars. If tars were added since, the finished shards get
their new numbers by renaming. A shard whose tar is gone stays part of the dataset, so that tars
can be converted and removed a few at a time.
"""

import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from ilias_jax.dataset import core, layout, shards, tars
from ilias_jax.dataset.catalogue import select_tars
from ilias_jax.dataset.inventory import ShardSlot, Source, finished_shards
from ilias_jax.dataset.layout import Box, ImageRecord, Split, TextRecord
from ilias_jax.dataset.processes import run_jobs
from ilias_jax.errors import UserError
from ilias_jax.files import final_name, head_and_tail
from ilias_jax.progress import track

_DESCRIPTION = "ILIAS: instance-level image retrieval at scale, "
_CORE_SPLITS: tuple[Split, ...] = ("image_query", "positive")


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
Execute = Callable[[Sequence[Job]], Iterator[Outcome]]


def convert_tar(job: Job) -> TarCounts:
    """Writes the shard of a tar and its inventory: the unit of work of every way to run it.

    Raises:
        DamagedTarError: the tar cannot be read to its end, or holds no image.
        UserError: the shard cannot be written.
    """
    images = tars.ImageFilter(job.tar.name)
    job.slot.write(_source_of(job.tar), _checked(job.tar, images), images.rejected)
    return TarCounts(len(images.ids), len(images.rejected), images.num_others)


def attempt_tar(job: Job) -> Outcome:
    """As `convert_tar`, but returns the error of a damaged tar: it does not hold up the others."""
    try:
        return convert_tar(job)
    except tars.DamagedTarError as error:
        return error


def _source_of(tar: pathlib.Path) -> Source:
    return Source(tar.name, tar.stat().st_size, head_and_tail(epath.Path(tar)))


def _checked(tar: pathlib.Path, images: tars.ImageFilter) -> Iterator[ImageRecord]:
    """The records of a tar; an error at its end, while nothing is finished, if they are not all."""
    before = tar.stat()
    yield from images.records(tars.members(tar, tars.looks_like_image))
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
    """What to do with the distractors."""

    jobs: tuple[Job, ...]  # for every tar that is there and not done
    # (slot now, slot to be) of finished shards with another number, in an order in which no move
    # meets a file that is to be moved.
    moves: tuple[tuple[ShardSlot, ShardSlot], ...]
    slots: tuple[ShardSlot, ...]  # of all shards, in order
    num_absent: int  # finished shards whose tars are not there any more

    def strays(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Distractor shards and inventories in none of the slots: left by unfinished runs."""
        keep = {path for slot in self.slots for path in (slot.shard, slot.inventory)}
        shards, inventories = "ilias-distractor.array_record-*", "inventory/distractor-*.json"
        return sorted({*folder.glob(shards), *folder.glob(inventories)} - keep)


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
        moves=tuple(sorted(moves, key=_move_order)),
        slots=tuple(slots.values()),
        num_absent=len(done.keys() - present.keys()),
    )


def _check_one_form(data_dir: pathlib.Path, names: Sequence[str]) -> None:
    """The Hugging Face tars hold images of the YFCC tars again, under other ids."""
    are_mini = {name.startswith(layout.HUGGING_FACE_TAR): name for name in reversed(names)}
    if len(are_mini) > 1:
        raise UserError(
            f"{are_mini[True]} (Hugging Face, mini) and {are_mini[False]} (YFCC) hold the same "
            "images under different ids and cannot be in one dataset; convert into another folder "
            f"than {data_dir}"
        )


def _move_order(move: tuple[ShardSlot, ShardSlot]) -> tuple[bool, int]:
    """Sorts upward moves from the top, then downward moves from the bottom.

    Both numberings follow the tars' names, so what occupies the target of an upward move goes
    upward itself, and is moved before it.
    """
    now, to_be = move
    is_down = to_be.number <= now.number
    return is_down, now.number if is_down else -now.number


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did."""

    notes: tuple[str, ...]  # what the user should know of the inputs
    num_shards: int  # shards of distractors that the dataset has or will have
    num_converted: int  # of these, converted by this run
    num_moved: int  # of these, renamed by this run because tars were added
    num_absent: int  # of these, with a tar that is not there any more
    num_left: int  # of these, still to be converted
    num_stored: int  # distractor images stored by this run
    num_rejected: int  # those rejected by this run
    num_others: int  # files in this run's tars that are no images

    def lines(self) -> list[str]:
        """The report in words; what did not happen is left out."""
        line = (
            f"{self.num_converted:,} tars converted, {self.num_shards:,} shards of distractors: "
            f"{self.num_stored:,} images stored, {self.num_rejected:,} rejected"
        )
        moved, absent, left = self.num_moved, self.num_absent, self.num_left
        details = (
            (self.num_rejected, "the reasons are in ilias/1.0.0/inventory/"),
            (self.num_others, f"{self.num_others:,} other files in the tars were passed over"),
            (moved, f"{moved:,} finished shards were renumbered, for tars were added"),
            (
                absent,
                f"{absent:,} shards are kept whose tars are not there; to leave one out, "
                "remove its file in ilias/1.0.0/inventory/ and run again",
            ),
            (left, f"{left:,} tars are still to be converted before it can be read"),
        )
        return [*self.notes, line, *(detail for number, detail in details if number)]


def convert(
    root: pathlib.Path,
    data_dir: pathlib.Path,
    num_processes: int = 2,
    *,
    core_paths: Sequence[pathlib.Path] = (),
    distractor_paths: Sequence[pathlib.Path] = (),
    tars: str | None = None,
    without_text: bool = False,
    execute: Execute | None = None,
) -> Report:
    """Writes the shards of a dataset in the official layout; goes on where a run ended.

    Args:
        root: holds `image_ids/`, core and tars; see `core.find_inputs`.
        data_dir: receives `ilias/` and `ilias_text/`, and copies of `image_ids/` and `misc/`; may
            be `root`.
        num_processes: tars converted at the same time.
        core_paths: core folder or tars, if not below `root`.
        distractor_paths: tars or folders of tars, if not below `root`.
        tars: which of the tars to convert in this run (see `select_tars`); None for all.
        without_text: leaves text queries out.
        execute: another way to run `attempt_tar` over jobs than processes of this machine.

    Raises:
        UserError: an input is missing or malformed, a tar is damaged (the others are converted
            first), or a file cannot be written.
    """
    inputs = core.find_inputs(root, core_paths, distractor_paths)
    chosen = inputs.tars
    if tars is not None:
        names = [tar.name for tar in inputs.tars]
        chosen = tuple(inputs.tars[number] for number in select_tars(names, tars))
    run = _Run(root, data_dir, inputs, without_text)
    in_processes = functools.partial(run_jobs, attempt_tar, num_processes=num_processes)
    execute = execute or (lambda jobs: (outcome for _, outcome in in_processes(jobs)))
    with work_in(layout.images_folder(data_dir)) as lock:
        try:
            return run.convert(frozenset(chosen), execute, lock)
        finally:  # what workers left that were stopped; another run might need its own
            with alone(lock) as is_alone:
                if is_alone:
                    remove_temporary(data_dir)


class _Run:
    def __init__(
        self, root: pathlib.Path, data_dir: pathlib.Path, inputs: core.Inputs, without_text: bool
    ) -> None:
        self._root, self._data_dir, self._inputs = root, data_dir, inputs
        self._images, self._texts = layout.images_folder(data_dir), layout.texts_folder(data_dir)
        self._queries: list[TextRecord] | None = None
        if not without_text:
            self._queries = core.read_texts(inputs.core, self._ids(layout.TEXT_SPLIT))
        self._boxes: dict[ShardSlot, dict[str, tuple[Box, ...]]] = {
            ShardSlot(data_dir, split, 0, 1): core.read_boxes(inputs.core, self._ids(split))
            for split in _CORE_SPLITS
        }

    def _ids(self, split: str) -> list[str]:
        return core.read_core_ids(self._root / "image_ids" / f"{split}_ids.txt")

    def convert(self, chosen: frozenset[pathlib.Path], execute: Execute, lock: int) -> Report:
        with alone(lock) as is_alone:
            plan = make_plan(self._data_dir, self._inputs.tars)
            self._tidy(plan, is_alone)
        core.copy_annotations(self._root, self._data_dir)
        self._convert_core()
        self._convert_texts()
        jobs = [job for job in plan.jobs if job.tar in chosen]
        done, damaged = _convert_tars(jobs, execute)
        num_left = len(plan.jobs) - len(done)
        if not num_left:
            self._write_metadata(plan)
        if damaged:
            last = f"{len(damaged):,} of {len(jobs):,} tars could not be converted; the others are"
            raise UserError("\n".join([*sorted(map(str, damaged)), f"{last} done"]))
        return Report(
            notes=self._inputs.notes,
            num_shards=len(plan.slots),
            num_converted=len(done),
            num_moved=len(plan.moves),
            num_absent=plan.num_absent,
            num_left=num_left,
            num_stored=sum(counts.num_stored for counts in done),
            num_rejected=sum(counts.num_rejected for counts in done),
            num_others=sum(counts.num_others for counts in done),
        )

    def _tidy(self, plan: Plan, is_alone: bool) -> None:
        """Removes what killed runs left, and gives finished shards their new numbers."""
        if plan.moves and not is_alone:
            raise UserError(
                f"tars were added, so {len(plan.moves)} finished shards in {self._images} must be "
                "renamed, but another run works there; let it finish first"
            )
        if plan.moves or plan.jobs:
            shards.remove_metadata(self._images)
        for now, to_be in plan.moves:
            now.move(to_be)
        if not is_alone:
            return
        remove_temporary(self._data_dir)
        if strays := plan.strays(self._images):
            shards.remove_metadata(self._images)
            for path in strays:
                path.unlink()

    def _convert_core(self) -> None:
        """Writes the shards of core that are not there, or are of other files or boxes."""
        files = self._inputs.core
        for slot, boxes in self._boxes.items():
            source, done = core.source_of(files, boxes), slot.read()
            if done is None or done.source != source:
                shards.remove_metadata(self._images)
                slot.write(source, core.read_records(files, boxes))

    def _convert_texts(self) -> None:
        if self._queries is None or (
            shards.text_shard_holds(self._data_dir, self._queries)
            and shards.has_metadata(self._texts)
        ):
            return
        shards.remove_metadata(self._texts)
        counts = {layout.TEXT_SPLIT: [shards.write_text_shard(self._data_dir, self._queries)]}
        about = _DESCRIPTION + "text queries"
        shards.write_metadata(self._texts, shards.text_features(), counts, about)

    def _write_metadata(self, plan: Plan) -> None:
        if shards.has_metadata(self._images):
            return  # nothing has changed
        counts: dict[str, list[tuple[int, int]]] = {}
        for slot in (*self._boxes, *plan.slots):
            if (found := slot.read()) is None:
                raise UserError(f"{slot.shard} was finished and is gone; run the command again")
            number, num_bytes = found.shard.num_records, found.shard.payload_bytes
            counts.setdefault(slot.split, []).append((number, num_bytes))
        about = _DESCRIPTION + "images"
        shards.write_metadata(self._images, shards.image_features(), counts, about)


def _convert_tars(jobs: Sequence[Job], execute: Execute) -> tuple[list[TarCounts], list[UserError]]:
    done, damaged = [], []
    if not jobs:
        return [], []
    with track("convert tars", len(jobs)) as advance:
        for outcome in execute(jobs):
            if isinstance(outcome, UserError):
                damaged.append(outcome)
            else:
                done.append(outcome)
            advance(1)
    return done, damaged


@contextlib.contextmanager
def work_in(folder: pathlib.Path) -> Iterator[int]:
    """Marks a folder as worked in, by a lock that runs share; yields it for `alone`.

    The system releases it when the process ends, however it ends. filelock has no shared lock but
    one that leaves a database in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # without locks nobody is ever alone
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield lock
    finally:
        os.close(lock)


@contextlib.contextmanager
def alone(lock: int) -> Iterator[bool]:
    """Yields whether no other run is in the folder; if so none can come in meanwhile."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_alone = True
    except OSError:  # another run, or a file system without locks: nobody can tell
        is_alone = False
    try:
        yield is_alone
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)


def remove_temporary(data_dir: pathlib.Path) -> None:
    """Removes temporary files and folders of killed runs; only for a run that is alone."""
    images = layout.images_folder(data_dir)
    for folder in (images, images / "inventory", layout.texts_folder(data_dir)):
        for path in folder.glob(".*.tmp"):
            if final_name(path.name) is None:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
