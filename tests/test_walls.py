"""The walls between the rooms: who may import whom, read from the source without running it.

Layers go down one list. Beside it stand the walls that matter most: the generator knows no process, the outer rooms
that must start fast load no torch, and the environment, processes and pickles have one home each or none.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "genlock"

# From the top down. A room may import what stands in a later row, and itself; rooms of one row do not know each other.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["serve", "bench", "drills", "report"],
    ["__init__"],
    ["engine"],
    ["fabric", "stage0"],
    ["wire", "media"],
    ["generator"],
    ["observe"],
    ["settings"],
    ["errors"],
]
LEVEL = {room: level for level, row in enumerate(LAYERS) for room in row}
TORCHLESS = (
    *("errors.py", "settings.py", "observe/", "report/", "engine/supervisor", "engine/tripwires"),
    *("__init__.py", "cli/", "__main__.py"),
)
FILES = sorted(SRC.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path: Path, *, deep: bool = True) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import; `deep=False`: only those that run when the module is imported."""
    todo: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if not deep and is_lazy(node):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}:{node.lineno}: relative import; write the whole name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        todo += ast.iter_child_nodes(node)


def is_lazy(node: ast.AST) -> bool:
    """A function's body, or a block that only a type checker reads."""
    type_checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    return type_checking or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def mentions(path: Path, dotted: str) -> list[int]:
    """Lines where `dotted` is imported or written out, e.g. `os.environ`."""
    written = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and within(ast.unparse(node), dotted)
    ]
    return written + [line for line, module in imports(path) if within(module, dotted)]


def within(name: str, dotted: str) -> bool:
    return name == dotted or name.startswith(dotted + ".")


def test_every_room_has_a_place_in_the_layers() -> None:
    assert {room_of(path) for path in FILES} <= set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    for line, module in imports(path):
        parts = module.split(".")
        if parts[0] != "genlock":
            continue
        # `from genlock import __version__` names the package itself, the public surface that only the outer rooms know
        target = parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"
        assert target == room or LEVEL[target] > LEVEL[room], f"{name_of(path)}:{line} imports {module}, which is above"


def test_no_two_files_know_each_other() -> None:
    """Types that only a checker reads, and imports inside functions, count as well."""
    files = {name_of(path).removesuffix(".py").replace("/", "."): path for path in FILES}
    graph = {
        name: {
            other
            for _, module in imports(path)
            for other in files
            if other not in {name, "__init__"} and within(module.removeprefix("genlock."), other)
        }
        for name, path in files.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"in a circle: {' -> '.join(error.args[1])}")


def test_a_room_is_empty_at_its_door() -> None:
    doors = [path for path in SRC.glob("*/__init__.py") if path.read_text().strip()]
    assert not doors, "importing one room must never load another"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) == "engine"], ids=name_of)
def test_the_engine_meets_rank_0_rooms_only_inside_functions(path: Path) -> None:
    early = [
        (line, module)
        for line, module in imports(path, deep=False)
        if module.split(".")[1:2] in (["stage0"], ["media"])
    ]
    assert not early, f"{name_of(path)}: a generator-only worker would load {early}"


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p).startswith(TORCHLESS)], ids=name_of)
def test_the_outer_rooms_load_no_torch(path: Path) -> None:
    early = [(line, module) for line, module in imports(path, deep=False) if within(module, "torch")]
    assert not early, f"{name_of(path)} imports torch when it is imported itself: {early}"


@pytest.mark.parametrize(
    ("dotted", "home"),
    [
        ("torch.distributed", "fabric/"),
        ("os.environ", "settings.py"),
        ("os.getenv", "settings.py"),
        ("pickle.load", None),
        ("pickle.loads", None),
        ("pickle.dump", None),
        ("pickle.dumps", None),
        ("pickle.Unpickler", None),
        ("marshal", None),
        ("shelve", None),
    ],
)
def test_a_dangerous_thing_has_one_home(dotted: str, home: str | None) -> None:
    for path in FILES:
        if home is None or not name_of(path).startswith(home):
            assert not mentions(path, dotted), f"{name_of(path)} uses {dotted}; its home is {home or 'nowhere'}"


@pytest.mark.parametrize("name", ["barrier", "monitored_barrier", "cuda", "current_device", "set_default_device"])
def test_what_waits_for_all_or_guesses_a_device_is_never_called(name: str) -> None:
    """A barrier on the way out waits for who is gone; a device is handed in."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name
            assert not called, f"{name_of(path)}:{node.lineno} calls {name}"  # type: ignore[attr-defined]


def test_a_pickle_is_only_ever_read_as_plain_weights() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert options.get("weights_only") == "True", f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize(
    "statement",
    [
        "import genlock",
        "import genlock.settings, genlock.errors",
        "import genlock.cli.main",
        "import genlock.stage0.timeline_file, genlock.engine.supervisor",  # what starts a mesh
    ],
)
def test_the_first_import_is_light(statement: str) -> None:
    code = f"import sys; {statement}; print(sorted({{'torch', 'transformers', 'av', 'rich'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert loaded.stdout.strip() == "[]"
