"""`ilias-jax check`: every kind of problem, by the message that a user reads."""

import gzip
import json
import pathlib
import re
import shutil
from collections.abc import Callable

import color_world
import inventories
import pytest
from etils import epath

from ilias_jax import cli
from ilias_jax.config import ALLOWANCES
from ilias_jax.dataset import shards
from ilias_jax.dataset.check import DatasetCheck, check_dataset
from ilias_jax.dataset.ground_truth import read_ground_truth
from ilias_jax.dataset.layout import ImageRecord, Subset
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.dataset.validation import ValidationReport
from ilias_jax.errors import UserError

IDS = [f"{tar}.tar/{key}" for tar in "ab" for key in range(3)]
SHARD = "ilias-distractor.array_record-0000{}-of-00002"


@pytest.fixture
def data(tmp_path: pathlib.Path) -> pathlib.Path:
    """A sound folder: two shards of three distractors, every second one in mini."""
    folder = tmp_path / "data"
    color_world.write(
        folder,
        {f"{name}/query/Q0.jpg": 0 for name in ("cup", "mug")},
        {f"{name}/pos/P{i}.jpg": (0, 0.5, 0) for name in ("cup", "mug") for i in range(2)},
        [dict.fromkeys(IDS[:3], 1), dict.fromkeys(IDS[3:], 2)],
        {f"{name}/query/T0.txt": 0 for name in ("cup", "mug")},
    )
    (folder / "image_ids" / "mini_ilias_yfcc100m_ids.txt").write_text("\n".join(IDS[::2]))
    inventories.write(folder)
    return folder


def check(folder: pathlib.Path, subset: Subset = "full", *, deep: bool = False) -> DatasetCheck:
    dataset = IliasDataset(epath.Path(folder), subset)
    return check_dataset(dataset, read_ground_truth(folder), 2 if deep else None)


def problems(folder: pathlib.Path, **options) -> list[str]:
    return [str(problem) for problem in check(folder, **options).problems]


def edit(path: pathlib.Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def images(folder: pathlib.Path) -> pathlib.Path:
    return folder / "ilias" / "1.0.0"


def inventory_file(folder: pathlib.Path, split: str, number: int) -> pathlib.Path:
    return pathlib.Path(inventories.path_of(folder, split, number))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("subset", ["full", "mini"])
def test_a_sound_folder_has_no_problem(data: pathlib.Path, subset: Subset, deep: bool) -> None:
    found = check(data, subset, deep=deep)
    assert found.problems == () and found.is_by_id
    listed = {"full": 6, "mini": 3}[subset]
    assert [(c.split, c.listed, c.found, c.missing, c.extra, c.repeated) for c in found.counts] == [
        ("image_query", 2, 2, 0, 0, 0),
        ("positive", 4, 4, 0, 0, 0),
        ("text_query", 2, 2, 0, 0, 0),
        ("distractor", listed, listed, 0, 0, 0),
    ]
    official = [count.official for count in found.counts]
    assert official == [1232, 4715, 1000, {"full": 100_000_000, "mini": 5_000_000}[subset]]
    assert found.num_unselected == 6 - listed


def test_only_deep_reads_records(data: pathlib.Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a record was read")

    monkeypatch.setattr(IliasDataset, "_source", refuse)
    assert check(data).problems == () == check(data, "mini").problems
    with pytest.raises(AssertionError, match="was read"):
        check(data, deep=True)


Damage = Callable[[pathlib.Path], object]
_KINDS: dict[str, tuple[Damage, str]] = {
    "missing positive": (
        lambda d: edit(
            d / "image_ids" / "positive_ids.txt",
            "mug/pos/P0.jpg,0.5,0\n",
            "mug/pos/P0.jpg,0.5,0\nmug/pos/P7.jpg,1,1\n",
        ),
        "missing_positives (1): in image_ids/ but in no shard: mug/pos/P7.jpg; convert",
    ),
    "extra query": (
        lambda d: edit(d / "image_ids" / "image_query_ids.txt", "mug/query/Q0.jpg,x\n", ""),
        "extra_image_queries (1): in a shard but not in image_ids/: mug/query/Q0.jpg; convert",
    ),
    "extra text": (
        lambda d: edit(d / "image_ids" / "text_query_ids.txt", "cup/query/T0.txt\n", ""),
        "extra_text_queries (1): in a shard but not in image_ids/: cup/query/T0.txt; convert",
    ),
    "another order": (
        lambda d: (d / "image_ids" / "text_query_ids.txt").write_text(
            "mug/query/T0.txt\ncup/query/T0.txt\n"
        ),
        "misordered_text_queries (2): in another order than in image_ids/: cup/q",
    ),
    "repeated positive": (
        lambda d: edit(inventory_file(d, "positive", 0), "mug/pos/P1", "mug/pos/P0"),
        "repeated_positives (1): in the shards more than once: mug/pos/P0.jpg; convert",
    ),
    "missing distractors": (
        lambda d: color_world.list_distractors(d, ["z.tar/1", *IDS, "z.tar/2"]),
        "missing_distractors (2): on the list but in no shard: z.tar/1, z.tar/2; convert the "
        "missing tars, or allow missing_distractors",
    ),
    "extra distractors": (
        lambda d: color_world.list_distractors(d, IDS[1:]),
        "extra_distractors (1): in a shard but not on the list: a.tar/0; remove",
    ),
    "repeated distractors, across shards": (
        lambda d: edit(inventory_file(d, "distractor", 1), "b.tar/0", "a.tar/1"),
        "repeated_distractors (1): in the shards more than once: a.tar/1, a.tar/1; a database row must",
    ),
    "repeated distractors, in a shard": (
        lambda d: edit(inventory_file(d, "distractor", 1), "b.tar/0", "b.tar/2"),
        "repeated_distractors (1): in the shards more than once: b.tar/2, b.tar/2; a database row must",
    ),
    "no list": (
        lambda d: (d / "image_ids" / "distractor_ids.txt.gz").unlink(),
        "unchecked_distractors (1): no list of distractors: image_ids/distractor_ids.txt.g",
    ),
    "no shard": (
        lambda d: (images(d) / SHARD.format(1)).unlink(),
        f"missing_shards (1): in dataset_info.json but not there: {SHARD.format(1)}; convert",
    ),
    "no inventory": (
        lambda d: inventory_file(d, "distractor", 1).unlink(),
        f"missing_inventories (1): shards without inventory: {SHARD.format(1)}; convert again, or",
    ),
    "damaged inventory": (
        lambda d: inventory_file(d, "distractor", 0).write_text("{"),
        "damaged_inventories (1): inventories that cannot be read: ",
    ),
    "inventory that does not add up": (
        lambda d: edit(inventory_file(d, "distractor", 0), '"num_images": 3', '"num_images": 4'),
        "damaged_inventories (1): inventories that cannot be read: ",
    ),
    "inventory of another file": (
        lambda d: edit(inventory_file(d, "distractor", 0), '"num_bytes": ', '"num_bytes": 1'),
        f"stale_inventories (1): inventories of other shard files: {SHARD.format(0)} of ",
    ),
    "other number of records": (
        lambda d: edit(images(d) / "dataset_info.json", '"3"', '"4"'),
        f"wrong_dataset_info (2): numbers in dataset_info.json that are not the inventories': "
        f"{SHARD.format(0)}: 4 records, not 3, {SHARD.format(1)}: 4 records, not 3; convert again",
    ),
    "other number of bytes": (
        lambda d: edit(inventory_file(d, "positive", 0), '"payload_bytes": ', '"payload_bytes": 9'),
        "wrong_dataset_info (1): numbers in dataset_info.json that are not the inventories': positive: ",
    ),
    "left over inventory": (
        lambda d: shutil.copy(
            inventory_file(d, "distractor", 1),
            inventory_file(d, "distractor", 1).with_name("distractor-00002-of-00003.json"),
        ),
        "unlisted_files (1): files that belong to no shard of dataset_info.json: distractor-00002-of-00003.j",
    ),
    "left over shard": (
        lambda d: shutil.copy(
            images(d) / SHARD.format(1),
            images(d) / "ilias-distractor.array_record-00002-of-00003",
        ),
        "unlisted_files (1): files that belong to no shard of dataset_info.json: ilias-distractor.array_rec",
    ),
}


# What the same damage is besides.
_FOLLOWS = {
    "repeated positive": ["missing_positives"],
    "repeated distractors, across shards": ["missing_distractors"],
    "repeated distractors, in a shard": ["missing_distractors"],
}


@pytest.mark.parametrize("kind", _KINDS)
def test_every_kind_of_problem_is_found_alone_and_named(data: pathlib.Path, kind: str) -> None:
    damage, message = _KINDS[kind]
    damage(data)
    found = problems(data)
    assert [problem for problem in found if problem.startswith(message)], found
    others = [problem.split()[0] for problem in found if not problem.startswith(message)]
    assert others == _FOLLOWS.get(kind, [])


def test_without_any_inventory_numbers_are_compared(data: pathlib.Path) -> None:
    inventories.remove(data)
    found = check(data)
    assert [problem.name for problem in found.problems] == ["missing_inventories"]
    assert not found.is_by_id and found.distractors.found == 6
    assert check(data, deep=True).problems == ()
    color_world.list_distractors(data, [*IDS, "z.tar/0", "z.tar/1"])
    assert [(p.name, p.count) for p in check(data).problems[1:]] == [("missing_distractors", 2)]
    (deep,) = problems(data, deep=True)
    assert deep.startswith(
        "missing_distractors (2): on the list but in no shard: z.tar/0, z.tar/1;"
    )
    color_world.list_distractors(data, IDS[1:])
    assert [(p.name, p.count) for p in check(data).problems[1:]] == [("extra_distractors", 1)]
    (deep,) = problems(data, deep=True)
    assert deep.startswith("extra_distractors (1): in a shard but not on the list: a.tar/0;")
    mini = check(data, "mini")
    assert mini.distractors.found is None  # which records are selected is not known


def test_mini_names_what_is_missing_by_its_key(data: pathlib.Path) -> None:
    path = data / "image_ids" / "mini_ilias_yfcc100m_ids.txt"
    path.write_text("7\na.tar/0\nb.tar/2\n")
    (problem,) = problems(data, subset="mini")
    assert problem.startswith("missing_distractors (1): on the list but in no shard: 7; convert")
    path.write_text("a.tar/0\n2\n")
    (problem,) = problems(data, subset="mini")
    assert problem.startswith("repeated_distractors (1): in the shards more than once: a.tar/2, b")


def test_rejected_images_are_counted_and_not_missing(data: pathlib.Path) -> None:
    color_world.list_distractors(data, [*IDS, "a.tar/7", "b.tar/8", "b.tar/9"])
    reasons = [("b.tar/8", "cut short"), ("b.tar/x", "no image"), ("b.tar/0", "key is repeated")]
    inventories.write(data, {0: [("a.tar/7", "cut short")], 1: reasons})
    found = check(data)
    (problem,) = found.problems
    assert str(problem).startswith("missing_distractors (1): on the list but in no shard: b.tar/9;")
    assert found.distractors.rejected == 2 and found.distractors.found == 6
    assert found.reasons() == {"cut short": 2, "no image": 1, "key is repeated": 1}
    path = data / "image_ids" / "mini_ilias_yfcc100m_ids.txt"
    path.write_text("a.tar/7\na.tar/0\n")
    mini = check(data, "mini")
    assert mini.problems == () and mini.rejected == (("a.tar/7", "cut short"),)
    assert (mini.distractors.found, mini.distractors.rejected) == (1, 1)


def test_a_rejected_positive_is_missing_with_its_reason(data: pathlib.Path) -> None:
    path = inventory_file(data, "positive", 0)
    document = json.loads(path.read_text())
    document["rejected"], document["num_images"] = [["mug/pos/P9.jpg", "no JPEG"]], 5
    path.write_text(json.dumps(document))
    edit(data / "image_ids" / "positive_ids.txt", "mug/pos/P1", "mug/pos/P9.jpg,1,1\nmug/pos/P1")
    found = check(data)
    positives = found.counts[1]
    assert (positives.missing, positives.rejected) == (0, 1)
    problem = str(found.problems[0])
    assert len(found.problems) == 1
    message = "missing_positives (1): in image_ids/ but in no shard: mug/pos/P9.jpg (rejected: no J"
    assert problem.startswith(message)


def _rewrite(folder: pathlib.Path, records: list[ImageRecord]) -> None:
    """Writes the second distractor shard again and keeps its inventory's size true."""
    shards.write_image_shard(folder, "distractor", 1, 2, records)
    path = inventory_file(folder, "distractor", 1)
    document = json.loads(path.read_text())
    document["shard"]["num_bytes"] = (images(folder) / SHARD.format(1)).stat().st_size
    path.write_text(json.dumps(document))


def test_deep_compares_records_with_the_inventory(data: pathlib.Path) -> None:
    jpeg = color_world.jpeg(3)
    _rewrite(data, [ImageRecord(i, jpeg) for i in ("b.tar/0", "b.tar/2", "b.tar/1")])
    assert problems(data) == []
    (problem,) = problems(data, deep=True)
    assert problem.startswith(
        "other_records (2): records that are not what the inventory says: "
        f"{SHARD.format(1)}, record 1: 'b.tar/2', not 'b.tar/1', {SHARD.format(1)}, record 2: "
    )


def test_deep_looks_for_jpegs(data: pathlib.Path) -> None:
    contents = {"b.tar/0": b"<html>", "b.tar/1": color_world.jpeg(3), "b.tar/2": b""}
    _rewrite(data, [ImageRecord(image_id, jpeg) for image_id, jpeg in contents.items()])
    (problem,) = problems(data, deep=True)
    assert problem.startswith("no_jpeg (2): records without a JPEG: b.tar/0, b.tar/2; convert")


@pytest.mark.parametrize("damage", ["zeros", "a byte", "fewer records"])
def test_deep_finds_damaged_shards(data: pathlib.Path, damage: str) -> None:
    path = images(data) / SHARD.format(1)
    content = path.read_bytes()
    if damage == "fewer records":
        _rewrite(data, [ImageRecord("b.tar/0", color_world.jpeg(3))])
    elif damage == "zeros":
        path.write_bytes(bytes(len(content)))
    else:
        place = content.index(b"b.tar/1") if b"b.tar/1" in content else len(content) // 3
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    assert problems(data) == []
    (problem,) = problems(data, deep=True)
    assert problem.startswith(
        f"damaged_shards (1): shards that cannot be read: {SHARD.format(1)} ("
    )


@pytest.mark.parametrize("split", ["distractor", "text_query"])
def test_a_missing_split_is_named(data: pathlib.Path, split: str) -> None:
    name = "ilias_text" if split == "text_query" else "ilias"
    edit(data / name / "1.0.0" / "dataset_info.json", f'"{split}"', '"other"')
    with pytest.raises(UserError, match=f"has the splits .*other.*, not '{split}'"):
        check(data)


def test_a_damaged_list_is_named(data: pathlib.Path) -> None:
    path = data / "image_ids" / "distractor_ids.txt.gz"
    path.write_bytes(gzip.compress(b"a.tar/0\nodd\n"))
    with pytest.raises(UserError, match=f"{path}, line 2: 'odd' is no distractor's id"):
        check(data)


def test_every_allowance_is_a_problem_and_core_has_none() -> None:
    findings = ValidationReport()
    for name in ALLOWANCES:
        findings.add(name, ["x"])
        if name != "no_text_queries":  # all or none: half of them would be another mean
            assert not any(word in name for word in ("quer", "positive", "text"))
    with pytest.raises(AssertionError, match="odd"):
        findings.add("odd", ["x"])


def test_examples_are_few_and_the_count_whole() -> None:
    findings = ValidationReport()
    findings.add("no_jpeg", ["a", "b"])
    findings.add("no_jpeg", list("cdefg"), 1005)
    (problem,) = findings.problems()
    assert str(problem).startswith("no_jpeg (1,007): records without a JPEG: a, b, c, d, e, ...; ")


def _run(capsys, *words: str) -> tuple[int, str]:
    """Exit status and output of `ilias-jax check`."""
    status = 0
    try:
        cli.main(["check", *words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out = capsys.readouterr()
    return status, out.out + out.err


def test_the_command_prints_a_table_and_exits_with_0(data: pathlib.Path, capsys) -> None:
    status, text = _run(capsys, "--data_dir", str(data), "--subset", "mini")
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["subset"] == [
        "mini",
        *["official", "listed", "found", "missing", "extra", "repeated", "rejected"],
    ]
    assert rows["positive"] == ["4,715", "4", "4", "0", "0", "0", "0"]
    assert rows["distractor"] == ["5,000,000", "3", "3", "0", "0", "0", "0"]
    assert "3 distractors of the shards are not in the subset" in text
    assert "a different benchmark from published ILIAS: the id files list 2 instead of 1,2" in text
    assert "no problem found; every id compared" in text


def test_the_command_exits_with_1_unless_allowed_by_name(data: pathlib.Path, capsys) -> None:
    color_world.list_distractors(data, [*IDS[1:], "z.tar/0"])
    inventories.write(data, {0: [("a.tar/9", "no JPEG")]})
    output = data / "report.json"
    words = ["--data_dir", str(data), "--output", str(output)]
    status, text = _run(capsys, *words, "--allow", "extra_distractors")
    assert status == 1
    assert "problem: missing_distractors (1): on the list but in no shard: z.tar/0;" in text
    assert "allowed: extra_distractors (1): in a shard but not on the list: a.tar/0;" in text
    assert "rejected at conversion: 1 x no JPEG" in text
    document = json.loads(output.read_text())
    assert document["passed"] is False and document["compared"] == "ids"
    assert document["counts"]["distractor"]["missing"] == 1
    assert document["rejected"] == [["a.tar/9", "no JPEG"]]
    allowed = {problem["name"]: problem["allowed"] for problem in document["problems"]}
    assert allowed == {"missing_distractors": False, "extra_distractors": True}
    status, _ = _run(capsys, *words, "--allow", "extra_distractors,missing_distractors")
    assert status == 0 and json.loads(output.read_text())["passed"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--allow", "missing_positives"], "--allow='missing_positives' .* among missing_distra"),
        (["--read_threads", "0"], "--read_threads 0 must be at least 1"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(
    data: pathlib.Path, capsys, words: list[str], message: str
) -> None:
    status, text = _run(capsys, "--data_dir", str(data), *words)
    assert status == 1 and re.search(f"error: {message}", text)
