"""`ilias-jax texts`: a model's text tower alone, its embeddings as an official feature file."""

import argparse
from typing import TYPE_CHECKING

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from etils import epath


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "texts",
        help="embed the text queries alone, for models whose images are embedded elsewhere",
        usage="ilias-jax texts --config FILE[:ARGUMENT] [--config.KEY=VALUE ...] --output FILE",
        description="Embeds the text queries of the recipe's dataset by the text tower of its "
        "model and writes an official feature file, for `ilias-jax search --queries`.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=path_flag, help="the recipe, as for main.py")
    parser.add_argument(
        "--output", type=path_flag, required=True, help="feature file to write, .hdf5"
    )
    parser.set_defaults(run=run, rest=[])


def run(arguments: argparse.Namespace) -> None:
    import dataclasses

    from etils import epath

    from ilias_jax.benchmark import find_inputs
    from ilias_jax.config import read_words
    from ilias_jax.dataset.check import check_core, check_texts
    from ilias_jax.dataset.ground_truth import read_ground_truth
    from ilias_jax.dataset.reader import open_dataset
    from ilias_jax.embeddings.embedder import embed_tokens, place_parameters
    from ilias_jax.mesh import make_mesh
    from ilias_jax.models.load import load_text_model
    from ilias_jax.models.registry.registry import ResolvedModel, text_alone
    from ilias_jax.official.features import write_features

    given = [] if arguments.config is None else [f"--config={arguments.config}"]
    config = read_words("ilias-jax texts", [*given, *arguments.rest])
    if config.model.factory:
        raise UserError(
            f"model.factory={config.model.factory}: this command runs the models of the table "
            "(`ilias-jax models`); a run of main.py embeds the texts of your own"
        )
    config = dataclasses.replace(config, model=text_alone(config.model))
    output, dataset = epath.Path(arguments.output), open_dataset(config.dataset)
    _check_output(output, ())
    mesh = make_mesh(config.mesh.model_partitions)
    _, resolved = find_inputs(config, needs_images=False)
    assert isinstance(resolved, ResolvedModel)  # no factory, no model of the caller's
    _check_output(output, resolved.files.values())
    check_texts(dataset, allowed=())
    check_core(dataset, read_ground_truth(dataset.data_dir))
    model = load_text_model(resolved)
    queries = dataset.text_queries()
    ids = [query.query_id for query in queries]
    vectors = embed_tokens(
        model.embed_texts,
        place_parameters(model.parameters, mesh),
        mesh,
        config.embed.batch_size_per_device,
        model.tokenize([query.text for query in queries]),
        ids,
    )
    write_features(output, ids, vectors.astype(config.embed.storage_dtype))
    print(f"{output}: {len(ids):,} texts, {vectors.shape[1]} channels")
    facts = {**model.fingerprint, "checkpoint": model.checkpoint, **model.origin}
    for name, value in facts.items():
        print(f"  {name}: {value}")


def _check_output(path: "epath.Path", inputs: "Iterable[epath.Path]") -> None:
    from ilias_jax.files import check_output

    if path.suffix != ".hdf5":
        raise UserError(f"--output {path}: an official feature file is named FILE.hdf5")
    check_output(path, inputs)
