"""`ilias-jax rerank`: a new order of the first entries of similarity files of any program."""

import argparse
import os
from typing import TYPE_CHECKING, cast

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etils import epath

    from ilias_jax.config import RerankConfig
    from ilias_jax.metrics.lists import SimilarityLists
    from ilias_jax.official.rerank import Source
    from ilias_jax.rerank.reranker import Reranker
    from ilias_jax.search.ranking import Ranking

_SIDES = ("query", "database")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("rerank", help="re-rank similarity files of any program")
    similarities = "result to re-rank, JSON or pickle, or its parts"
    parser.add_argument("--similarities", type=path_flag, nargs="+", default=[], help=similarities)
    rows = "instead: rows of nearest neighbours, npz, HDF5 or AMES's nn_*.pkl"
    parser.add_argument("--neighbours", type=path_flag, help=rows)
    parser.add_argument(
        "--output", type=path_flag, required=True, help="similarity file, .json or .pkl"
    )
    parser.add_argument("--method", default="", help="one of those of rerank.method")
    several = "descriptors of AMES's or ELViS's layout, or official feature files of vectors"
    parser.add_argument("--queries", type=path_flag, nargs="+", default=[], help=several)
    parser.add_argument("--database", type=path_flag, nargs="+", default=[], help="likewise")
    names = "text files that name the rows of each, if the files do not"
    parser.add_argument("--query_ids", type=path_flag, nargs="+", default=[], help=names)
    parser.add_argument("--database_ids", type=path_flag, nargs="+", default=[], help="likewise")
    parser.add_argument("--weights", type=path_flag, help="of the method")
    parser.add_argument("--shortlist", type=int, default=1000, help="entries to re-rank, M")
    parser.add_argument("--query_descriptors", type=int, default=0, help="of an image, at most")
    parser.add_argument("--database_descriptors", type=int, default=0, help="likewise")
    parser.add_argument("--similarity_weight", type=float, default=-1.0, help="lambda")
    parser.add_argument("--temperature", type=float, default=0.0, help="gamma")
    scores = "also write the method's own scores of the pairs, .json or .pkl"
    parser.add_argument("--scores", type=path_flag, help=scores)
    parser.add_argument(
        "--mix",
        type=path_flag,
        metavar="PAIRS.json",
        help="mix with scores of re-ranked pairs {query: {database id: score}} instead; lambda is "
        "0.5 by default",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from ilias_jax.config import RerankConfig

    if bool(arguments.method) == bool(arguments.mix):
        raise UserError("give --method to compare images, or --mix to mix with scores of pairs")
    if bool(arguments.similarities) == bool(arguments.neighbours):
        raise UserError("give --similarities or --neighbours: the lists to re-rank")
    config = RerankConfig(
        method=arguments.method,
        shortlist=arguments.shortlist,
        weights=arguments.weights or "",
        query_descriptors=arguments.query_descriptors,
        database_descriptors=arguments.database_descriptors,
        similarity_weight=arguments.similarity_weight,
        temperature=arguments.temperature,
    )
    _check_outputs(arguments)
    if arguments.mix:
        _mix(arguments, config)
    else:
        _compare(arguments, config)


def _check_outputs(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax.official.export import check_ranking_output

    inputs = [*arguments.similarities, arguments.neighbours, arguments.weights, arguments.mix]
    inputs += [*arguments.queries, *arguments.database]
    inputs += [*arguments.query_ids, *arguments.database_ids]
    for output in filter(None, (arguments.output, arguments.scores)):
        check_ranking_output(epath.Path(output), filter(None, inputs))
    if arguments.scores and len({*map(os.path.realpath, (arguments.output, arguments.scores))}) < 2:
        raise UserError(f"--scores {arguments.scores} is --output too; name another")


def _mix(arguments: argparse.Namespace, config: "RerankConfig") -> None:
    from ilias_jax.official.mixture import USUAL_WEIGHT, mix
    from ilias_jax.official.similarities import read_similarities

    flags = ["neighbours", "queries", "database", "query_ids", "database_ids", "weights", "scores"]
    flags += ["query_descriptors", "database_descriptors", "temperature"]
    if given := [name for name in flags if getattr(arguments, name)]:
        raise UserError(f"--mix compares no images; leave --{', --'.join(given)}")
    lists = read_similarities(arguments.similarities)
    weight = USUAL_WEIGHT if config.similarity_weight < 0 else config.similarity_weight
    mixture = mix(lists, read_similarities([arguments.mix]), weight, arguments.mix)
    words = f"mixed with {arguments.mix}, similarity_weight {weight:g}: {mixture.describe()}"
    _write(arguments.output, mixture.ranking, lists.database_ids, words)


def _compare(arguments: argparse.Namespace, config: "RerankConfig") -> None:
    from ilias_jax.mesh import make_mesh
    from ilias_jax.official.mixture import pairs_of, to_ranking
    from ilias_jax.official.rerank import open_sources, score_lists
    from ilias_jax.rerank.order import check_shortlist, reorder
    from ilias_jax.rerank.reranker import RERANKERS, LocalReranker, check_method

    check_method(config.method)
    queries, database = _files(arguments, "queries"), _files(arguments, "database")
    ids = _files(arguments, "query_ids"), _files(arguments, "database_ids")
    reranker = RERANKERS[config.method].create(config, make_mesh())
    local = reranker.inputs == "descriptors"
    usual = cast(LocalReranker, reranker).usual.num_descriptors if local else 0
    counts = config.query_descriptors or usual, config.database_descriptors or usual
    sources = open_sources(queries, database, ids, reranker, counts)
    lists = _read_lists(arguments, *sources)
    ranking, names, length = to_ranking(lists), lists.database_ids, config.shortlist
    check_shortlist(length, ranking.indices.shape[1])
    scores = score_lists(ranking, names, length, reranker, *sources)
    found = reorder(ranking, reranker.combine(ranking.scores[:, :length], scores))
    facts = _facts(config, reranker, counts if local else None)
    _write(arguments.output, found, names, f"{scores.size:,} pairs re-ranked: {facts}")
    if arguments.scores:
        words = f"scores of {config.method} alone"
        _write(arguments.scores, pairs_of(ranking, scores), names, words)


def _files(arguments: argparse.Namespace, name: str) -> "list[epath.Path]":
    from ilias_jax.official.features import feature_paths

    words = getattr(arguments, name)
    if not words and name in ("queries", "database"):
        raise UserError(f"--method {arguments.method} needs --{name}: files of what it compares")
    return feature_paths(words)


def _read_lists(
    arguments: argparse.Namespace, queries: "Source", database: "Source"
) -> "SimilarityLists":
    from etils import epath

    from ilias_jax.official.neighbours import read_neighbours
    from ilias_jax.official.rerank import names_at
    from ilias_jax.official.similarities import read_similarities

    if arguments.similarities:
        return read_similarities(arguments.similarities)
    found = read_neighbours(epath.Path(arguments.neighbours))
    own, names = found.query_ids, found.database_ids
    query_ids = own or [name for part in queries.parts() for name in part()]
    if names is not None:
        return found.to_lists(query_ids, lambda rows: [names[row] for row in rows], len(names))
    return found.to_lists(query_ids, lambda rows: names_at(database, rows), database.num_rows)


def _facts(config: "RerankConfig", reranker: "Reranker", counts: tuple[int, int] | None) -> str:
    facts: dict[str, object] = {"method": config.method, "shortlist": config.shortlist}
    if counts:
        facts |= {f"{side}_descriptors": n for side, n in zip(_SIDES, counts, strict=True)}
    facts |= reranker.facts()
    return ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)


def _write(output: str, ranking: "Ranking", names: "Sequence[str]", words: str) -> None:
    from etils import epath

    from ilias_jax.official.export import write_ranking

    write_ranking(epath.Path(output), ranking, lambda rows: [names[row] for row in rows])
    num_queries, length = ranking.indices.shape
    print(f"{output}: {num_queries:,} lists of {length:,}; {words}")
