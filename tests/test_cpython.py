"""R6: CPython's own tests for atexit, taken from the interpreters at hand, against a shim.

The shim maps names: `_run_exitfuncs` is close(), `_clear` cancels what is pending. So the tests
of 3.9 pass. Of today's fail those that look for a failure in `sys.unraisablehook`, where atexit
has handed it since 3.10; they pass once the shim hands the failures in the report to that hook.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SHIM = """
import importlib.util, sys, types, unittest
import logging  # registers with atexit, and with the real one
import lastly

manager = lastly.ShutdownManager()
functions = {}

def clear():
    for registration in manager.pending():
        registration.cancel()

shim = types.ModuleType("atexit")
shim.register = manager.register
shim.unregister = manager.unregister
shim._clear = clear
shim._ncallbacks = lambda: len(manager.pending())
shim._run_exitfuncs = manager.close

def register(func, /, *args, **kwargs):
    manager.register(func, *args, **kwargs)
    functions[manager.pending()[0].name] = func
    return func

def run_and_hand_over():
    before = manager.last_report()
    manager.close()
    report = manager.last_report()
    for outcome in report.failures if report is not before else ():
        exc, func = outcome.exception, functions[outcome.name]
        newer = sys.version_info >= (3, 13)
        sys.unraisablehook(types.SimpleNamespace(
            exc_type=type(exc), exc_value=exc, exc_traceback=exc.__traceback__,
            object=None if newer else func,
            err_msg=f"Exception ignored in atexit callback {func!r}" if newer else None))

if sys.argv[2] == "hands over":
    manager.configure(errors="log")
    shim.register, shim._run_exitfuncs = register, run_and_hand_over

sys.modules["atexit"] = shim
spec = importlib.util.spec_from_file_location("cpythons", sys.argv[1])
cpythons = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cpythons)
suite = unittest.defaultTestLoader.loadTestsFromTestCase(cpythons.GeneralTest)
result = unittest.TextTestRunner().run(suite)
for test, _ in result.failures + result.errors:
    print(test.id().rpartition(".")[2])
print(result.testsRun)
"""

# Of today's tests, those that fail for what docs/guarantees.md says is different.
DIFFER = [
    "test_atexit_with_unregistered_function",
    "test_badargs",
    "test_exit",
    "test_raise",
    "test_raise_unnormalized",
]


def find_39() -> Path | None:
    """Find the library of a CPython 3.9, the last one whose atexit re-raised."""
    roots = [Path(found).resolve().parent.parent] if (found := shutil.which("python3.9")) else []
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True)
        roots += Path(root.stdout.strip(), "versions").glob("3.9.*")
    for root in roots:
        if (tests := root / "lib/python3.9/test/test_atexit.py").exists():
            return tests
    return None


def run_against_the_shim(run_child, tests: Path, how: str) -> list[str]:
    """Return the names of the tests that have failed."""
    ended = run_child(SHIM, str(tests), how, PYTHONPATH=os.pathsep.join(sys.path))
    *failed, count = ended.out
    assert int(count) >= 10
    return sorted(failed)


@pytest.mark.parametrize(("how", "failed"), [("maps names", DIFFER), ("hands over", [])])
def test_todays_tests_of_the_interpreter_that_runs(run_child, how: str, failed: list[str]) -> None:
    """R6: of what this CPython ships for atexit itself all passes but what is listed."""
    spec = importlib.util.find_spec("test._test_atexit")
    if spec is None or spec.origin is None:
        pytest.skip("this Python ships without its test package")
    assert run_against_the_shim(run_child, Path(spec.origin), how) == failed


def test_each_difference_is_in_the_docs() -> None:
    """R6: docs/guarantees.md names every test that fails, and says why."""
    page = (ROOT / "docs/guarantees.md").read_text()
    _, _, differences = page.partition("## Where it differs from `atexit`")
    named = re.findall(r"`(test_\w+)`", differences.partition("## The rules")[0])
    assert sorted(named) == DIFFER


def test_the_tests_of_3_9(run_child) -> None:
    """R6: the tests of 3.9, whose atexit still re-raised the last exception, pass."""
    tests = find_39()
    if tests is None:
        pytest.skip("no CPython 3.9 on this machine")
    assert run_against_the_shim(run_child, tests, "maps names") == []
