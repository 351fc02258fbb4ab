"""Search over vectors that are kept in files, official ones or those of a run."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.dataset.id_lists import IdList, repeated_ids
from ilias_jax.embeddings.files import EmbeddingFiles, check_lengths, check_models
from ilias_jax.embeddings.sources import Checked, Concatenated, Mapped, Selected, VectorSource
from ilias_jax.errors import UserError
from ilias_jax.official.features import FeatureFile, open_features
from ilias_jax.search.backends import Backend
from ilias_jax.search.ranking import Ranking


@dataclasses.dataclass(frozen=True)
class SearchInputs:
    """What is searched for and in what.

    Attributes:
        queries: Q rows.
        database: N rows: the positives, then the distractors.
        num_positives: how many of the N are positives.
        num_unlisted: distractors left out because they are not on the list.
        num_absent: lines of the list that fit no distractor.
    """

    queries: Concatenated
    database: Concatenated
    num_positives: int
    num_unlisted: int
    num_absent: int

    def describe(self, k: int) -> str:
        """One line that says what was searched, for lists of length k."""
        num_distractors = self.database.num_rows() - self.num_positives
        words = (
            f"{self.queries.num_rows():,} queries, lists of {k:,}; {self.num_positives:,} "
            f"positives and {num_distractors:,} distractors"
        )
        if not self.num_unlisted and not self.num_absent:
            return words
        return (
            f"{words} ({self.num_unlisted:,} not listed; {self.num_absent:,} listed are in no file)"
        )


def open_inputs(
    queries: Sequence[epath.Path],
    positives: Sequence[epath.Path],
    distractors: Sequence[epath.Path],
    shortlist: IdList | None = None,
    normalize: bool = False,
) -> SearchInputs:
    """Opens the files and checks everything that can be seen without reading the vectors.

    Args:
        queries, positives, distractors: feature files (HDF5) or embedding files (.safetensors).
        shortlist: the distractors to search; None for all.
        normalize: whether vectors of feature files are divided by their L2 norm.

    Raises:
        UserError: a file is missing or of another layout, files differ in D or in their model, or
            an id comes twice.
    """
    sources = [
        [_open(path, normalize) for path in paths] for paths in (queries, positives, distractors)
    ]
    check_models(
        [each for source in part if isinstance(source, EmbeddingFiles) for each in source.headers]
        for part in sources
    )
    check_lengths(_shape_of(source) for part in sources for source in part)
    for role, part in (("query", sources[0]), ("database", sources[1] + sources[2])):
        if again := repeated_ids([source.ids for source in part]):
            raise UserError(f"{len(again):,} {role} ids come twice, first {', '.join(again[:3])}")
    for paths, part in ((queries, sources[0]), (positives, sources[1])):
        if not Concatenated(part).num_rows():
            raise UserError(f"no row to search in {', '.join(map(str, paths[:3]))}")
    kept, unlisted, absent = _select(sources[2], shortlist)
    if distractors and not Concatenated(kept).num_rows():
        raise UserError("no distractor is left to search; is the list of distractors theirs?")
    database = Concatenated([*sources[1], *kept])
    num_positives = Concatenated(sources[1]).num_rows()
    return SearchInputs(Concatenated(sources[0]), database, num_positives, unlisted, absent)


def _open(path: epath.Path, normalize: bool) -> FeatureFile | EmbeddingFiles:
    ours = path.suffix == ".safetensors"
    return EmbeddingFiles([path]) if ours else open_features(path, normalize)


def _shape_of(source: FeatureFile | EmbeddingFiles) -> tuple[epath.Path, int, int]:
    if isinstance(source, FeatureFile):
        return source.path, *source.shape
    return source.paths[0], source.num_rows(), source.dim


def _select(
    sources: Sequence[VectorSource], shortlist: IdList | None
) -> tuple[Sequence[VectorSource], int, int]:
    """The listed rows of the distractors, how many are not listed, and lines that fit none."""
    if shortlist is None:
        return sources, 0, 0
    found, unlisted = np.zeros(len(shortlist), bool), 0
    kept: list[VectorSource] = []
    for source in sources:
        lines = shortlist.find(source.ids())
        found[lines[lines >= 0]] = True
        unlisted += int(np.count_nonzero(lines < 0))
        kept.append(Selected(source, lines >= 0))
    return kept, unlisted, int(np.count_nonzero(~found))


def check_truth(inputs: SearchInputs, truth: GroundTruth) -> None:
    """Checks ids against the official lists; their order does not matter.

    Raises:
        UserError: a query is unknown, or the positives are not exactly those of the ground truth.
    """
    queries = {*inputs.queries.ids()} - {*truth.image_query_ids} - {*truth.text_query_ids}
    found = {*inputs.database.ids_at(np.arange(inputs.num_positives))}
    expected = {*truth.positive_ids}
    problems = [
        (queries, "queries are not in image_ids/"),
        (found - expected, "positives are not in image_ids/positive_ids.txt"),
        (expected - found, "positives of image_ids/positive_ids.txt are missing"),
    ]
    texts = [
        f"{len(ids)} {problem}, first {', '.join(sorted(ids)[:3])}"
        for ids, problem in problems
        if ids
    ]
    if texts:
        raise UserError("; ".join(texts))


def rank(
    inputs: SearchInputs,
    backend: Backend,
    k: int,
    apply: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Ranking:
    """Finds the k best rows of `inputs.database` of every query.

    `apply`, [n, D] -> [n, d] float32, such as a linear adapter, is applied to queries and database
    alike; None for vectors as they are.

    Raises:
        UserError: a row is not finite or not L2-normalised, a file is damaged, or texts are to be
            adapted.
    """
    queries: VectorSource = Checked(inputs.queries)
    database: VectorSource = inputs.database
    ids = tuple(queries.ids())
    if apply is not None:
        queries, database = Mapped(queries, apply), Mapped(Checked(database), apply)
        if texts := [name for name in ids if name.endswith(".txt")]:
            raise UserError(
                f"{len(texts)} queries are texts, first {texts[0]}; adapters are made for image "
                "queries: search for texts without one"
            )
    vectors = queries.vectors()  # the few rows first: most mistakes show in them
    scores, rows = backend.open(database, k).search(vectors)
    return Ranking(ids, rows, scores)
