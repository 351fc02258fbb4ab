"""`ilias-jax tune`: lambda and gamma of a re-ranking, on a dataset that is not ILIAS."""

import argparse
from typing import TYPE_CHECKING, NamedTuple

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError

if TYPE_CHECKING:
    from etils import epath

    from ilias_jax.dataset.ground_truth import GroundTruth

_WEIGHTS = tuple(step / 20 for step in range(21))
_TEMPERATURES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.5, 3.0, 6.0, 12.0)


class Setting(NamedTuple):
    """A choice and what it gives, mAP in percent."""

    map: float
    similarity_weight: float
    temperature: float


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "tune", help="choose lambda and gamma of a re-ranking on another dataset than ILIAS"
    )
    parser.add_argument(
        "--workdir", type=path_flag, required=True, help="of a finished run that re-ranked"
    )
    parser.add_argument(
        "--ids", type=path_flag, required=True, metavar="DIR", help="folder that holds image_ids/"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax.dataset.ground_truth import read_ground_truth
    from ilias_jax.files import read_json
    from ilias_jax.metrics.compare import find_report

    truth = read_ground_truth(epath.Path(arguments.ids))
    _refuse_official(truth)
    workdir = epath.Path(arguments.workdir)
    report = read_json(find_report(workdir), "expected the report of a run")
    if not report.get("rerank"):
        raise UserError(f"{workdir} holds no re-ranking; run it with rerank.method first")
    dataset, k = report["dataset"], int(report["search"]["k"])
    facts, num_database = report["rerank"], dataset["num_positives"] + dataset["num_distractors"]
    has_sigmoid = facts.get("temperature") is not None
    found = settings(workdir, truth, k, num_database, has_sigmoid)
    before = facts["difference"]["map"]["a"]
    print(f"mAP@{k} {before:.2f} before; with rerank.similarity_weight, rerank.temperature:")
    for one in found[:5]:
        print(f"  {one.map:.2f}  {one.similarity_weight:g}, {one.temperature:g}")


def _refuse_official(truth: "GroundTruth") -> None:
    """Numbers that were tuned on ILIAS's own labels are no results on it."""
    from ilias_jax.dataset.layout import OFFICIAL_CORE

    sizes = {"image_query": len(truth.image_query_ids), "positive": len(truth.positive_ids)}
    if any(sizes[name] == OFFICIAL_CORE[name] for name in sizes):
        raise UserError(
            "--ids: these are the labels of ILIAS, on which nothing may be tuned; take another "
            "dataset, such as a miniature world (`ilias-jax world`)"
        )


def settings(
    workdir: "epath.Path", truth: "GroundTruth", k: int, num_database: int, has_sigmoid: bool
) -> list[Setting]:
    """All choices, the best first; without a sigmoid the method's own score is one more."""
    from ilias_jax.files import read_npz
    from ilias_jax.metrics import evaluate
    from ilias_jax.rerank.local import Combination
    from ilias_jax.rerank.order import reorder
    from ilias_jax.search.ranking import Ranking

    ranking = Ranking.load(workdir / "rankings" / "image_to_image.npz")
    scores = read_npz(workdir / "rerank" / "scores.npz")["scores"]
    similarities = ranking.scores[:, : scores.shape[1]]
    temperatures = _TEMPERATURES if has_sigmoid else (0.0, *_TEMPERATURES)
    found = []
    for weight in _WEIGHTS:
        for temperature in temperatures:
            combined = Combination(weight, temperature or None)(similarities, scores)
            metrics = evaluate(reorder(ranking, combined), truth, k, num_database, 40)
            found.append(Setting(metrics.map, weight, temperature))
    return sorted(found, key=lambda one: -one.map)
