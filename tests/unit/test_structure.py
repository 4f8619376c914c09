"""The files of the package: who imports whom, and who knows whose tables. Read from the sources, without importing them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pgstore"

PACKAGES = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]

# What the rows of stores lie in.
TABLES_OF_STORES = (
    *("dict_entry", "dict_change", "dict_lock"),
    *("queue_item", "queue_deferred", "queue_head", "queue_key", "queue_lapse", "queue_count", "queue_turn"),
    "spawned_call",
    *("inode", "dirent", "blob", "extent", "chunk", "file_lock", "file_system", "volume_version"),
)


def _modules() -> dict[str, Path]:
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = _modules()


def _imports(module: str) -> Iterator[str]:
    """The modules of ours that *module* imports: at its top, in functions, and for type checkers alone."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            names = [
                name if (name := f"{node.module}.{alias.name}") in MODULES else str(node.module) for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules each of which leads to all others of its set (Tarjan), but for those of one that is by itself."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in graph[module]:
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            circle: list[str] = []
            while not circle or circle[-1] != module:
                circle.append(stack.pop())
            if len(circle) > 1 or module in graph[module]:
                found.append(sorted(circle))

    for module in graph:
        if module not in number:
            visit(module)
    return found


def test_files_do_not_import_each_other_in_a_circle():
    """
    Each can be read with those below it alone. Imports for type checkers and within functions count: they hide circles.
    """
    graph = {module: set(_imports(module)) for module in MODULES}
    assert "pgstore.core.operation" in graph["pgstore.client.executor"]

    assert _circles(graph) == []


def test_circles_are_found():
    graph: dict[str, set[str]] = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}

    assert sorted(_circles(graph)) == [["b", "c"], ["e"]]


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: str(path.parent.relative_to(PACKAGE)))
def test_the_docstring_of_a_package_names_each_of_its_modules(path):
    """
    Who has not seen the code finds there where to read on.
    """
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    named = {name.partition(".")[0] for name in re.findall(r"`([\w.]+)`", text)}
    modules = {each.stem for each in path.parent.iterdir() if each.suffix == ".py" or (each / "__init__.py").exists()}

    assert modules - {"__init__"} - named == set()


def test_the_docstring_of_pgstore_names_its_rooms():
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    rooms = {path.parent.name for path in PACKAGES if path.parent.parent == PACKAGE}

    assert {room for room in rooms if f"`{room}`" not in text} == set()


@pytest.mark.parametrize("room", ["client", "connection", "core"])
def test_what_is_below_the_stores_knows_no_table_of_theirs(room):
    """
    Else a new kind of store would have to be entered there too.
    """
    tables = re.compile(rf"\b({'|'.join(TABLES_OF_STORES)})\b")
    found = {
        module: names
        for module, path in MODULES.items()
        if module.startswith(f"pgstore.{room}") and (names := sorted(set(tables.findall(path.read_text()))))
    }

    assert found == {}
