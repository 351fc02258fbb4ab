"""The official label files: reading them, and the place and value of what is wrong in them."""

import json
import pathlib

import numpy as np
import pytest

from ilias_jax.dataset.ground_truth import read_ground_truth
from ilias_jax.dataset.id_lists import object_of
from ilias_jax.errors import UserError

FILES = {
    "image_ids/image_query_ids.txt": "b/query/Q0.jpg,own,cc\na/query/Q1.jpg,web,cc\n",
    "image_ids/text_query_ids.txt": "a/query/T0.txt\n\nb/query/T1.txt\n",
    "image_ids/positive_ids.txt": "b/pos/P7.jpg,0.25,3\na/pos/P0.jpg,1,40\na/pos/P1.jpg,1e-3,0\n",
    "misc/taxonomy.json": json.dumps({"art": {"vase": {"red": ["a"], "blue": ["b", "unused"]}}}),
}


def write(folder: pathlib.Path, **changes: str | None) -> pathlib.Path:
    """Writes the official layout; `changes` are stem -> other text, None for no file."""
    for name, valid in FILES.items():
        path = folder / name
        text = changes.get(path.stem, valid)
        path.parent.mkdir(exist_ok=True)
        if text is not None:
            path.write_bytes(text.encode())
    return folder


def test_reads_the_official_layout_in_file_order(tmp_path: pathlib.Path) -> None:
    truth = read_ground_truth(str(write(tmp_path)))
    assert truth.image_query_ids == ("b/query/Q0.jpg", "a/query/Q1.jpg")
    assert truth.text_query_ids == ("a/query/T0.txt", "b/query/T1.txt")
    assert truth.positive_ids == ("b/pos/P7.jpg", "a/pos/P0.jpg", "a/pos/P1.jpg")
    assert truth.scale.dtype == np.float64 and truth.scale.tolist() == [0.25, 1.0, 1e-3]
    assert truth.clutter.dtype == np.int32 and truth.clutter.tolist() == [3, 40, 0]
    assert truth.taxonomy["b"] == ("art", "vase", "blue")


def test_reads_windows_line_ends_and_spaces(tmp_path: pathlib.Path) -> None:
    truth = read_ground_truth(
        write(tmp_path, positive_ids="a/pos/P0.jpg, 0.5 , 7\r\nb/pos/P0.jpg,0.5,8\r\n")
    )
    assert truth.positive_ids[0] == "a/pos/P0.jpg" and truth.clutter.tolist() == [7, 8]


@pytest.mark.parametrize(
    ("stem", "text", "message"),
    [
        (
            "positive_ids",
            "b/pos/P.jpg,0.2,3\na/pos/P.jpg,0.2\n",
            r"2: 2 columns .*id,scale,clutter",
        ),
        ("positive_ids", "\nb/pos/P.jpg,big,3\n", r"line 2: scale is 'big'; expected a number"),
        ("positive_ids", "b/pos/P.jpg,nan,3\n", r"line 1: scale is 'nan'; expected a number"),
        ("positive_ids", "b/pos/P.jpg,-0.1,3\n", r"line 1: scale is '-0.1'"),
        ("positive_ids", "b/pos/P.jpg,0.1,2.5\n", r"clutter is '2.5'; expected an integer >= 0"),
        ("positive_ids", "b/pos/P.jpg,0.1,-1\n", r"clutter is '-1'"),
        ("positive_ids", "b/pos/P.jpg,0.1,99999999999\n", r"clutter is '99999999999'"),
        ("positive_ids", "b/p,0.1,1\nb/p,0.1,1\n", r"line 2: 'b/p' is repeated, first at .*line 1"),
        ("positive_ids", "P.jpg,0.1,1\n", r"line 1: id 'P.jpg' has no object"),
        ("positive_ids", "", r"positive_ids.txt: no id in the file"),
        ("positive_ids", None, r"positive_ids.txt: no such file"),
        (
            "image_query_ids",
            "a/q,x\nb/q,x\na/q,y\n",
            r"line 3: 'a/q' is repeated, first at .*line 1",
        ),
        (
            "image_query_ids",
            "a/q,x\nc/q,x\n",
            r"image_query_ids.txt, line 2: .*'c' has no positive",
        ),
        ("text_query_ids", "a/T0.txt\nc/T1.txt\n", r"text_query_ids.txt, line 2: .*no positive"),
        ("text_query_ids", "a/T0.txt,1\n", r"text_query_ids.txt, line 1: 2 columns .*expected id"),
        ("text_query_ids", "/T0.txt\n", r"line 1: id '/T0.txt' has no object"),
        ("text_query_ids", "b/query/Q0.jpg\n", r"text.*line 1: .* is an image query too .*line 1"),
        ("taxonomy", '{"art": {"vase": {"x": ["b"]}}}', r"ids.txt, line 2: .*not in the taxonomy"),
        ("taxonomy", '{"art": {"v": {"x": ["b", "a"], "y": ["a"]}}}', r"'a' is under .* and under"),
        ("taxonomy", '{"art": ', r"taxonomy.json, line 1, .*broken JSON .*coarse -> mid"),
        ("taxonomy", '{"art": ' * 100_000, r"taxonomy.json: JSON that is nested too deeply"),
        ("taxonomy", '{"art": ["a", "b"]}', r"taxonomy.json: not a taxonomy"),
        ("taxonomy", None, r"taxonomy.json: no such file"),
    ],
)
def test_errors_name_the_place_and_the_value(
    tmp_path: pathlib.Path, stem: str, text: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_ground_truth(write(tmp_path, **{stem: text}))


def test_object_of() -> None:
    assert object_of("bold_bimp_000/pos/P000_07.jpg") == "bold_bimp_000"
    for bad in ("P000_07.jpg", "/pos/P000_07.jpg", ""):
        with pytest.raises(ValueError, match="has no object"):
            object_of(bad)


def test_a_file_that_is_no_text_is_named(tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    path = tmp_path / "image_ids" / "positive_ids.txt"
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    with pytest.raises(UserError, match=f"{path}: not UTF-8 text"):
        read_ground_truth(tmp_path)
