"""Names of feature files: templates, wildcards, numeric order."""

import pytest

from ilias_jax.errors import UserError
from ilias_jax.official.paths import feature_paths


def _touch(folder, *names):
    for name in names:
        (folder / name).touch()


def _names(paths):
    return [path.name for path in paths]


def test_a_template_is_all_of_its_files_in_order(tmp_path):
    _touch(tmp_path, *(f"d_{i:05d}.hdf5" for i in (2, 0, 1)), "d_x.hdf5", "d_00009.hdf5.tmp")
    template = f"{tmp_path}/d_{{idx}}.hdf5"
    assert _names(feature_paths([template])) == ["d_00000.hdf5", "d_00001.hdf5", "d_00002.hdf5"]
    assert _names(feature_paths([template], 2)) == ["d_00000.hdf5", "d_00001.hdf5"]


def test_a_gap_is_no_smaller_database(tmp_path):
    _touch(tmp_path, "d_00000.hdf5", "d_00003.hdf5")
    template = f"{tmp_path}/d_{{idx}}.hdf5"
    with pytest.raises(
        UserError, match=r"2 of the 4 files of .*d_\{idx\}.*.*d_00001\.hdf5.*smaller"
    ):
        feature_paths([template])
    with pytest.raises(UserError, match="1 of the 2 files"):
        feature_paths([template], 2)
    with pytest.raises(UserError, match="1 of the 1 files"):
        feature_paths([f"{tmp_path}/none_{{idx}}.hdf5"])


def test_wildcards_and_lists(tmp_path):
    _touch(tmp_path, "f10.h5", "f2.h5", "f1.h5", "g.h5")
    assert _names(feature_paths([f"{tmp_path}/f*.h5"])) == ["f1.h5", "f2.h5", "f10.h5"]
    both = feature_paths([f"{tmp_path}/g.h5", f"{tmp_path}/f?.h5"])
    assert _names(both) == ["g.h5", "f1.h5", "f2.h5"]


@pytest.mark.parametrize(
    ("words", "total", "message"),
    [
        (["none.h5"], None, "none.h5: no such file"),
        (["x*.h5"], None, r"x\*.h5: no such file; wildcards may stand in the file's name alone"),
        (["g.h5", "g.h5"], None, "named more than once: .*g.h5"),
        (["g.h5"], 3, r"--total_distractors 3 goes with one template such as .*\{idx\}"),
        (["g_{idx}.h5"], 0, "--total_distractors 0 .* is at least 1"),
        ([], 2, "--total_distractors 2 goes with one template"),
        (["{idx}/g_{idx}.h5"], None, r"\{idx\} stands once, in the file's name"),
    ],
)
def test_messages(tmp_path, monkeypatch, words, total, message):
    monkeypatch.chdir(tmp_path)
    _touch(tmp_path, "g.h5")
    with pytest.raises(UserError, match=message):
        feature_paths(words, total)
