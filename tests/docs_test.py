"""What README and docs/ show is there and works: links, files, names, Python blocks, commands."""

import importlib
import pathlib
import re
import shlex
import sys
import types

import pytest

from ilias_jax import cli
from ilias_jax.config import read_words
from ilias_jax.errors import UserError
from ilias_jax.search.backends import check_backend

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import main as program  # noqa: E402  main.py lies beside the package, not in it

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"]
    + list((ROOT / "docs").glob("*.md"))
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

# ml_collections loads a recipe so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def blocks(text: str, language: str = r"\w*") -> list[str]:
    """The contents of fenced code blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The words of every line of a code block that calls this program, without comments."""
    found = []
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["ilias-jax"] or words[:2] == ["python", "main.py"]:
                found.append(words)
    return found


def anchor(heading: str) -> str:
    """The anchor that a Markdown heading gets."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, fragment = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), target


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name):
    folders = "benchmarks|configs|data|docs|ilias_jax|scripts|tests"
    text = (ROOT / name).read_text()
    for path in re.findall(rf"(?<![\w./])(?:{folders})/[\w./]+\.(?:py|md|csv|json)\b", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", NAMES)
def test_modules_that_are_named_can_be_imported(name):
    for dotted in re.findall(r"\bilias_jax(?:\.\w+)+", (ROOT / name).read_text()):
        module, _, attribute = dotted.rpartition(".")
        try:
            importlib.import_module(dotted)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), dotted


def test_every_page_is_in_the_navigation_and_the_readme_and_no_other():
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert set(re.findall(r": (\w+\.md)$", navigation, re.MULTILINE)) == pages
    shown = set(re.findall(r"\(docs/(\w+\.md)\)", (ROOT / "README.md").read_text()))
    assert shown == pages - {"index.md", "api.md"}


@pytest.mark.parametrize("name", [name for name in NAMES if commands((ROOT / name).read_text())])
def test_commands_have_the_flags_and_keys_that_are_shown(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands((ROOT / name).read_text()):
        check_command(words)


def check_command(words: list[str]) -> None:
    """Parses a command without running it.

    Raises:
        SystemExit: a subcommand or flag is not known.
        UserError: a flag of main.py or a key of the recipe is not known, or a value not allowed.
    """
    if words[0] == "ilias-jax":
        arguments, rest = cli._parser().parse_known_args(words[1:])
        if rest and not hasattr(arguments, "rest"):
            raise SystemExit(f"unknown flags {rest}")
        if config := getattr(arguments, "config", None):
            found = read_words("ilias-jax", [f"--config={config}", *rest])
            check_backend(found.search.backend)
        return
    flags, rest = program._parser().parse_known_args(words[2:])
    found = read_words("main.py", [f"--config={flags.config}", *rest], list(vars(flags)))
    check_backend(found.search.backend)


@pytest.mark.parametrize(
    "line",
    [
        "ilias-jax exprot --workdir DIR --output DIR",
        "ilias-jax export --workdir DIR --output DIR --fast",
        "ilias-jax export --workdir DIR",
        "ilias-jax plan --config configs/demo.py --config.search.kk=3",
        "python main.py --config configs/demo.py --config.search.kk=3",
        "python main.py --config configs/demo.py --config.search.backend=faiss",
        "python main.py --config configs/demo.py --workdri runs/x",
        "python main.py --config configs/none.py",
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((SystemExit, UserError)):
        check_command(shlex.split(line))


PYTHON = [name for name in NAMES if blocks((ROOT / name).read_text(), "python")]


@pytest.mark.parametrize("name", PYTHON)
def test_python_blocks_run(name, tmp_path, small_world, monkeypatch):
    (tmp_path / "runs" / "worlds").mkdir(parents=True)
    (tmp_path / "runs" / "worlds" / "7").symlink_to(small_world)
    monkeypatch.chdir(tmp_path)
    for block in blocks((ROOT / name).read_text(), "python"):
        module = types.ModuleType("shown")
        exec(block, module.__dict__)
        assert list(module.document["results"]) == ["image_to_image"]
        assert (tmp_path / "runs" / "mine" / "report" / "index.html").exists()


def test_the_readme_and_the_page_of_own_models_have_a_python_block():
    assert PYTHON == ["README.md", "docs/own_model.md"]


def test_the_tree_of_the_design_is_that_of_the_package():
    """Folders are all there; of the flat modules those that a reader begins with."""
    tree, *_ = blocks((ROOT / "docs/design.md").read_text())
    lines = [line for line in tree.splitlines() if line.startswith("  ")]
    shown = {
        word.rstrip(",")
        for line in lines
        for word in line.split()
        if re.match(r"\w+(/|\.py)", word)
    }
    package = ROOT / "ilias_jax"
    assert not [name for name in shown if not (package / name).exists()]
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert {name for name in shown if name.endswith("/")} == folders


def test_quickstart_has_two_blocks_that_install_run_and_test():
    text = (ROOT / "README.md").read_text()
    first, second = blocks(text, "bash")
    assert first in text.partition("## Quickstart")[2].partition("\n## ")[0]
    assert "main.py --config configs/demo.py" in first
    assert "pytest" in second


def test_the_row_of_a_model_is_as_it_is_shown():
    (line,) = re.findall(r"^_timm\(.*\),$", (ROOT / "docs/models.md").read_text(), re.MULTILINE)
    files = [path.read_text() for path in (ROOT / "ilias_jax").rglob("vit*.py")]
    assert sum(f"    {line}\n" in text for text in files) == 1


def test_published_numbers_are_those_of_the_table():
    rows = [line.split(",") for line in (ROOT / "data/published/scores.csv").read_text().split()]
    scores = {
        tuple(row[1:4]): row[4] for row in rows if row[0] == "vit_large_patch16_siglip_384.webli"
    }
    table = (ROOT / "README.md").read_text().partition("| | mini-ILIAS")[2].partition("\n\n")[0]
    lines = [re.findall(r"\b\d+\.\d\b", line) for line in table.splitlines()[2:]]
    kinds = [("image_to_image", "no"), ("image_to_image", "yes"), ("text_to_image", "no")]
    expected = [
        [scores[kind, size, adapted] for size in ("mini", "full")] for kind, adapted in kinds
    ]
    assert lines == expected
