"""Finding the published forms below a folder: which is taken, and what is missing."""

import shutil

import pytest
from official_forms import core_tar, huggingface_tars

from ilias_jax.dataset.core_files import CoreFolder, CoreTars
from ilias_jax.dataset.inputs import find_inputs
from ilias_jax.errors import UserError


@pytest.fixture
def root(small_world, tmp_path):
    for name in ("ilias_core", "yfcc100m"):
        shutil.copytree(small_world / name, tmp_path / "root" / name)
    return tmp_path / "root"


def test_the_folder_and_the_yfcc_tars_are_found_without_a_note(root):
    found = find_inputs(root)
    assert found.core == CoreFolder(root / "ilias_core")
    assert [path.name for path in found.tars] == [f"world_00{i}.tar" for i in range(3)]
    assert not found.notes


def test_of_several_forms_one_is_taken_and_said(small_world, root):
    core_tar(root)
    hugging_face = huggingface_tars(small_world, root)
    found = find_inputs(root)
    assert found.core == CoreTars((root / "ilias_core.tar",))
    assert found.tars[0].name == "world_000.tar"
    assert found.notes == (
        f"core: takes {root / 'ilias_core.tar'}, not {root / 'ilias_core'} and 2 tars like "
        f"{hugging_face[1]} (--core names another)",
        f"distractors: takes 3 tars like {root / 'yfcc100m' / 'world_000.tar'}, not 2 tars like "
        f"{hugging_face[2]} (--distractors names another)",
    )


def test_named_inputs_come_first(small_world, root):
    tars = huggingface_tars(small_world, root.parent / "hf")
    found = find_inputs(root, tars[:2], [tars[3], root / "yfcc100m"])
    assert found.core == CoreTars(tuple(tars[:2]))
    assert [path.name for path in found.tars] == [tars[3].name] + [
        f"world_00{i}.tar" for i in range(3)
    ]


def test_unfinished_downloads_are_not_taken(root):
    for name in (".world_009.tar", "world_009.tar.part"):
        (root / "yfcc100m" / name).write_bytes(b"")
    assert len(find_inputs(root).tars) == 3


def test_what_is_missing_is_said(root, tmp_path):
    with pytest.raises(UserError, match="--root .*nowhere is no folder"):
        find_inputs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--core .*x.tar: no such file or folder"):
        find_inputs(root, [tmp_path / "x.tar"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--distractors .*empty: no .tar file in there"):
        find_inputs(root, [], [tmp_path / "empty"])
    with pytest.raises(UserError, match="empty holds no core ILIAS: neither ilias_core.tar nor"):
        find_inputs(tmp_path / "empty")
    shutil.rmtree(root / "yfcc100m")
    with pytest.raises(UserError, match=r"yfcc100m holds no .tar file and .* \(Hugging Face\)"):
        find_inputs(root)


def test_two_tars_of_one_name_are_refused(root, tmp_path):
    shutil.copytree(root / "yfcc100m", tmp_path / "again")
    with pytest.raises(UserError, match="have the same name, with which their ids begin"):
        find_inputs(root, [], [root / "yfcc100m", tmp_path / "again"])
