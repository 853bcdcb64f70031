"""The package's shape: what loads what, what is public, and no import cycles."""

from __future__ import annotations

import ast
import importlib.metadata
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lastly

PACKAGE = Path(lastly.__file__).parent


def imports(tree: ast.AST) -> set[str]:
    """Return lastly's modules that a module imports, at any depth, but not for types alone."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] == "lastly" for name in names), "relative, please"
        else:
            found |= imports(node)
    return found


CONTRIB = [*(PACKAGE / "contrib").glob("*.py")]
GRAPH = {path.stem: imports(ast.parse(path.read_text())) for path in PACKAGE.glob("*.py")}


def test_there_are_no_import_cycles() -> None:
    """No module imports another that imports it, not even inside a function."""
    tuple(TopologicalSorter(GRAPH).static_order())


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("_backends", set()),
        ("_render", set()),
        ("_where", set()),
        ("_picture", {"_render"}),
        ("_outcome", {"_picture", "_render"}),
        ("_clock", {"_backends"}),
        ("_settings", {"_clock"}),
        ("_errors", {"_outcome"}),
        ("_registration", {"_outcome"}),
        ("_threads", {"_backends", "_errors", "_outcome", "_registration"}),
        ("_checks", {"_outcome", "_registration"}),
        ("_index", {"_registration"}),
        ("_books", {"_errors", "_outcome", "_registration"}),
        ("_stack", {"_index", "_registration"}),
        ("_watch", {"_errors", "_fork", "_outcome", "_where"}),
        ("_spot", {"_backends", "_threads", "_watch", "_where"}),
        ("_interpreter", {"_aside", "_errors", "_fork", "_watch"}),
        ("_limits", {"_backends", "_ladder", "_outcome", "_watch"}),
        ("_fork", set()),
        ("_aside", {"_fork"}),
        ("_wakeup", set()),
        ("_ladder", {"_backends", "_fork"}),
        (
            "_main",
            {"_aside", "_backends", "_errors", "_spot", "_unwind", "_watch", "_where"},
        ),
        ("_delivery", {"_backends", "_errors", "_unwind"}),
        (
            "_signals",
            {
                "_aside",
                "_backends",
                "_delivery",
                "_errors",
                "_fork",
                "_ladder",
                "_outcome",
                "_unwind",
                "_watch",
                "_where",
            },
        ),
        (
            "_unwind",
            {
                "_books",
                "_errors",
                "_fork",
                "_ladder",
                "_limits",
                "_outcome",
                "_registration",
                "_spot",
            },
        ),
        (
            "_runners",
            {"_backends", "_errors", "_limits", "_registration", "_threads", "_unwind", "_watch"},
        ),
        (
            "_homes",
            {
                "_backends",
                "_errors",
                "_limits",
                "_registration",
                "_runners",
                "_threads",
                "_where",
            },
        ),
        ("_guard", {"_backends", "_errors", "_runners"}),
        ("_together", {"_registration"}),
        (
            "_place",
            {
                "_backends",
                "_errors",
                "_guard",
                "_outcome",
                "_registration",
                "_runners",
                "_spot",
                "_threads",
                "_unwind",
            },
        ),
        ("_loops", {"_backends", "_books", "_errors", "_outcome", "_runners", "_watch"}),
    ],
)
def test_the_arrows_point_one_way(module: str, allowed: set[str]) -> None:
    """A module imports what its docstring says that it may, and nobody above it."""
    assert GRAPH[module] <= allowed


def kit_imports(name: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"testing/{name}.py").read_text())
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("lastly")):
            names = {alias.name for alias in node.names}
            found |= names if node.module == "lastly" else {node.module.removeprefix("lastly.")}
    return found


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("_asserts", {"_manager", "_outcome"}),
        ("_faults", {"_backends", "_checks", "_manager", "_registration", "_time"}),
        ("_isolation", {"_interpreter", "_ladder", "_manager", "_signals"}),
        ("_plugin", {"_isolation", "_time"}),
        ("_program", set()),
        ("_time", {"_backends", "_clock", "_manager"}),
    ],
)
def test_the_arrows_of_the_test_kit(module: str, allowed: set[str]) -> None:
    """The kit stands on lastly; nothing of lastly's imports it, not even inside a function."""
    assert kit_imports(module) == allowed
    assert not any("testing" in found for found in GRAPH.values())


@pytest.mark.parametrize("path", CONTRIB, ids=lambda path: path.stem)
def test_an_adapter_needs_no_framework(path: Path) -> None:
    """What lastly.contrib imports, anywhere, is lastly's public names, and of the library little."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= {"logging"}
        if isinstance(node, ast.ImportFrom) and node.module == "lastly":
            assert {alias.name for alias in node.names} <= set(lastly.__all__)
        elif isinstance(node, ast.ImportFrom):
            allowed = {"__future__", "collections.abc", "contextlib", "traceback", "typing"}
            assert node.module in allowed


@pytest.mark.parametrize("path", [*PACKAGE.rglob("*.py")], ids=lambda path: path.stem)
def test_every_module_says_what_it_owns(path: Path) -> None:
    """Each module has a docstring of at most five lines."""
    assert 1 <= len(ast.get_docstring(ast.parse(path.read_text())).splitlines()) <= 5


def test_importing_lastly_loads_no_event_loop(run_child) -> None:
    """`import lastly` loads none of asyncio, anyio, trio, nor other heavy modules."""
    run_child(
        """
        import sys
        before = set(sys.modules)
        import lastly
        heavy = {"asyncio", "anyio", "trio", "typing", "inspect", "dataclasses"}
        assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)
        import lastly.contrib.asgi, lastly.contrib.quart
        assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)
        lastly.defer(print, "sync callbacks need none of them")
        lastly.close()
        assert not {"asyncio", "anyio", "trio"} & set(sys.modules)
        """
    )


def test_what_is_public() -> None:
    """`__all__` is sorted and complete: every public name, and no other."""
    modules = {path.stem for path in PACKAGE.iterdir()}
    names = {name for name in vars(lastly) if not name.startswith("_")}
    assert names - modules == set(lastly.__all__)
    assert lastly.__all__ == sorted(lastly.__all__)
    assert all(getattr(lastly, name).__doc__ for name in lastly.__all__)


def test_the_only_runtime_dependency_is_anyio() -> None:
    """Everything else is an extra."""
    requires = importlib.metadata.requires("lastly")
    assert [r for r in requires if "extra ==" not in r] == ["anyio>=4.5"]
    assert (PACKAGE / "py.typed").exists()
