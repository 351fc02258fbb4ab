"""Runs the conversion of tars as an Apache Beam pipeline, for a cluster.

The unit of work is the same function that the processes of one machine run. Tars and data folder
must be on a file system that all workers share under the same paths.
"""

import dataclasses
import json
import pathlib
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from ilias_jax.dataset import shards
from ilias_jax.dataset.distractors import Done, Job, convert_tar
from ilias_jax.dataset.tar import DamagedTarError
from ilias_jax.errors import UserError


def convert_to_line(job: Job) -> str:
    """Converts a tar; returns what came of it as a line of JSON.

    A user's mistake must not reach Beam, which would try the same tar again and then give up all.
    """
    number = job.place.number
    try:
        return json.dumps({"number": number, "done": dataclasses.asdict(convert_tar(job))})
    except DamagedTarError as error:
        return json.dumps({"number": number, "damaged": str(error)})
    except UserError as error:
        return json.dumps({"number": number, "failed": str(error)})


def executor(
    runner: str, options: str = ""
) -> Callable[[Sequence[Job]], Iterator[tuple[Job, Done | UserError]]]:
    """Makes the argument `execute` of `convert` that runs jobs in a pipeline.

    Args:
        runner: name of a Beam runner, such as "DirectRunner".
        options: further options of the pipeline as on a command line.
    """

    def execute(jobs: Sequence[Job]) -> Iterator[tuple[Job, Done | UserError]]:
        by_number = {job.place.number: job for job in jobs}
        for line in _run(jobs, PipelineOptions(shlex.split(options), runner=runner)):
            outcome = json.loads(line)
            if "failed" in outcome:
                raise UserError(outcome["failed"])
            job = by_number[outcome["number"]]
            if "damaged" in outcome:
                yield job, DamagedTarError(outcome["damaged"])
            else:
                yield job, Done(**outcome["done"])

    return execute


def _run(jobs: Sequence[Job], options: PipelineOptions) -> list[str]:
    """Runs the pipeline to its end; returns the lines of all jobs."""
    images = shards.images_folder(jobs[0].place.data_dir)
    results = images / f".results.{uuid.uuid4().hex}.tmp"
    results.mkdir()
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "tars" >> beam.Create(list(jobs))
                | "spread" >> beam.Reshuffle()
                | "convert" >> beam.Map(convert_to_line)
                | "results" >> beam.io.WriteToText(str(results / "part"))
            )
        return [line for path in _parts(results) for line in path.read_text().splitlines()]
    finally:
        shutil.rmtree(results, ignore_errors=True)


def _parts(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("part-*"))
