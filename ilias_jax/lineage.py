"""Which embedding files a ranking was made from: without them its indices mean nothing."""

import dataclasses
import json

from etils import epath

from ilias_jax import embeddings
from ilias_jax.embeddings import EmbeddingFiles
from ilias_jax.errors import UserError
from ilias_jax.ranking import Ranking, load_origin


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """An embedding file as it was when the ranking was made.

    Attributes:
        name: `<fingerprint folder>/<file>` below the workdir's `embeddings/`.
        num_rows: embeddings in it.
        fingerprint: short hash of its fingerprint: model, preprocessing and source shard.
    """

    name: str
    num_rows: int
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The embedding files of a ranking; its database is the positives, then the distractors."""

    queries: tuple[FileRecord, ...]
    positives: tuple[FileRecord, ...]
    distractors: tuple[FileRecord, ...]

    def to_text(self) -> str:
        """As JSON, for the ranking's file."""
        return json.dumps(
            {
                role: [dataclasses.astuple(file) for file in files]
                for role, files in vars(self).items()
            }
        )

    def database_text(self) -> str:
        """The database's files alone, as JSON: other queries search the same database."""
        files = [dataclasses.astuple(file) for file in (*self.positives, *self.distractors)]
        return json.dumps(files)


def trace(
    queries: EmbeddingFiles, positives: EmbeddingFiles, distractors: EmbeddingFiles
) -> Lineage:
    """The lineage of a ranking of these queries in this database."""
    return Lineage(_records(queries), _records(positives), _records(distractors))


def _records(files: EmbeddingFiles) -> tuple[FileRecord, ...]:
    return tuple(
        FileRecord(
            f"{each.path.parent.name}/{each.path.name}",
            each.num_rows,
            embeddings.short_hash(each.fingerprint),
        )
        for each in files.headers
    )


def read_lineage(path: epath.Path) -> Lineage:
    """The lineage kept with the ranking at `path`.

    Raises:
        UserError: the file keeps none, or one that cannot be read.
    """
    text = load_origin(path)
    if not text:
        raise UserError(
            f"{path} does not say which embeddings it ranks (an older version wrote it); run the "
            "benchmark again with the same recipe and workdir: nothing is embedded twice"
        )
    try:
        roles = json.loads(text)
        return Lineage(
            **{role: tuple(FileRecord(*file) for file in files) for role, files in roles.items()}
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the note on its embeddings cannot be read ({error})") from error


def find_files(records: tuple[FileRecord, ...], folder: epath.Path) -> EmbeddingFiles:
    """The recorded files below `folder`, the workdir's `embeddings/`.

    Raises:
        UserError: a file is gone or holds other embeddings than when the ranking was made.
    """
    paths = [folder / record.name for record in records]
    gone = [str(path) for path in paths if not path.exists()]
    if gone:
        raise UserError(
            f"{len(gone)} of {len(paths)} embedding files of the ranking are gone, first "
            f"{gone[0]}; run the benchmark again"
        )
    found = EmbeddingFiles(paths)
    for record, now in zip(records, _records(found), strict=True):
        if record != now:
            raise UserError(
                f"{folder / record.name} holds {now.num_rows} rows of source {now.fingerprint}; "
                f"the ranking was made from {record.num_rows} rows of {record.fingerprint}: run "
                "the benchmark again"
            )
    return found


def check_ranking(ranking: Ranking, lineage: Lineage, queries: EmbeddingFiles) -> None:
    """Raises UserError unless the ranking's queries and indices are of these files."""
    num_database = sum(file.num_rows for file in lineage.positives + lineage.distractors)
    if list(ranking.query_ids) != queries.ids() or ranking.indices.max(initial=0) >= num_database:
        raise UserError(
            f"the ranking's queries or indices are not those of {len(queries.paths)} query files "
            f"and {num_database:,} database rows; run the benchmark again"
        )
