"""`ilias-jax search`: ranks a database of feature files for queries of feature files."""

import argparse

from ilias_jax.config import path_flag


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("search", help="search official feature files, or embeddings")
    several = "HDF5 or .safetensors; several names or wildcards are read in numeric order"
    parser.add_argument("--queries", type=path_flag, nargs="+", required=True, help=several)
    parser.add_argument("--positives", type=path_flag, nargs="+", required=True, help="likewise")
    parser.add_argument(
        "--distractors",
        type=path_flag,
        nargs="+",
        default=[],
        help="likewise, or a template with {idx}",
    )
    parser.add_argument("--total_distractors", type=int, help="files of the template, if not all")
    parser.add_argument(
        "--output", type=path_flag, required=True, help="similarity file, .json or .pkl"
    )
    parser.add_argument("--k", type=int, default=1000, help="length of the lists")
    parser.add_argument("--selected_ids", type=path_flag, help="list of the distractors to search")
    parser.add_argument("--adapter", type=path_flag, help="linear adapter for queries and database")
    parser.add_argument(
        "--ids", type=path_flag, help="folder with image_ids/ and misc/, to check the ids against"
    )
    parser.add_argument("--normalize", action="store_true", help="divide HDF5 rows by their norm")
    parser.add_argument("--backend", default="exact", help="exact (the default) or scann")
    parser.add_argument(
        "--block_rows", type=int, default=16384, help="database rows on a device, at most"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax.config import SearchConfig
    from ilias_jax.dataset import layout
    from ilias_jax.dataset.ground_truth import read_ground_truth
    from ilias_jax.dataset.id_lists import read_id_list
    from ilias_jax.mesh import make_mesh
    from ilias_jax.official import search
    from ilias_jax.official.export import check_ranking_output, write_ranking
    from ilias_jax.official.features import feature_paths
    from ilias_jax.search.adapter import read_adapter
    from ilias_jax.search.backends import BACKENDS, check_backend
    from ilias_jax.search.ranking import warn_of_cut

    config = SearchConfig(arguments.backend, arguments.k, arguments.block_rows)
    check_backend(config.backend)
    output, selected = epath.Path(arguments.output), arguments.selected_ids
    queries, positives = feature_paths(arguments.queries), feature_paths(arguments.positives)
    distractors = feature_paths(arguments.distractors, arguments.total_distractors)
    others = [
        selected,
        arguments.adapter,
        *(layout.folders(arguments.ids) if arguments.ids else ()),
    ]
    check_ranking_output(output, filter(None, [*queries, *positives, *distractors, *others]))
    apply = read_adapter(arguments.adapter).apply if arguments.adapter else None
    inputs = search.open_inputs(
        queries,
        positives,
        distractors,
        read_id_list(epath.Path(selected)) if selected else None,
        arguments.normalize,
    )
    if arguments.ids:
        search.check_truth(inputs, read_ground_truth(arguments.ids))
    backend = BACKENDS[config.backend].create(
        config, mesh=make_mesh(), folder=None, origin="", shared=False, any_length=False
    )
    warn_of_cut(config.k, inputs.database.num_rows())
    ranking = search.rank(inputs, backend, config.k, apply)
    write_ranking(output, ranking, inputs.database.ids_at)
    print(f"{output}: {inputs.describe(ranking.indices.shape[1])}")
