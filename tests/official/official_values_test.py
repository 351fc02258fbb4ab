"""`evaluate_files` against numbers that the official evaluator printed (make_official_values)."""

import json
import pathlib
from typing import Any

import official_cases
import pytest
from official_cases import CASES, Case

from ilias_jax.official.evaluate import evaluate_files

VALUES = json.loads(
    (pathlib.Path(__file__).parents[1] / "data" / "official_values.json").read_text()
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("official") / "world"
    official_cases.write_ids(folder)
    return folder


def differences(found: Any, wanted: Any) -> float:
    """The largest difference; keys, queries and lengths must be the same."""
    if isinstance(wanted, dict):
        assert set(found) == set(wanted)
        return max(differences(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        return max(differences(*pair) for pair in zip(found, wanted, strict=True))
    if isinstance(wanted, str):
        assert found == wanted
        return 0.0
    return abs(found - wanted)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_official_evaluator(case: Case, world: pathlib.Path) -> None:
    path, digest = official_cases.write_lists(case, world)
    official = dict(VALUES[case.name])
    assert official.pop("sha256") == digest, "other input than the official evaluator was given"
    found = evaluate_files([path], world, k=case.k, allowed=case.allowed)
    assert differences({key: found.to_dict()[key] for key in official}, official) < 1e-10
    assert found.scores[case.kind].num_ambiguous == 0


def test_the_cases_cover_what_can_go_wrong() -> None:
    """Values that would not show a bug prove nothing."""
    assert {(case.kind, case.suffix, case.k) for case in CASES} == {
        (kind, suffix, k)
        for kind in ("image", "text")
        for suffix in (".json", ".pkl")
        for k in (50, 1000)
    }
    aps = [ap for values in VALUES.values() for ap in values["aps"]]
    assert aps.count(0.0) > 10 and max(aps) > 80
    assert any(values["oracle"] > 100 for values in VALUES.values()), "no inflated oracle"
    assert all(len(values["scale"]) == len(values["clutter"]) == 4 for values in VALUES.values())
    assert all(
        len(values["subcategories"]) > len(values["categories"]) for values in VALUES.values()
    )
