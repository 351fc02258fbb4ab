"""The training list and its match with the rows of vectors."""

import numpy as np
import pytest

from ilias_jax.adaptation.train import classes_of, escape_path, read_training_list
from ilias_jax.errors import UserError


def _listed(folder, text: str):
    path = folder / "info.txt"
    path.write_text(text, encoding="utf-8")
    return read_training_list(path)


def test_a_class_is_the_pair_in_order_of_first_appearance(tmp_path):
    listed = _listed(tmp_path, "a/1.jpg,5,0\na/2.jpg,5,1\nb,c/3.jpg,0,1\na/4.jpg,5,0\n")
    assert listed.paths == ("a/1.jpg", "a/2.jpg", "b,c/3.jpg", "a/4.jpg")
    np.testing.assert_array_equal(listed.classes, [0, 1, 2, 0])
    assert listed.classes.dtype == np.int32
    assert listed.num_classes == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1,0\nb,1\n", r"info.txt line 2: 'b,1' is not path,class,domain with whole numbers"),
        ("a,-1,0\n", "line 1: 'a,-1,0' is not path,class,domain with whole numbers >= 0"),
        ("a,1,-1\n", "line 1: 'a,1,-1' is not path,class,domain with whole numbers >= 0"),
        ("a,1,x\n", "line 1: 'a,1,x' is not path,class,domain"),
        ("a,1,0\n\na,2,0\n", "line 3: 'a' comes twice"),
        ("a,1,0\na,2,0\n", "line 2: 'a' comes twice"),
        (",1,0\n", "line 1: ',1,0' is not path,class,domain"),
    ],
)
def test_lines_of_another_form_are_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        _listed(tmp_path, text)


def test_marks_ends_and_blanks_of_other_programs_are_read(tmp_path):
    found = _listed(tmp_path, "\ufeff a , 1 , 0 \r\n\r\nb,2,0\r\n")
    assert found.paths == ("a", "b") and found.classes.tolist() == [0, 1]


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match="none.txt: no such file; it has lines path,class,domain"):
        read_training_list(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b c,d.jpg", "a/b c,d.jpg"),
        ("it's.jpg", "it's.jpg"),
        ("café.jpg", "caf#U00e9.jpg"),
        ("中.jpg", "#U4e2d.jpg"),
        ("a\U0001f600b", r"a\\U0001f600b"),
        ("back\\slash", r"back\\\\slash"),
        ("tab\t", r"tab\\t"),
    ],
)
def test_paths_are_escaped_as_the_official_extraction_does(path, expected):
    assert escape_path(path) == expected


def test_rows_find_their_class_by_id_in_any_order(tmp_path):
    listed = _listed(tmp_path, "a,7,0\ncafé,7,1\nc,8,1\n")
    np.testing.assert_array_equal(classes_of(listed, ["a", "café", "c"], "f"), [0, 1, 2])
    np.testing.assert_array_equal(classes_of(listed, ["c", "a", "caf#U00e9"], "f"), [2, 0, 1])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            ["a", "x", "y"],
            r"f.hdf5: 2 of 3 ids are not in .*info.txt, first row 1: 'x'; line 2 of the list is 'b'",
        ),
        (["a", "b", "c", "d"], "first row 3: 'd'; line 4 of the list is not there"),
        (["a", "b"], "1 of 3 paths of .*info.txt have no row in f.hdf5, first line 3: 'c'"),
        (["a", "b", "b", "c"], "1 of 3 paths of .* come more than once in f.hdf5, .* line 2: 'b'"),
    ],
)
def test_rows_and_lines_that_do_not_fit_are_refused(tmp_path, ids, message):
    listed = _listed(tmp_path, "a,0,0\nb,1,0\nc,2,0\n")
    with pytest.raises(UserError, match=message):
        classes_of(listed, ids, "f.hdf5")
