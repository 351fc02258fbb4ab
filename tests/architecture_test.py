"""Imports point one way: main, glue, stages, values; no stage imports another."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "ilias_jax"
# From the bottom up. A module may import from its own unit and from lower layers, but the units of
# one layer do not know each other.
LAYERS = (
    {"errors", "atomic", "blocks", "bundled", "gather", "read_ahead", "repeats"},
    {"torch_files", "array_file", "claims"},
    {"records", "config", "model", "mesh", "embeddings", "ranking", "ground_truth"}
    | {
        "timings",
        "progress",
        "tar_range",
        "vectors",
        "adapter",
        "similarity_lists",
        "published",
        "parity",
        "scored_run",
        "positive_counts",
    },
    {"norms", "batching"},
    {"sources", "recipes"},
    {"dataset", "pixels", "towers", "embed", "adapt", "search", "rerank", "metrics", "report"}
    | {"official", "download"},
    {"plugins", "model_files"},
    {"extraction", "preflight", "lineage", "feature_search", "evaluation"},
    {"gallery", "manifest", "retrieval", "export", "database", "standing", "comparison"}
    | {"comparison_table"},
    {"benchmark", "plan"},
    {"rates"},
    {"commands"},
    {"front", "cli"},
)
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}


def _unit(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_units(path: pathlib.Path) -> set[str]:
    """Units of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("ilias_jax.")}
    return found


def _files() -> list[pathlib.Path]:
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def test_every_module_has_its_layer():
    assert {_unit(path) for path in _files()} == set(RANK)


def test_imports_point_one_way():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {unit}"
        for path in _files()
        for unit in _imported_units(path)
        if unit != _unit(path) and RANK[unit] >= RANK[_unit(path)]
    ]
    assert not wrong, wrong


def test_only_the_mesh_module_names_axes():
    naming = {"PartitionSpec", "NamedSharding", "Mesh("}
    for path in _files():
        if path.name != "mesh.py":
            assert not [word for word in naming if word in path.read_text()], path


def test_no_torch_and_no_tensorflow_at_run_time():
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("torch", "tensorflow")], path


def test_main_is_short():
    assert len((PACKAGE.parent / "main.py").read_text().splitlines()) < 60
