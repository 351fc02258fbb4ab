"""write_report: three whole files, finite numbers only."""

import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import pytest
import report_fixture

from ilias_jax.errors import UserError
from ilias_jax.report.render import to_plain, write_report

FILES = ["index.html", "report.json", "report.md"]


def test_writes_three_files_and_nothing_else(tmp_path: pathlib.Path) -> None:
    write_report(tmp_path / "new" / "run", report_fixture.document(), [])
    assert sorted(os.listdir(tmp_path / "new" / "run")) == FILES


def test_json_holds_the_document_unchanged(tmp_path: pathlib.Path) -> None:
    document = report_fixture.document()
    write_report(tmp_path, document, [])
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored == json.loads(json.dumps(document))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(
    tmp_path: pathlib.Path, bad: float
) -> None:
    document = report_fixture.document()
    document["results"]["text_to_image"]["categories"]["toy"] = bad
    with pytest.raises(ValueError, match=r"document\.results\.text_to_image\.categories\.toy"):
        write_report(tmp_path, document, [])
    assert os.listdir(tmp_path) == []


def test_a_bad_number_in_a_list_or_array_is_named() -> None:
    with pytest.raises(ValueError, match=r"document\.a\[1\]"):
        to_plain({"a": np.array([1.0, np.inf])})


def test_numpy_values_become_plain_ones() -> None:
    plain = to_plain({"a": np.float32(0.5), "b": np.int64(3), "c": np.arange(2), "d": (True, None)})
    assert plain == {"a": 0.5, "b": 3, "c": [0, 1], "d": [True, None]}
    assert json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize("bad", [{1: "a"}, {"a": {"b": {1, 2}}}, {"a": b"bytes"}])
def test_a_value_without_json_form_is_refused(bad: dict[Any, Any]) -> None:
    with pytest.raises(TypeError, match="document"):
        to_plain(bad)


def test_an_unknown_result_is_refused(tmp_path: pathlib.Path) -> None:
    document = report_fixture.document()
    document["results"]["average"] = document["results"]["text_to_image"]
    with pytest.raises(ValueError, match="average.*image_to_image, .*text_to_image"):
        write_report(tmp_path, document, [])


def test_a_file_is_replaced_not_overwritten_in_place(tmp_path: pathlib.Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("old")
    os.link(old, tmp_path / "report.json")
    write_report(tmp_path, report_fixture.document(), [])
    assert old.read_text() == "old"
    assert (tmp_path / "report.json").read_text() != "old"


def test_a_failed_write_leaves_no_temporary_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "index.html").mkdir()
    with pytest.raises(UserError, match=r"index\.html is a folder"):
        write_report(tmp_path, report_fixture.document(), [])
    assert sorted(os.listdir(tmp_path)) == FILES


def test_the_same_run_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name, report_fixture.document(), report_fixture.gallery(1, 4))
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
