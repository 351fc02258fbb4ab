"""Official layout to a data folder: core and tars of distractors, one tar one shard.

Every shard is followed by its inventory, which marks it as done; TFDS metadata come last and are
taken back before anything changes. So a run that was killed is continued by the next one, and a
folder with `dataset_info.json` is whole.
"""

import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence

from ilias_jax.dataset import core, layout, shards
from ilias_jax.dataset.catalogue import select_tars
from ilias_jax.dataset.inventory import ShardSlot
from ilias_jax.dataset.jobs import Job, Outcome, Plan, TarCounts, attempt_tar, make_plan
from ilias_jax.dataset.layout import Box, Split, TextRecord
from ilias_jax.dataset.processes import run_jobs
from ilias_jax.errors import UserError
from ilias_jax.files import final_name
from ilias_jax.progress import track

_DESCRIPTION = "ILIAS: instance-level image retrieval at scale, "
_CORE_SPLITS: tuple[tuple[Split, str], ...] = (
    ("image_query", "image_query_ids.txt"),
    ("positive", "positive_ids.txt"),
)
Execute = Callable[[Sequence[Job]], Iterator[Outcome]]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        notes: what the user should know of the inputs.
        num_shards: shards of distractors that the dataset has or will have.
        num_converted: of these, converted by this run.
        num_moved: of these, renamed by this run because tars were added.
        num_absent: of these, with a tar that is not there any more.
        num_left: of these, still to be converted.
        num_stored: distractor images stored by this run.
        num_rejected: those rejected by this run.
        num_others: files in this run's tars that are no images.
    """

    notes: tuple[str, ...]
    num_shards: int
    num_converted: int
    num_moved: int
    num_absent: int
    num_left: int
    num_stored: int
    num_rejected: int
    num_others: int

    def lines(self) -> list[str]:
        """The report in words; what did not happen is left out."""
        lines = [
            *self.notes,
            f"{self.num_converted:,} tars converted, {self.num_shards:,} shards of distractors: "
            f"{self.num_stored:,} images stored, {self.num_rejected:,} rejected",
        ]
        if self.num_rejected:
            lines.append("the reasons are in ilias/1.0.0/inventory/")
        if self.num_others:
            lines.append(f"{self.num_others:,} other files in the tars were passed over")
        if self.num_moved:
            lines.append(f"{self.num_moved:,} finished shards were renumbered, for tars were added")
        if self.num_absent:
            lines.append(
                f"{self.num_absent:,} shards are kept whose tars are not there; to leave one out, "
                "remove its file in ilias/1.0.0/inventory/ and run again"
            )
        if self.num_left:
            lines.append(f"{self.num_left:,} tars are still to be converted before it can be read")
        return lines


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
    if execute is None:
        execute = functools.partial(_in_processes, num_processes=num_processes)
    with work_in(layout.images_folder(data_dir)) as lock:
        try:
            return run.convert(frozenset(chosen), execute, lock)
        finally:  # what workers left that were stopped; another run might need its own
            with alone(lock) as is_alone:
                if is_alone:
                    remove_temporary(data_dir)


def _in_processes(jobs: Sequence[Job], num_processes: int) -> Iterator[Outcome]:
    return (outcome for _, outcome in run_jobs(attempt_tar, jobs, num_processes))


class _Run:
    """One conversion: its inputs, and what it has read of them."""

    def __init__(
        self, root: pathlib.Path, data_dir: pathlib.Path, inputs: core.Inputs, without_text: bool
    ) -> None:
        self._root, self._data_dir, self._inputs = root, data_dir, inputs
        self._images, self._texts = layout.images_folder(data_dir), layout.texts_folder(data_dir)
        ids, files = root / "image_ids", inputs.core
        self._queries: list[TextRecord] | None = None
        if not without_text:
            self._queries = core.read_texts(files, core.read_core_ids(ids / "text_query_ids.txt"))
        self._boxes: dict[ShardSlot, dict[str, tuple[Box, ...]]] = {
            ShardSlot(data_dir, split, 0, 1): core.read_boxes(files, core.read_core_ids(ids / name))
            for split, name in _CORE_SPLITS
        }

    def convert(self, chosen: frozenset[pathlib.Path], execute: Execute, lock: int) -> Report:
        """Does everything; see `convert` of the module."""
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
        counts = shards.write_text_shard(self._data_dir, self._queries)
        shards.write_metadata(
            self._texts,
            shards.text_features(),
            {layout.TEXT_SPLIT: [counts]},
            _DESCRIPTION + "text queries",
        )

    def _write_metadata(self, plan: Plan) -> None:
        if shards.has_metadata(self._images):
            return  # nothing has changed
        counts: dict[str, list[tuple[int, int]]] = {}
        for slot in (*self._boxes, *plan.slots):
            found = slot.read()
            if found is None:
                raise UserError(f"{slot.shard} was finished and is gone; run the command again")
            counts.setdefault(slot.split, []).append(
                (found.shard.num_records, found.shard.payload_bytes)
            )
        shards.write_metadata(
            self._images, shards.image_features(), counts, _DESCRIPTION + "images"
        )


def _convert_tars(jobs: Sequence[Job], execute: Execute) -> tuple[list[TarCounts], list[UserError]]:
    """Converts tars; damaged ones do not hold up the others."""
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
        _share(lock)
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
        _share(lock)


def _share(lock: int) -> None:
    """Holds the lock together with other runs; without locks nobody is ever alone."""
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
