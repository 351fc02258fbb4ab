"""Official layout to a data folder: core and tars of distractors, one tar one shard.

Every shard is followed by its inventory, which marks it as done; TFDS metadata comes last and is
taken back before anything changes. So a run that was killed is continued by the next one, and a
folder with `dataset_info.json` is whole.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

from ilias_jax import tar_range
from ilias_jax.dataset import core, finished, run_lock, shards, workers
from ilias_jax.dataset import plan as planning
from ilias_jax.dataset.companions import copy_companions
from ilias_jax.dataset.conversion_report import Report, damage_report
from ilias_jax.dataset.distractors import Done, Job, convert_tar
from ilias_jax.dataset.finished import Place
from ilias_jax.dataset.inputs import Inputs, find_inputs
from ilias_jax.dataset.plan import Plan
from ilias_jax.dataset.tar import DamagedTarError
from ilias_jax.errors import UserError
from ilias_jax.progress import track
from ilias_jax.records import Split, TextRecord

Execute = Callable[[Sequence[Job]], Iterator[tuple[Job, Done | UserError]]]
_DESCRIPTION = "ILIAS: instance-level image retrieval at scale, "
_CORE_SPLITS: tuple[tuple[Split, str], ...] = (
    ("image_query", "image_query_ids.txt"),
    ("positive", "positive_ids.txt"),
)


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
        root: holds `image_ids/`, core and tars; see `inputs.find_inputs`.
        data_dir: receives `ilias/` and `ilias_text/`, and copies of `image_ids/` and `misc/`; may
            be `root`.
        num_processes: tars converted at the same time.
        core_paths: core folder or tars, if not below `root`.
        distractor_paths: tars or folders of tars, if not below `root`.
        tars: which of the tars to convert in this run (see `tar_range.select`); None for all.
        without_text: leaves text queries out.
        execute: another way to run `convert_tar` over jobs than processes of this machine.

    Raises:
        UserError: an input is missing or malformed, a tar is damaged (the others are converted
            first), or a file cannot be written.
    """
    inputs = find_inputs(root, core_paths, distractor_paths)
    chosen = inputs.tars
    if tars is not None:
        names = [tar.name for tar in inputs.tars]
        chosen = tuple(inputs.tars[number] for number in tar_range.select(names, tars))
    run = _Run(root, data_dir, inputs, without_text)
    if execute is None:
        execute = functools.partial(
            workers.run, convert_tar, num_processes=num_processes, allowed=DamagedTarError
        )
    with run_lock.enter(shards.images_folder(data_dir)) as lock:
        try:
            return run.convert(frozenset(chosen), execute, lock)
        finally:
            run.clean(lock)


class _Run:
    """One conversion: its inputs, and what it has read of them."""

    def __init__(
        self, root: pathlib.Path, data_dir: pathlib.Path, inputs: Inputs, without_text: bool
    ) -> None:
        self._root, self._data_dir, self._inputs = root, data_dir, inputs
        self._images, self._texts = shards.images_folder(data_dir), shards.texts_folder(data_dir)
        ids = root / "image_ids"
        files = inputs.core
        self._queries: list[TextRecord] | None = None
        if not without_text:
            self._queries = core.read_texts(files, core.read_ids(ids / "text_query_ids.txt"))
        self._boxes = {
            split: core.check_images(files, core.read_ids(ids / name))
            for split, name in _CORE_SPLITS
        }

    @property
    def _folders(self) -> list[pathlib.Path]:
        """The folders that this program writes to."""
        inventories = Place(self._data_dir, "positive", 0, 1).inventory.parent
        return [self._images, inventories, self._texts]

    def convert(
        self, chosen: frozenset[pathlib.Path], execute: Execute, lock: run_lock.RunLock
    ) -> Report:
        """Does everything; see `convert` of the module."""
        with lock.alone() as alone:
            plan = planning.make_plan(self._data_dir, self._inputs.tars)
            self._tidy(plan, alone)
        copy_companions(self._root, self._data_dir)
        self._convert_core()
        jobs = [job for job in plan.jobs if job.tar in chosen]
        done, damaged = self._convert_tars(jobs, execute)
        num_left = len(plan.jobs) - len(done)
        if not num_left:
            self._write_metadata(plan)
        if damaged:
            raise damage_report(damaged, len(jobs))
        return Report(
            notes=self._inputs.notes,
            num_shards=len(plan.places),
            num_converted=len(done),
            num_moved=len(plan.moves),
            num_absent=plan.num_absent,
            num_left=num_left,
            num_stored=sum(one.num_stored for one in done),
            num_rejected=sum(one.num_rejected for one in done),
            num_others=sum(one.num_others for one in done),
        )

    def clean(self, lock: run_lock.RunLock) -> None:
        """Removes what workers left that were stopped; another run might need its own."""
        with lock.alone() as alone:
            if alone:
                run_lock.remove_temporary(self._folders)

    def _invalidate(self) -> None:
        shards.remove_metadata(self._images)

    def _tidy(self, plan: Plan, alone: bool) -> None:
        """Removes what killed runs left, and gives finished shards their new numbers."""
        if plan.moves and not alone:
            raise UserError(
                f"tars were added, so {len(plan.moves)} finished shards in {self._images} must be "
                "renamed, but another run works there; let it finish first"
            )
        if plan.moves or plan.jobs:
            self._invalidate()
        for now, to_be in plan.moves:
            finished.move(now, to_be)
        if not alone:
            return
        run_lock.remove_temporary(self._folders)
        if strays := planning.strays(self._data_dir, plan.places):
            self._invalidate()
            for path in strays:
                path.unlink()

    def _convert_core(self) -> None:
        for split, boxes in self._boxes.items():
            place = Place(self._data_dir, split, 0, 1)
            core.convert_split(place, self._inputs.core, boxes, self._invalidate)
        if self._queries is None:
            return
        known = shards.text_shard_holds(self._data_dir, self._queries)
        if not (known and shards.has_metadata(self._texts)):
            shards.remove_metadata(self._texts)
            counts = shards.write_text_shard(self._data_dir, self._queries)
            shards.write_metadata(
                self._texts,
                shards.text_features(),
                {shards.TEXT_SPLIT: [counts]},
                _DESCRIPTION + "text queries",
            )

    def _convert_tars(
        self, jobs: Sequence[Job], execute: Execute
    ) -> tuple[list[Done], list[UserError]]:
        """Converts tars; damaged ones do not hold up the others."""
        done, damaged = [], []
        if not jobs:
            return [], []
        with track("convert tars", len(jobs)) as advance:
            for _, outcome in execute(jobs):
                if isinstance(outcome, UserError):
                    damaged.append(outcome)
                else:
                    done.append(outcome)
                advance(1)
        return done, damaged

    def _write_metadata(self, plan: Plan) -> None:
        if shards.has_metadata(self._images):
            return  # nothing has changed
        counts: dict[str, list[tuple[int, int]]] = {}
        core_places = [Place(self._data_dir, split, 0, 1) for split, _ in _CORE_SPLITS]
        for place in (*core_places, *plan.places):
            found = finished.summarize(place)
            if found is None:
                raise UserError(f"{place.shard} was finished and is gone; run the command again")
            counts.setdefault(place.split, []).append(
                (found.shard.num_records, found.shard.payload_bytes)
            )
        shards.write_metadata(
            self._images, shards.image_features(), counts, _DESCRIPTION + "images"
        )
