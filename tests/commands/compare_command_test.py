"""What `ilias-jax compare` prints and writes."""

import json

import pytest
import run_fixture

from ilias_jax import cli


def _write(folder, name: str, document: dict) -> str:
    (folder / name).write_text(json.dumps(document))
    return str(folder / name)


def test_the_table_and_the_file_hold_the_same_numbers(tmp_path, capsys):
    names = [_write(tmp_path, f"{seed}.json", run_fixture.document(seed)) for seed in (1, 2)]
    output = tmp_path / "out" / "comparison.json"
    few = ["--resamples", "50", "--permutations", "99"]
    cli.main(["compare", *names, *few, "--output", str(output)])
    text = capsys.readouterr().out
    document = json.loads(output.read_text())
    lines = text.splitlines()
    assert lines[0] == f"A: {names[0]}, model 1, on world"
    assert "50 resamples" in lines[2] and "99 random exchanges" in lines[2] and "seed 0" in lines[2]
    for section, name in (("image_to_image", "Image-to-image"), ("text_to_image", "Text-to-image")):
        start = next(i for i, line in enumerate(lines) if line.startswith(name))
        numbers = document["sections"][section]["map"]
        words = lines[start + 1].split()
        assert words[:4] == [
            "mAP@1000",
            *(f"{numbers[key]:.2f}" for key in "ab"),
            f"{numbers['difference']:+.2f}",
        ]
        assert words[7] == f"{numbers['p_value']:.4f}"
    assert "object area ≥ 50.0 %" in text and "clutter < 18" in text and "category art" in text
    assert (
        "subcategory" not in text
        and "art-m" in document["sections"]["image_to_image"]["subcategories"]
    )
    cli.main(["compare", *names, *few, "--all"])
    assert "subcategory art-m" in capsys.readouterr().out
    assert [path.name for path in output.parent.iterdir()] == ["comparison.json"]


def test_warnings_come_before_numbers(tmp_path, capsys):
    a = _write(tmp_path, "a.json", run_fixture.document(1))
    b = _write(tmp_path, "b.json", run_fixture.document(2, k=100, distractors=7))
    cli.main(["compare", a, b, "--resamples", "50", "--permutations", "9"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("WARNING: DIFFERENT BENCHMARKS: A has k=1000, B has k=100")
    assert lines[1].startswith("WARNING: DIFFERENT BENCHMARKS: other databases were searched (num")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resamples", "5"], "--resamples 5 must be at least 40"),
        (["--permutations", "0"], "--permutations 0 must be at least 1"),
        (["--taxonomy", "none.json"], "none.json: no such file"),
    ],
)
def test_a_mistake_gives_one_message(tmp_path, capsys, words, message):
    name = _write(tmp_path, "a.json", run_fixture.document(1))
    with pytest.raises(SystemExit):
        cli.main(["compare", name, name, *words])
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and message in captured.err


def test_other_queries_print_no_number(tmp_path, capsys):
    a = _write(tmp_path, "a.json", run_fixture.official(1))
    b = _write(tmp_path, "b.json", run_fixture.official(1, run_fixture.QUERIES[:-2]))
    with pytest.raises(SystemExit):
        cli.main(["compare", a, b])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "A has 24 queries, B has 22; 2 only in A" in captured.err
