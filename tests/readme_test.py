"""What the README shows must run."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_users_own_model_runs(tmp_path, small_world, monkeypatch):
    (tmp_path / "runs" / "worlds").mkdir(parents=True)
    (tmp_path / "runs" / "worlds" / "7").symlink_to(small_world)
    monkeypatch.chdir(tmp_path)
    (block,) = _blocks("python")
    scope: dict = {}
    exec(block, scope)
    assert list(scope["document"]["results"]) == ["image_to_image"]
    assert (tmp_path / "runs" / "mine" / "report" / "index.html").exists()


def test_quickstart_has_two_blocks_that_install_run_and_test():
    first, second = _blocks("bash")
    assert "main.py --config configs/demo.py" in first
    assert "pytest" in second


def test_the_row_of_a_model_is_as_the_readme_shows_it():
    (line,) = re.findall(r"^_timm\(.*\),$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert f"    {line}\n" in (ROOT / "ilias_jax" / "towers" / "vit_rows.py").read_text()


def test_files_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for name in set(re.findall(r"(?:configs|benchmarks|scripts|data)/[\w./]+\.(?:py|md)", text)):
        assert (ROOT / name).exists(), name
