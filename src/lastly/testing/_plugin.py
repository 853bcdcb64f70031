"""The fixtures, for pytest.

Not an entry point: every pytest run would load it wherever lastly is installed, in a fifth of the
time that pytest itself takes to load, and before coverage has begun to look at lastly. A line in a
conftest.py costs those who do not write it nothing. May import _isolation and _time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ._isolation import isolated
from ._time import fake_clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lastly import ShutdownManager

    from ._time import FakeClock


@pytest.fixture
def lastly_manager() -> Iterator[ShutdownManager]:
    """Give the default manager to one test, empty; fail the test that leaves registrations."""
    with isolated() as manager:
        yield manager


@pytest.fixture
def lastly_clock(lastly_manager: ShutdownManager) -> Iterator[FakeClock]:
    """Give `lastly_manager` a clock that the test can move forward."""
    with fake_clock(lastly_manager) as clock:
        yield clock


@pytest.fixture(autouse=True)
def _lastly_manager_first(request: pytest.FixtureRequest) -> None:
    # Set up first, it is torn down last: when the test's own event loop has ended, if it has one,
    # and what was registered there has unwound, as it would have in production. anyio's plugin
    # ends that loop before all fixtures, pytest-asyncio's as one of them.
    if "lastly_manager" in request.fixturenames:
        request.getfixturevalue("lastly_manager")
