"""The published table as it ships: whole, with its uncertain cells marked."""

import re
import shutil

import pytest

from ilias_jax import bundled
from ilias_jax.errors import UserError
from ilias_jax.published import CAVEATS, read_published
from ilias_jax.towers.variants import VARIANTS

TABLE = read_published()
LARGE = "vit_large_patch16_siglip_384.webli"


def test_all_rows_are_there():
    assert len(TABLE.test_resolutions) == 64
    adapted = [score for score in TABLE.scores if score.adapted]
    assert len(adapted) == 2 * 64
    assert {score.section for score in adapted} == {"image_to_image"}
    raw = [s for s in TABLE.scores if not s.adapted and s.section == "image_to_image"]
    assert [s.databases for s in raw if s.status == "published"] == [("full",)] * 64


def test_a_smaller_database_is_easier():
    """A swapped pair of columns would break the order somewhere."""
    for model in TABLE.test_resolutions:
        for section, adapted in (("image_to_image", True), ("text_to_image", False)):
            mini, full = (TABLE.find(model, section, d, adapted=adapted) for d in ("mini", "full"))
            if mini and full and mini is not full:
                assert mini.map > full.map, (model, section)


@pytest.mark.parametrize(
    ("section", "database", "adapted", "number", "status"),
    [
        ("image_to_image", "mini", True, 34.3, "published"),
        ("image_to_image", "full", True, 28.9, "published"),
        ("image_to_image", "full", False, 19.6, "published"),
        ("image_to_image", "mini", False, 24.2, "secondary"),
        ("text_to_image", "mini", False, 20.9, "published"),
        ("text_to_image", "full", False, 17.0, "published"),
    ],
)
def test_siglip_large_by_setting(section, database, adapted, number, status):
    score = TABLE.find(LARGE, section, database, adapted=adapted)
    assert (score.map, score.status) == (number, status)


def test_the_five_rows_that_lost_a_cell_are_marked():
    unsure = [score for score in TABLE.scores if score.status == "unsure"]
    assert len(unsure) == 5
    assert {score.databases for score in unsure} == {("mini", "full")}
    assert {score.section for score in unsure} == {"text_to_image"}
    assert all(CAVEATS[score.status] for score in unsure)


def test_every_published_siglip_is_a_variant_of_the_same_test_size():
    names = [name for name in TABLE.test_resolutions if "siglip" in name]
    assert len(names) == 6
    for name in names:
        assert TABLE.test_resolutions[name] == VARIANTS[name].test_resolution


def test_what_is_not_published_is_not_found():
    assert TABLE.find("tiny", "image_to_image", "full", adapted=False) is None
    assert TABLE.find("dinov2_vitb14", "text_to_image", "full", adapted=False) is None
    assert TABLE.find("dinov2_vitb14", "image_to_image", "mini", adapted=False) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",mini,yes,34.3", ",minni,yes,34.3", "'minni' is not one of mini, full"),
        (",mini,yes,34.3", ",mini,maybe,34.3", "'maybe' is not one of yes, no"),
        (",mini,yes,34.3", ",mini,yes,high", "could not convert string to float: 'high'"),
        (LARGE + ",text_to_image,full", "new,text_to_image,full", "'new' is not one of"),
    ],
)
def test_a_damaged_file_is_named_with_its_row(tmp_path, old, new, message):
    folder = tmp_path / "published"
    shutil.copytree(bundled.folder() / "published", folder)
    text = (folder / "scores.csv").read_text()
    assert old in text
    (folder / "scores.csv").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"scores.csv, row \d+: .*" + re.escape(message)):
        read_published(folder)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="models.csv: no such file"):
        read_published(tmp_path)
