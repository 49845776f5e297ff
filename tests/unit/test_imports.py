"""Arrows between modules point one way, and importing batchlib costs little."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchlib

ROOT = Path(batchlib.__file__).parent
#: Each floor may use its own rooms and those of the floors above it in this list, never of those below.
FLOORS = [
    {"errors", "events", "side_by_side", "quantity", "run", "array", "application"},
    {"transport"},
    {"sandbox", "settings", "config"},
    {"backends"},
    {
        *("engine", "cycle", "polling", "session", "store", "schema", "database", "documents"),
        *("records", "statements"),
        *("workflow", "dependencies", "native_script", "native_dialects"),
    },
    {"cli", "drmaa2", "aio", "wms", "pilot", "futures", "conformance"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: Libraries that take time to import, and are needed by some uses only.
HEAVY = {
    *(
        "paramiko",
        "sshtunnel",
        "sqlalchemy",
        "sqlite3",
        "rich",
        "jinja2",
        "click",
        "cattrs",
        "networkx",
        "zmq",
        "fsspec",
    ),
    *("asyncio", "email", "http", "importlib.metadata", "multiprocessing", "unittest"),
}
#: The least that an installation has: not even these are needed to be told a version or how to use a command.
LIGHT = {"attr", "attrs", "blinker", "pyparsing", "json", "logging", "socket", "subprocess", "tarfile", "batchlib.run"}
COMMANDS = ["main", *sorted(path.stem for path in (ROOT / "cli").glob("g*.py"))]

MODULES = {
    ".".join(["batchlib", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imported(name: str, path: Path, *, late: bool = True) -> Iterator[tuple[str, int]]:
    """The modules of batchlib that a module imports, except for type checkers alone; `late` ones in functions too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = {
        node
        for branch in ast.walk(tree)
        if (isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test))
        or (not late and isinstance(branch, ast.FunctionDef))
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            found = [base or "", *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in found:
            if module in MODULES and module != "batchlib":
                yield module, node.lineno


GRAPH = {name: dict(imported(name, path)) for name, path in MODULES.items()}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_the_check_sees_imports() -> None:
    assert "batchlib.errors" in GRAPH["batchlib.quantity"]
    assert "batchlib.transport.ssh" in GRAPH["batchlib.config"]
    assert "batchlib.backends.base" not in GRAPH["batchlib.config"], "imports for type checkers do not count"
    assert len(MODULES) > 40


@pytest.mark.parametrize("name", [name for name in MODULES if name != "batchlib"])
def test_each_module_has_its_floor(name: str) -> None:
    assert room(name) in FLOOR, f"say in FLOORS where {name} belongs"


@pytest.mark.parametrize("name", [name for name in MODULES if name != "batchlib"])
def test_modules_import_downwards(name: str) -> None:
    upwards = [
        f"{MODULES[name]}:{line} imports {module}"
        for module, line in GRAPH[name].items()
        if FLOOR.get(room(module), 0) > FLOOR.get(room(name), 99)
    ]
    assert upwards == []


def test_faces_do_not_know_each_other() -> None:
    faces = FLOORS[-1]
    for name, used in GRAPH.items():
        for module in used:
            if room(name) in faces and room(module) in faces:
                assert room(name) == room(module), f"{name} imports {module}"


def test_no_module_needs_itself_to_be_imported() -> None:
    graph = {name: dict(imported(name, path, late=False)) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for module in graph[name]:
                visit(module, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def loaded(program: str) -> set[str]:
    """The heavy libraries that a program ends up with."""
    text = f"{program}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(done.stdout.split()) & (HEAVY | LIGHT)


@pytest.mark.parametrize(
    "program",
    [
        "from batchlib import Application, Duration, Memory, State, Reason, Run, BatchlibError; Application('x')",
        "from batchlib import load, Configuration",
        "import batchlib.config; batchlib.config.load('/dev/null')",
        "import batchlib.transport.local",
        "import batchlib.transport.ssh; batchlib.transport.ssh.SshSettings('host')",
        "import batchlib.sandbox, batchlib.backends.batch, batchlib.backends.slurm, batchlib.backends.shell",
    ],
)
def test_what_is_not_used_is_not_imported(program: str) -> None:
    assert loaded(program) & HEAVY == set()


def test_importing_batchlib_imports_nothing_else() -> None:
    assert loaded("import batchlib; dir(batchlib); batchlib.__version__") == set()


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_needed_to_help_is_not_imported(command: str, words: list[str]) -> None:
    program = f"""
import contextlib, os, sys
sys.argv = ["{command}", *{words}]
from batchlib.cli.{command} import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(open(os.devnull, "w")):
    main()
"""
    assert loaded(program) == {"click"}


def test_every_public_name_is_there() -> None:
    for name in batchlib.__all__:
        assert getattr(batchlib, name) is not None
    assert set(batchlib.__all__) <= set(dir(batchlib))
    with pytest.raises(AttributeError, match="no attribute 'Aplication'"):
        _ = batchlib.Aplication
