"""Imports point one way: the line below is the whole rule."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "ilias_jax"
# A module imports from its own room and from rooms before it; rooms between two arrows do not know
# each other.
ORDER = (
    "errors -> files -> progress, profiling, mesh -> download -> config -> dataset, model -> "
    "preprocessing -> models -> embeddings -> search -> rerank -> adaptation -> metrics -> "
    "report, official -> plan, benchmark -> commands -> cli"
)
RANK = {room: n for n, rooms in enumerate(ORDER.split(" -> ")) for room in rooms.split(", ")}
FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def _room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported(path: pathlib.Path) -> set[str]:
    """Full names of all that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_point_one_way():
    assert {_room(path) for path in FILES} == set(RANK)
    rooms = {
        path: {name.split(".")[1] for name in _imported(path) if name.startswith("ilias_jax.")}
        for path in FILES
    }
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {room}"
        for path in FILES
        for room in rooms[path] - {_room(path)}
        if RANK[room] >= RANK[_room(path)]
    ]
    assert not wrong, wrong


def test_only_the_mesh_module_names_axes():
    naming = {"PartitionSpec", "NamedSharding", "Mesh("}
    for path in FILES:
        if path.name != "mesh.py":
            assert not [word for word in naming if word in path.read_text()], path


def test_no_torch_and_no_tensorflow_at_run_time():
    for path in FILES:
        roots = {name.split(".")[0] for name in _imported(path)}
        assert not roots & {"torch", "tensorflow"}, path
