"""Runs the conversion of tars as an Apache Beam pipeline, for a cluster.

The unit of work is the same function that the processes of one machine run. Tars and data folder
must be on a file system that all workers share under the same paths.
"""

import dataclasses
import json
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from ilias_jax.dataset.convert import Job, Outcome, TarCounts, convert_tar
from ilias_jax.dataset.layout import images_folder
from ilias_jax.dataset.tars import DamagedTarError
from ilias_jax.errors import UserError


def convert_to_line(job: Job) -> str:
    """Converts a tar; what came of it, as a line of JSON.

    A user's mistake must not reach Beam, which would try the same tar again and then give up all.
    """
    try:
        return json.dumps({"done": dataclasses.asdict(convert_tar(job))})
    except DamagedTarError as error:
        return json.dumps({"damaged": str(error)})
    except UserError as error:
        return json.dumps({"failed": str(error)})


def executor(runner: str, options: str = "") -> Callable[[Sequence[Job]], Iterator[Outcome]]:
    """Makes the argument `execute` of `convert` that runs jobs in a pipeline.

    Args:
        runner: name of a Beam runner, such as "DirectRunner".
        options: further options of the pipeline as on a command line.
    """

    def execute(jobs: Sequence[Job]) -> Iterator[Outcome]:
        for line in _run(jobs, PipelineOptions(shlex.split(options), runner=runner)):
            outcome = json.loads(line)
            if "failed" in outcome:
                raise UserError(outcome["failed"])
            if "damaged" in outcome:
                yield DamagedTarError(outcome["damaged"])
            else:
                yield TarCounts(**outcome["done"])

    return execute


def _run(jobs: Sequence[Job], options: PipelineOptions) -> list[str]:
    results = images_folder(jobs[0].slot.data_dir) / f".results.{uuid.uuid4().hex}.tmp"
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
        parts = sorted(results.glob("part-*"))
        return [line for path in parts for line in path.read_text().splitlines()]
    finally:
        shutil.rmtree(results, ignore_errors=True)
