"""Core ILIAS in every published form, the same records; which form is taken, and what is missing."""

import shutil
import tarfile

import pytest
from conversion_fixture import official_copy, stored
from official_forms import core_tar, huggingface_tars, ids, jpeg, tar_of

from ilias_jax.dataset import core
from ilias_jax.dataset.convert import convert
from ilias_jax.dataset.core import CoreFolder, CoreTars, find_inputs
from ilias_jax.dataset.layout import ImageRecord
from ilias_jax.dataset.tars import DamagedTarError
from ilias_jax.errors import UserError


def images_of(world, files, split):
    """What is stored of a split, from the form of core that `files` is."""
    names = ids(
        world, {"image_query": "image_query_ids.txt", "positive": "positive_ids.txt"}[split]
    )
    boxes = core.read_boxes(files, names)
    return [ImageRecord(name, files.read(name), found) for name, found in boxes.items()]


def forms(world, folder):
    tars = huggingface_tars(world, folder)
    return {
        "tar": CoreTars((core_tar(world, folder / "ilias_core.tar"),)),
        "tar without prefix": CoreTars((core_tar(world, folder / "plain.tar", ""),)),
        "tar of .": CoreTars((core_tar(world, folder / "dot.tar", "./"),)),
        "hugging face": CoreTars(tuple(tars[:2])),
    }


def test_all_forms_give_the_same_records(small_world, tmp_path):
    folder = CoreFolder(small_world / "ilias_core")
    for split in ("image_query", "positive"):
        expected = images_of(small_world, folder, split)
        assert all(record.boxes for record in expected)
        for name, files in forms(small_world, tmp_path).items():
            assert images_of(small_world, files, split) == expected, name
    texts = core.read_texts(folder, ids(small_world, "text_query_ids.txt"))
    for name, files in forms(small_world, tmp_path).items():
        if name != "hugging face":
            assert core.read_texts(files, [t.query_id for t in texts]) == texts


def test_a_conversion_from_a_tar_is_that_from_the_folder(small_world, tmp_path):
    root = official_copy(small_world, tmp_path / "root")
    core_tar(root)
    shutil.rmtree(root / "ilias_core")
    convert(root, tmp_path / "data", 1)
    for split in ("image_query", "positive"):
        assert stored(tmp_path / "data", split) == stored(small_world, split)
    text = "ilias_text/1.0.0/ilias_text-text_query.array_record-00000-of-00001"
    assert (tmp_path / "data" / text).read_bytes() == (small_world / text).read_bytes()


def test_nothing_of_a_core_tar_is_written_to_disk(small_world, tmp_path):
    path = core_tar(small_world, tmp_path / "ilias_core.tar")
    images_of(small_world, CoreTars((path,)), "positive")
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_text_query_is_named(tmp_path):
    path = tar_of(tmp_path / "x.tar", [("a/query/T0.txt", b"a mug"), ("a/query/T1.txt", b" \n")])
    with pytest.raises(UserError, match=f"{path}: a/query/T1.txt is empty; download core again"):
        core.read_texts(CoreTars((path,)), ["a/query/T0.txt", "a/query/T1.txt"])


def test_several_boxes_and_none_come_out_of_json(tmp_path):
    path = tar_of(
        tmp_path / "x.tar",
        [("a/pos/P0.jpg", jpeg()), ("a/pos/P0.bbox.json", b"[[1, 2, 3.5, 4], [5, 6, 7, 8]]")]
        + [("a/pos/P1.jpg", jpeg()), ("a/pos/P1.bbox.json", b"[]")]
        + [("a/pos/P2.jpg", jpeg())],
    )
    found = core.read_boxes(CoreTars((path,)), ["a/pos/P0.jpg", "a/pos/P1.jpg", "a/pos/P2.jpg"])
    assert list(found.values()) == [((1, 2, 3.5, 4), (5, 6, 7, 8)), (), ()]


@pytest.mark.parametrize(
    "text", ["[[1, 2, 3]]", "[1]", "{", '[["a", 1, 2, 3]]', "[[1, 2, 3, NaN]]", "7"]
)
def test_malformed_json_boxes_are_named(tmp_path, text):
    path = tar_of(
        tmp_path / "x.tar", [("a/pos/P0.jpg", jpeg()), ("a/pos/P0.bbox.json", text.encode())]
    )
    with pytest.raises(
        UserError, match=r"(are no boxes|broken JSON .*); expected \[\[x, y"
    ) as error:
        core.read_boxes(CoreTars((path,)), ["a/pos/P0.jpg"])
    assert str(error.value).startswith(f"{path}: a/pos/P0.bbox.json")


def test_missing_and_bad_images_are_named_together(tmp_path):
    path = tar_of(
        tmp_path / "x.tar",
        [("a/pos/P0.jpg", jpeg()), ("a/pos/P1.jpg", b"GIF89a"), ("a/pos/P2.jpg", b"")],
    )
    names = [f"a/pos/P{number}.jpg" for number in range(9)]
    with pytest.raises(UserError) as error:
        core.read_boxes(CoreTars((path,)), names)
    lines = str(error.value).splitlines()
    assert lines[0] == (
        f"{path}: a/pos/P1.jpg cannot be stored: not an image in JPEG PNG GIF WEBP BMP TIFF"
    )
    assert lines[1] == f"{path}: a/pos/P2.jpg cannot be stored: empty"
    assert lines[2] == "x.tar: a/pos/P3.jpg is missing, but image_ids/ lists it"
    assert len(lines) == 6 and lines[5] == "and 3 more"


def test_a_link_in_the_core_tar_is_refused(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a/pos/P0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match="a/pos/P0.jpg is a symbolic link of 0 bytes; expected a f"):
        core.read_boxes(CoreTars((path,)), ["a/pos/P0.jpg"])


def test_a_repeated_core_file_is_refused(tmp_path):
    path = tar_of(tmp_path / "x.tar", [("a/pos/P0.jpg", jpeg(1)), ("./a/pos/P0.jpg", jpeg(2))])
    with pytest.raises(UserError, match=r"a/pos/P0.jpg is in .*x.tar and again in .* at byte"):
        core.read_boxes(CoreTars((path,)), ["a/pos/P0.jpg"])


def test_a_cut_core_tar_is_refused(small_world, tmp_path):
    path = core_tar(small_world, tmp_path / "ilias_core.tar")
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(DamagedTarError, match="ilias_core.tar is damaged at byte"):
        core.read_boxes(CoreTars((path,)), ids(small_world, "positive_ids.txt"))


def test_the_hugging_face_copy_without_texts_says_where_they_are(small_world, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(small_world / "image_ids", root / "image_ids")
    huggingface_tars(small_world, root)
    with pytest.raises(UserError) as error:
        convert(root, tmp_path / "data", 1)
    assert str(error.value) == (
        "ilias-core-db-000000.tar, ilias-core-queries-img-000000.tar holds none of the 6 text "
        "queries. The Hugging Face copy has no text queries; they are in ilias_core.tar of the "
        "official server (https://vrg.fel.cvut.cz/ilias_data/ilias_core.tar). Give that with "
        "--core, or go on with the images alone: --without_text."
    )
    convert(root, tmp_path / "data", 1, without_text=True)
    assert not (tmp_path / "data" / "ilias_text").exists()
    for split in ("image_query", "positive"):
        assert stored(tmp_path / "data", split) == stored(small_world, split)
    found = {image_id: data for image_id, data, _ in stored(tmp_path / "data", "distractor")}
    expected = {i.split("/")[1]: data for i, data, _ in stored(small_world, "distractor")}
    assert {i.split("/")[1]: data for i, data in found.items()} == expected
    assert {i.split("/")[0] for i in found} == {
        "mini_ilias_yfcc100m-000000.tar",
        "mini_ilias_yfcc100m-000001.tar",
    }


def test_a_text_that_is_not_utf_8_is_named(tmp_path):
    path = tar_of(tmp_path / "x.tar", [("a/query/T0.txt", b"caf\xe9")])
    with pytest.raises(UserError, match="x.tar: a/query/T0.txt: not UTF-8 text"):
        core.read_texts(CoreTars((path,)), ["a/query/T0.txt"])


@pytest.mark.parametrize(
    "name", ["../a/pos.jpg", "a/../P.jpg", "/etc/passwd", "a/P.jpg", "a//P.jpg"]
)
def test_an_id_that_is_no_core_name_is_refused(tmp_path, name):
    (tmp_path / "ids.txt").write_text(f"a/pos/P0.jpg,1\n{name},1\n")
    with pytest.raises(UserError, match="ids.txt, line 2: .*; expected <object>/<folder>/<file>"):
        core.read_core_ids(tmp_path / "ids.txt")


def test_a_repeated_id_is_refused(tmp_path):
    (tmp_path / "ids.txt").write_text("a/pos/P0.jpg\n" * 3)
    with pytest.raises(
        UserError, match="ids.txt, line 2: 'a/pos/P0.jpg' is repeated, first at .*line 1"
    ):
        core.read_core_ids(tmp_path / "ids.txt")


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
