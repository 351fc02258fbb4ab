"""`ilias-jax rerank`: a new order of the first entries of similarity files of any program."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError

if TYPE_CHECKING:
    from ilias_jax.search.ranking import Ranking


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("rerank", help="re-rank similarity files of any program")
    similarities = "result to re-rank, JSON or pickle, or its parts"
    parser.add_argument(
        "--similarities", type=path_flag, nargs="+", required=True, help=similarities
    )
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
    parser.add_argument(
        "--mix",
        type=path_flag,
        metavar="PAIRS.json",
        help="mix with scores of re-ranked pairs {query: {database id: score}} instead; lambda is "
        "0.5 by default",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax.official.export import check_ranking_output, write_ranking
    from ilias_jax.official.rerank import mix, to_ranking
    from ilias_jax.official.similarities import read_similarities

    given = [*arguments.queries, *arguments.database, *arguments.query_ids]
    others = [arguments.weights, arguments.mix, *arguments.database_ids]
    output = epath.Path(arguments.output)
    check_ranking_output(output, filter(None, [*arguments.similarities, *given, *others]))
    if bool(arguments.method) == bool(arguments.mix):
        raise UserError("give --method to compare images, or --mix to mix with scores of pairs")
    lists = read_similarities(arguments.similarities)
    if arguments.mix:
        weight = 0.5 if arguments.similarity_weight < 0 else arguments.similarity_weight
        ranking = mix(lists, read_similarities([arguments.mix]), weight)
        words = f"mixed with {arguments.mix}, weight of similarities {weight:g}"
    else:
        ranking, words = _compare(arguments, to_ranking(lists), lists.database_ids)
    names = lists.database_ids
    write_ranking(output, ranking, lambda rows: [names[row] for row in rows])
    print(f"{output}: {len(ranking.query_ids):,} lists of {ranking.indices.shape[1]:,}; {words}")


def _compare(
    arguments: argparse.Namespace, ranking: "Ranking", names: Sequence[str]
) -> tuple["Ranking", str]:
    """The lists in their new order, and what was done."""
    from ilias_jax.config import RerankConfig
    from ilias_jax.mesh import make_mesh
    from ilias_jax.official.features import feature_paths
    from ilias_jax.official.rerank import check_length, open_source, rerank_lists
    from ilias_jax.rerank.reranker import RERANKERS, LocalReranker, check_method

    config = RerankConfig(
        method=arguments.method,
        shortlist=arguments.shortlist,
        weights=arguments.weights or "",
        similarity_weight=arguments.similarity_weight,
        temperature=arguments.temperature,
    )
    check_method(config.method)
    check_length(ranking, config.shortlist)
    for name in ("queries", "database"):
        if not getattr(arguments, name):
            raise UserError(f"--method {config.method} needs --{name}: files of what it compares")
    reranker = RERANKERS[config.method].create(config, make_mesh())
    usual = 0
    if reranker.inputs == "descriptors":
        usual = cast(LocalReranker, reranker).usual.num_descriptors
    counts = [getattr(arguments, f"{side}_descriptors") or usual for side in ("query", "database")]
    sources = []
    for side, count in zip(("query", "database"), counts, strict=True):
        paths = feature_paths(arguments.queries if side == "query" else arguments.database)
        ids = feature_paths(getattr(arguments, f"{side}_ids"))
        sources.append(open_source(paths, ids, reranker, count, side == "query"))
    found = rerank_lists(ranking, names, config.shortlist, reranker, *sources)
    facts = {"method": config.method, "shortlist": config.shortlist, **reranker.facts()}
    if usual:
        facts |= {"query_descriptors": counts[0], "database_descriptors": counts[1]}
    return found, ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
