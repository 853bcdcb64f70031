"""The test kit: isolate the default manager, make callbacks hang or fail, run a program.

Its fixtures, `lastly_manager`, the default manager empty for one test, and `lastly_clock`, a clock
of its that the test moves, come with `pytest_plugins = ["lastly.testing"]` in the top conftest.py.
Nothing of lastly's imports it. PYTEST_DONT_REWRITE, so that a conftest.py may also import it.
"""

from __future__ import annotations

from ._asserts import assert_unwound
from ._faults import fail, hang
from ._isolation import isolated
from ._program import Child, Result, run_program
from ._time import FakeClock, fake_clock

__all__ = [
    "Child",
    "FakeClock",
    "Result",
    "assert_unwound",
    "fail",
    "fake_clock",
    "hang",
    "isolated",
    "run_program",
]

# What needs pytest is a module of its own: the rest works with any other runner of tests.
pytest_plugins: list[str] = ["lastly.testing._plugin"]
