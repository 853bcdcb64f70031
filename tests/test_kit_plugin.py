"""The test kit as a pytest plugin: its fixtures in tests of others, under each async plugin."""

from __future__ import annotations

import pytest

import lastly
import lastly.testing
from lastly.testing import _plugin

ASYNCIO, FIXTURE = "import pytest_asyncio\n@pytest_asyncio.fixture", "@pytest.fixture"
# Every way for an async test and an async fixture: whose plugin, and whether its loop ends with it.
WAYS = {
    "pytest-asyncio strict": ("", "@pytest.mark.asyncio", ASYNCIO),
    "pytest-asyncio auto": ("asyncio_mode=auto", "", FIXTURE),
    "pytest-asyncio session": (
        "",
        '@pytest.mark.asyncio(loop_scope="session")',
        f'{ASYNCIO}(loop_scope="session")',
    ),
    **{
        f"anyio {name}": (
            "anyio_mode=auto",
            f'@pytest.mark.parametrize("anyio_backend", ["{name}"])',
            FIXTURE,
        )
        for name in ("asyncio", "trio")
    },
}
OPTIONS = "-q -W error -p no:cacheprovider -o asyncio_default_fixture_loop_scope=function"


class Run:
    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        pytester.makeconftest('pytest_plugins = ["lastly.testing"]')

    def __call__(self, tests: str, way: str = "anyio asyncio") -> pytest.RunResult:
        mode, mark, fixture = WAYS[way]
        tests = "import anyio, pytest, lastly\nfrom lastly.testing import *\n" + tests
        tests = tests.replace("@TEST", mark).replace("@FIXTURE", fixture)
        self._pytester.makepyfile(tests)
        options = ["-o", mode] if mode else []
        return self._pytester.runpytest_subprocess(*OPTIONS.split(), *options)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run tests, given as their source, by a pytest of their own."""
    return Run(pytester)


def test_the_fixtures_in_the_tests_of_an_app(run: Run) -> None:
    """lastly_manager: each test begins with nothing, whatever the other tests and modules do."""
    run(
        """
lastly.defer(print, name="at import")
lastly.configure(grace=20)

@pytest.mark.parametrize("number", [1, 2])
def test_sync(lastly_manager, number):
    assert lastly_manager.pending() == lastly.pending() == ()
    assert lastly.last_report() is None
    lastly.defer(print, name="close_pool")
    lastly.close()
    assert_unwound("close_pool")

def test_clock(lastly_clock):
    lastly.defer(lastly_clock.advance, 3, name="takes 3 s")
    lastly.close()
    assert assert_unwound("takes 3 s").duration >= 3

def test_without_the_fixture():
    assert [r.name for r in lastly.pending()] == ["at import"]
        """
    ).assert_outcomes(passed=4)


def test_the_signals_of_a_test_are_its_own(run: Run) -> None:
    """lastly_manager, R25: handlers are put back, and no test has been told of another's."""
    run(
        """
import signal
from signal import SIGTERM

before = signal.getsignal(SIGTERM)

@pytest.mark.parametrize("number", [1, 2])
def test_is_terminated(lastly_manager, number):
    assert signal.getsignal(SIGTERM) is before
    lastly.install_signal_handlers(SIGTERM)
    for _ in range(2):
        with pytest.raises(SystemExit):
            signal.raise_signal(SIGTERM)

@TEST
async def test_next(lastly_manager):
    assert signal.getsignal(SIGTERM) is before
    lastly.configure(grace=3600)
    async with lastly.lifespan():
        lastly.defer(anyio.sleep, 0, name="close_pool")
        lastly.request_shutdown("mine")
        assert str(await lastly.wait_requested()) == "request: mine"
    assert_unwound("close_pool")
        """
    ).assert_outcomes(passed=3)


def test_a_test_that_leaves_registrations_fails(run: Run) -> None:
    """lastly_manager: it names what was left, and where; the next test begins with nothing."""
    result = run(
        """
def test_leaves(lastly_manager):
    lastly.defer(print, name="close_pool")

def test_next(lastly_manager):
    assert lastly.pending() == ()
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.re_match_lines(
        [
            r".*ERROR at teardown of test_leaves.*",
            r"E +AssertionError: the test has left these registrations, .* did you forget",
            r"E +close_pool \(.*\.py:5\)",
        ]
    )


@pytest.mark.parametrize("way", WAYS)
def test_async_tests(run: Run, way: str) -> None:
    """lastly_manager, hang: on each loop, and with async fixtures that unwind after the test."""
    run(
        """
closed = []

async def close_pool():
    await anyio.sleep(0)
    closed.append("pool")

@FIXTURE
async def app(lastly_manager):
    async with lastly.lifespan():
        lastly.defer(close_pool)
        yield "app"
    assert_unwound("close_pool")

@TEST
async def test_app(app):
    assert app == "app"
    assert len(lastly.pending()) == 1

@TEST
async def test_hang(lastly_manager):
    assert closed == ["pool"]
    lastly.configure(errors="log")
    with hang("close_pool"):
        async with lastly.lifespan():
            lastly.defer(close_pool, timeout=3600)
    assert_unwound(("close_pool", "timed_out"))
        """,
        way,
    ).assert_outcomes(passed=2)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_test_leaves_on_its_own_loop_unwinds_with_that(run: Run, way: str) -> None:
    """R14, R15: as in production. On a loop that goes on, it is left, and fails the test."""
    outlives = "session" in way
    result = run(
        """
closed = []

async def close_pool():
    await anyio.sleep(0)
    closed.append("pool")

@TEST
async def test_leaves(other, lastly_manager):
    lastly.defer(close_pool)

@FIXTURE
async def other():
    yield

def test_next(lastly_manager):
    assert lastly.pending() == ()
    print("closed", closed)
    assert closed == ([] if %r else ["pool"])
        """
        % outlives,
        way,
    )
    result.assert_outcomes(passed=2, errors=int(outlives))


def test_the_failure_of_what_unwinds_with_the_loop_is_not_lost(run: Run) -> None:
    """R14: it comes out of that loop's end, which is the test's teardown."""
    result = run(
        """
async def close_pool():
    raise OSError("the pool was gone")

@TEST
async def test_leaves(lastly_manager):
    lastly.defer(close_pool)
        """,
        "pytest-asyncio strict",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E * OSError: the pool was gone"])


def test_a_fixture_of_a_wider_scope_keeps_its_registrations(run: Run) -> None:
    """lastly_manager: what a session's fixture has registered is its own, before and after."""
    run(
        """
@pytest.fixture(scope="session")
def database():
    with lastly.ShutdownManager() as manager:
        handle = lastly.defer(print, name="close_database")
        yield
        assert lastly.pending() == (handle,)
        lastly.close()
        assert_unwound("close_database")

def test_app(lastly_manager, database):
    assert lastly.pending() == ()
    lastly.defer(print, name="close_app")
    lastly.close()
    assert_unwound("close_app")
        """
    ).assert_outcomes(passed=1)


def test_a_conftest_that_imports_the_kit_draws_no_warning(pytester: pytest.Pytester) -> None:
    """pytest_plugins: pytest warns of modules that are imported before it can rewrite them."""
    pytester.makeconftest(
        """
        import lastly.testing
        from lastly.testing import hang
        pytest_plugins = ["lastly.testing"]
        """
    )
    pytester.makepyfile("def test(lastly_manager): pass")
    pytester.runpytest_subprocess(*OPTIONS.split()).assert_outcomes(passed=1)


def test_nothing_is_loaded_without_the_line_in_a_conftest(pytester: pytest.Pytester) -> None:
    """pytest_plugins: whoever has lastly installed, and does not ask for the kit, has no kit."""
    pytester.makepyfile(
        """
        import sys

        def test(request):
            assert not any(name.split(".")[0] == "lastly" for name in sys.modules)
            assert "lastly_manager" not in request.fixturenames
        """
    )
    pytester.runpytest_subprocess(*OPTIONS.split()).assert_outcomes(passed=1)


def test_a_run_of_unittests(pytester: pytest.Pytester) -> None:
    """isolated(): for tests without pytest's fixtures; a lifespan stands for the loop's end."""
    pytester.makepyfile(
        """
        import unittest
        import lastly
        from lastly.testing import assert_unwound, isolated

        class Tests(unittest.IsolatedAsyncioTestCase):
            def setUp(self):
                self.enterContext(isolated())

            async def test(self):
                async with lastly.lifespan():
                    lastly.defer(print, name="close_pool")
                assert_unwound("close_pool")

        class WithLifespan(Tests):
            async def asyncSetUp(self):
                await self.enterAsyncContext(lastly.lifespan())

            async def test_leaves(self):
                lastly.defer(print, name="close_pool")
        """
    )
    pytester.runpytest_subprocess(*OPTIONS.split()).assert_outcomes(passed=3)


def test_these_tests_use_the_fixtures_themselves(
    lastly_manager: lastly.ShutdownManager, lastly_clock: lastly.testing.FakeClock
) -> None:
    """lastly_clock: the clock of lastly_manager."""
    assert lastly_manager._settings.clock is lastly_clock
    lastly.defer(lastly_clock.advance, 3)
    lastly_manager.close()
    assert lastly_manager.last_report().duration >= 3


def test_help_tells_how_to_get_the_fixtures() -> None:
    """`help(lastly.testing)` names each of them, and the line that brings them."""
    public = {name for name in vars(_plugin) if name.startswith("lastly_")}
    assert public == {"lastly_manager", "lastly_clock"}
    for name in (*public, 'pytest_plugins = ["lastly.testing"]'):
        assert f"`{name}`" in lastly.testing.__doc__
