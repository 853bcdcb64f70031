"""R6: CPython's own tests for atexit, taken from the interpreters at hand, against a shim.

The shim maps names: `_run_exitfuncs` is close(), `_clear` cancels what is pending. Since
3.10 atexit hands each failure to `sys.unraisablehook` where lastly logs it; for today's
tests the shim passes the report's failures on to that hook.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHIM = """
import importlib.util, sys, types, unittest
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

if sys.argv[2] == "today's":
    manager.configure(errors="log")
    shim.register, shim._run_exitfuncs = register, run_and_hand_over

sys.modules["atexit"] = shim
spec = importlib.util.spec_from_file_location("cpythons", sys.argv[1])
cpythons = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cpythons)
suite = unittest.defaultTestLoader.loadTestsFromTestCase(cpythons.GeneralTest)
result = unittest.TextTestRunner().run(suite)
print(result.testsRun)
sys.exit(not result.wasSuccessful())
"""


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


def run_against_the_shim(run_child, tests: Path, whose: str) -> int:
    # Not under -X dev: it turns the tests' own unraisable exceptions into noise.
    ended = run_child(SHIM, str(tests), whose, PYTHONPATH=os.pathsep.join(sys.path))
    return int(ended.out[-1])


def test_todays_tests_of_the_interpreter_that_runs(run_child) -> None:
    """R6: every test that this CPython ships for atexit itself passes."""
    spec = importlib.util.find_spec("test._test_atexit")
    if spec is None or spec.origin is None:
        pytest.skip("this Python ships without its test package")
    assert run_against_the_shim(run_child, Path(spec.origin), "today's") >= 10


def test_the_tests_of_3_9(run_child) -> None:
    """R6: the tests of 3.9, whose atexit still re-raised the last exception, pass."""
    tests = find_39()
    if tests is None:
        pytest.skip("no CPython 3.9 on this machine")
    assert run_against_the_shim(run_child, tests, "3.9's") >= 10
