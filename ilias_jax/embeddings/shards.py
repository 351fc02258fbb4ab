"""Shards through a model, one file each: whole or absent, locked, finished ones skipped.

Three threads work at once. One reads: it decodes shard after shard and packs batches that may hold
images of several. The caller's sends them to the devices and sorts what comes back by shard. One
writes the shards that are whole. Each waits for the next when it is far enough ahead, so that
memory stays bounded, and no step waits for a file.
"""

import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from etils import epath

from ilias_jax.dataset.layout import Shard
from ilias_jax.embeddings import file
from ilias_jax.embeddings.embedder import Collected, Embedder
from ilias_jax.embeddings.sources import read_ahead
from ilias_jax.files import LOCK_POLL_S, Lock, try_lock
from ilias_jax.preprocessing.batching import Batch, Item, Packer
from ilias_jax.profiling import StageTime
from ilias_jax.progress import Advance, track

_BATCHES_AHEAD = 2  # packed batches that wait for the devices
_FILES_BEHIND = 2  # whole shards that wait to be written


@dataclasses.dataclass(frozen=True)
class Named:
    """Ids and record numbers of the rows that an embedded shard has, filled while it is read."""

    ids: list[str]
    numbers: list[int]
    rejected: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """A shard to embed, path and fingerprint of its embedding file, and views of each image."""

    shard: Shard
    path: epath.Path
    fingerprint: file.Fingerprint
    num_views: int = 1


ReadShard = Callable[[Shard, Named], Iterable[Item]]
Encode = Callable[[np.ndarray], np.ndarray]  # [N, D] float32 -> what a file holds of it


def is_done(path: epath.Path, fingerprint: file.Fingerprint) -> bool:
    """Whether a shard's file exists and is of this model, preprocessing and source."""
    if not path.exists():
        return False
    if not (same := _is_of(path, fingerprint)):
        logging.warning("%s is of another source; embedding again", path)
    return same


def _is_of(path: epath.Path, fingerprint: file.Fingerprint) -> bool:
    found = file.read_header(path).fingerprint
    return file.canonical_json(found) == file.canonical_json(fingerprint)


@dataclasses.dataclass(eq=False)
class _OpenShard:
    job: ShardJob
    lock: Lock
    collected: Collected
    named: Named = dataclasses.field(default_factory=lambda: Named([], [], []))
    is_read: bool = False  # set by the reading thread, last of all that it sets

    def is_whole(self) -> bool:
        return self.is_read and self.collected.count >= len(self.named.ids)

    def write(self, encode: Encode) -> None:
        job, named = self.job, self.named
        try:
            vectors = encode(self.collected.result(named.ids, job.shard.file_name))
            numbers, rejected = np.asarray(named.numbers, np.int64), tuple(named.rejected)
            ids = tuple(named.ids)
            file.write(job.path, file.Embeddings(ids, vectors, numbers, job.fingerprint, rejected))
        finally:
            self.lock.close()


class _Pass:
    """One pass over jobs, of which those that other processes have locked are `left`."""

    def __init__(
        self, read: ReadShard, embedder: Embedder, shapes: Sequence[tuple[int, ...]], encode: Encode
    ) -> None:
        self._read, self._embedder, self._encode = read, embedder, encode
        self._packer = Packer(shapes, embedder.batch_size)
        self._open: dict[int, _OpenShard] = {}
        self.left: list[ShardJob] = []
        self.num_written = 0

    def run(self, jobs: Sequence[ShardJob], timing: StageTime, advance: Advance) -> None:
        writing: collections.deque[Future[None]] = collections.deque()
        try:
            with (
                contextlib.closing(read_ahead(self._batches(jobs), _BATCHES_AHEAD)) as batches,
                contextlib.closing(self._embedder.stream(batches, timing)) as results,
                ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
            ):
                for batch, vectors in results:
                    for owner in np.unique(batch.owners[batch.mask]).tolist():
                        mine = batch.owners == owner
                        collected = self._open[owner].collected
                        advance(collected.add(batch.rows[mine], vectors[mine]))
                    for whole in self._take_whole(timing, advance):
                        writing.append(writer.submit(whole.write, self._encode))
                    while len(writing) > _FILES_BEHIND or (writing and writing[0].done()):
                        writing.popleft().result()
                for whole in self._take_whole(timing, advance):
                    writing.append(writer.submit(whole.write, self._encode))
                for future in writing:
                    future.result()
                for opened in self._open.values():  # never whole: an item was lost on its way
                    opened.write(self._encode)
        finally:
            for opened in self._open.values():  # that an error left open
                opened.lock.close()

    def _batches(self, jobs: Iterable[ShardJob]) -> Iterator[Batch]:
        for owner, job in enumerate(jobs):
            lock = try_lock(job.path)
            if lock and job.path.exists() and _is_of(job.path, job.fingerprint):
                lock.close()  # another process has just finished it
                lock = None
            if lock is None:
                self.left.append(job)
                continue
            self._open[owner] = opened = _OpenShard(job, lock, Collected(job.num_views))
            for item in self._read(job.shard, opened.named):
                yield from self._packer.add(item, owner)
            opened.is_read = True
        yield from self._packer.flush()

    def _take_whole(self, timing: StageTime, advance: Advance) -> Iterator[_OpenShard]:
        for owner, opened in list(self._open.items()):
            if opened.is_whole():
                del self._open[owner]
                count = len(opened.named.ids)
                timing.items += count
                advance(opened.job.shard.num_wanted - count)  # not selected or rejected
                self.num_written += 1
                yield opened


def embed_shards(
    jobs: Sequence[ShardJob],
    read: ReadShard,
    embedder: Embedder,
    shapes: Sequence[tuple[int, ...]],
    encode: Encode,
    timing: StageTime,
    name: str,
) -> None:
    """Embeds every shard that has no file yet; returns when all have one.

    Other processes may do the same in the same folder: each shard is embedded by one of them. One
    that another process has locked is waited for, and taken over if that process ends.

    Args:
        jobs: this process's shards.
        read: yields an item for every view of a shard's images and notes the images in `Named`.
        embedder: of the model.
        shapes: that items are padded to; see `bucket_shapes`.
        encode: what is stored of a shard's vectors, such as their rounding to float16.
        timing: receives time and counts.
        name: shown with the progress.

    Raises:
        UserError: a file cannot be written, a vector is not finite, or as `read` raises it.
    """
    with track(name, _num_records(jobs)) as advance:
        waiting, is_first = list(jobs), True
        while waiting := _skip_done(waiting, timing, advance):
            one = _Pass(read, embedder, shapes, encode)
            one.run(waiting, timing, advance)
            waiting = one.left
            if waiting and is_first:
                logging.warning(
                    "%d shards, first %s, are embedded by another process; waiting for them",
                    len(waiting),
                    waiting[0].path,
                )
            if waiting and not one.num_written:
                time.sleep(LOCK_POLL_S)
            is_first = False


def _skip_done(jobs: Sequence[ShardJob], timing: StageTime, advance: Advance) -> list[ShardJob]:
    waiting = [job for job in jobs if not is_done(job.path, job.fingerprint)]
    skipped = _num_records(jobs) - _num_records(waiting)
    timing.skipped += skipped
    advance(skipped)
    return waiting


def _num_records(jobs: Sequence[ShardJob]) -> int:
    return sum(job.shard.num_wanted for job in jobs)
