"""R14 to R16: many loops in one program, and who tears them down: every cell of docs/loops.md."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import anyio
import pytest

import lastly

ROOT = Path(__file__).resolve().parent.parent

# One program for all runners. What is registered outside of a loop is "module"; inside,
# "in loop", which needs the loop's executor. `main` ends as the trigger says.
PROGRAM = """
import asyncio, os, signal, sys, threading
import lastly

runner, trigger = sys.argv[1:]

def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())

@lastly.register
async def module():
    say("module")

async def main():
    import anyio

    @lastly.register
    async def in_loop():
        try:
            await anyio.sleep(0)
            say("in loop,", await anyio.to_thread.run_sync(lambda: "in a thread"))
        except RuntimeError as exc:
            say(str(exc))
        if trigger == "callback fails":
            raise LookupError("callback")
    if trigger == "block":
        async with lastly.lifespan():
            pass
        say("after the block")
    if trigger == "main raises":
        raise ValueError("main")
    if trigger == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep(60)

def by_hand(ends):
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        ends(loop)

if trigger == "signal" and not runner.startswith("lastly"):
    lastly.install_signal_handlers()
match runner:
    case "asyncio.run":
        asyncio.run(main())
    case "asyncio.Runner":
        with asyncio.Runner() as it:
            it.run(main())
    case "uvloop.run":
        import uvloop
        uvloop.run(main())
    case "anyio.run":
        import anyio
        anyio.run(main)
    case "trio.run":
        import trio
        trio.run(main)
    case "lastly.run":
        lastly.run(main)
    case "lastly.run on trio":
        lastly.run(main, backend="trio")
    case "a loop by hand, closed":
        by_hand(lambda loop: loop.close())
    case "a loop by hand, left open":
        by_hand(lambda loop: None)
    case "a thread's own loop":
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        thread.join()
    case "a daemon thread's loop":
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(main(), loop).result()
    case "IsolatedAsyncioTestCase":
        import unittest

        class Test(unittest.IsolatedAsyncioTestCase):
            async def test(self):
                await main()

        result = unittest.TextTestRunner(stream=open(os.devnull, "w")).run(
            unittest.defaultTestLoader.loadTestsFromTestCase(Test)
        )
        if not result.wasSuccessful():
            raise AssertionError(result.errors[0][1].splitlines()[-1])
say("after")
"""

IN_LOOP = "in loop, in a thread"
TRIGGERS = {
    "main returns": "main returns",
    "main raises": "main raises",
    "callback fails": "a callback fails",
    "block": "`async with lifespan()` in main",
    "signal": "SIGTERM",
}
# What a cell of the table means: what the program says, and what comes out of it, if anything.
CELLS = {
    "teardown, exit": ([IN_LOOP, "after", "module"], None),
    "teardown, exit; raised": ([IN_LOOP, "module"], "raised"),
    "teardown, exit; logged": ([IN_LOOP, "after", "module"], None),
    "teardown, exit; 143": ([IN_LOOP, "module"], 143),
    "block": ([IN_LOOP, "module", "after the block", "after"], None),
    "main's task": ([IN_LOOP, "module", "after"], None),
    "main's task; raised": ([IN_LOOP, "module"], "raised"),
    "main's task; 143": ([IN_LOOP, "module"], 143),
    "exit": (["after", IN_LOOP, "module"], None),
    "exit; raised": ([IN_LOOP, "module"], "raised"),
    "exit; logged": (["after", IN_LOOP, "module"], None),
    "exit; 143": ([IN_LOOP, "module"], 143),
}
RAISED = {"main raises": "ValueError: main", "callback fails": "LookupError: callback"}

RUN = ["main's task", *["main's task; raised"] * 2, "block", "main's task; 143"]
TEARDOWN = [
    *["teardown, exit", "teardown, exit; raised", "teardown, exit; raised"],
    *["block", "teardown, exit; 143"],
]
LOGGED = "teardown, exit; logged"
RUNNERS = {
    "lastly.run": RUN,
    "lastly.run on trio": RUN,
    "asyncio.run": TEARDOWN,
    "asyncio.Runner": TEARDOWN,
    "uvloop.run": TEARDOWN,
    "anyio.run": TEARDOWN,
    "IsolatedAsyncioTestCase": [*TEARDOWN[:4], None],
    "trio.run": [*TEARDOWN[:2], LOGGED, *TEARDOWN[3:]],
    "a loop by hand, closed": TEARDOWN,
    "a loop by hand, left open": ["exit", "exit; raised", "exit; logged", "block", "exit; 143"],
    "a thread's own loop": [TEARDOWN[0], LOGGED, LOGGED, "block", None],
    "a daemon thread's loop": ["exit", "exit; raised", "exit; logged", "block", None],
}


@pytest.mark.parametrize(
    ("runner", "trigger", "cell"),
    [
        (runner, trigger, cell)
        for runner, cells in RUNNERS.items()
        for trigger, cell in zip(TRIGGERS, cells, strict=True)
        if cell is not None
    ],
)
def test_runner_and_trigger(run_child, runner: str, trigger: str, cell: str) -> None:
    """R14 to R18: which runner, which trigger, and what happens then."""
    if cell.startswith("exit") and (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 1):
        pytest.skip("3.12.0 and 3.12.1 start no thread at interpreter exit")
    said, comes_out = CELLS[cell]
    ended = run_child(PROGRAM, runner, trigger, expect=None, PYTHONWARNINGS="ignore")
    assert ended.out == said
    if comes_out == "raised":
        assert re.search(rf"(?m)(^|: ){RAISED[trigger]}$", ended.err)
        assert ended.returncode == 1
    else:
        assert ended.returncode == (comes_out or 0), ended.err
    assert ("callback main.<locals>.in_loop (" in ended.err) == (trigger == "callback fails")


def test_the_docs_have_the_table() -> None:
    """R14 to R18: every cell of it is a test."""
    heads = ["runner", *TRIGGERS.values()]
    rows = [heads, ["---"] * len(heads)]
    rows += [
        [f"`{name}`" if "." in name or "Case" in name else name, *(cell or "-" for cell in cells)]
        for name, cells in RUNNERS.items()
    ]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    page = (ROOT / "docs/loops.md").read_text()
    assert table in page, table


def test_five_runs_in_one_program(run_child) -> None:
    """R14: each has its own loop; what was registered outside runs once, at exit."""
    ended = run_child(
        """
        import asyncio, lastly

        async def callback(number):
            await asyncio.to_thread(print, "closed", number)

        async def main(number):
            lastly.register(callback, number)
            print("main", number)

        lastly.defer(print, "module")
        for number in range(5):
            asyncio.run(main(number))
        """
    )
    assert ended.out == [f"{w} {n}" for n in range(5) for w in ("main", "closed")] + ["module"]


async def test_nested_managers_and_two_on_one_loop(manager: lastly.ShutdownManager) -> None:
    """R13, R18: each closes what is its own; one may close another in the middle of its unwind."""
    ran: list[str] = []

    async def callback(name: str) -> None:
        await anyio.sleep(0)
        ran.append(name)

    async with manager:
        manager.register(callback, "outer, older")
        inner = lastly.ShutdownManager("inner")
        manager.register(inner.aclose)
        inner.register(callback, "inner, older")
        async with lastly.ShutdownManager("block") as block:
            block.register(callback, "block")
            inner.register(callback, "inner, newer")
        manager.register(callback, "outer, newer")
    assert ran == ["block", "outer, newer", "inner, newer", "inner, older", "outer, older"]


PYTEST = """
import asyncio, unittest
import lastly, pytest

ran = []

async def callback(name):
    await asyncio.sleep(0)
    ran.append(name)

@pytest.mark.asyncio
async def test_function_loop():
    lastly.register(callback, "function")

@pytest.mark.asyncio
async def test_it_has_been_torn_down():
    assert ran == ["function"]

@pytest.mark.asyncio(loop_scope="session")
async def test_session_loop():
    lastly.register(callback, "session")

@pytest.mark.asyncio(loop_scope="session")
async def test_it_is_still_there():
    assert ran == ["function"]

class Test(unittest.IsolatedAsyncioTestCase):
    async def test_of_unittest(self):
        lastly.register(callback, "unittest")

def test_unittest_has_torn_it_down():
    assert ran == ["function", "unittest"]

@pytest.fixture(scope="session", autouse=True)
def at_the_end():
    yield
    import atexit
    atexit.register(lambda: print("in the end:", ran))
"""


def test_test_runners(tmp_path: Path) -> None:
    """R14: pytest-asyncio with function and session loops, and unittest's own."""
    (tmp_path / "test_it.py").write_text(PYTEST)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
    assert done.stdout.endswith("in the end: ['function', 'unittest', 'session']\n")


CPYTHON = """
import asyncio, sys, unittest
import lastly

made, ran = [], []

from asyncio import base_events
real = base_events.BaseEventLoop.run_until_complete

def run_until_complete(self, future):
    if not getattr(self, "_registered", False) and not self.is_closed():
        self._registered = True
        made.append(self)
        self.call_soon(lastly.defer, ran.append, self)
    return real(self, future)

base_events.BaseEventLoop.run_until_complete = run_until_complete
from test.test_asyncio import test_runners
result = unittest.TextTestRunner(verbosity=0).run(
    unittest.defaultTestLoader.loadTestsFromModule(test_runners)
)
print(result.wasSuccessful(), result.testsRun > 20, len(made) > 20, len(ran) == len(made))
"""


def test_cpythons_own_tests_of_runners(run_child) -> None:
    """R14: they pass with a registration in every loop that they make, and each of those runs."""
    pytest.importorskip("test.test_asyncio.test_runners")
    ended = run_child(CPYTHON, PYTHONWARNINGS="ignore")
    assert ended.out[-1] == "True True True True", ended.err


def test_a_long_lived_process_keeps_nothing(run_child) -> None:
    """R3: a million registrations, and many loops, leave no thing of lastly's behind."""
    ended = run_child(
        """
        import asyncio, gc, sys, threading
        import lastly

        def counts():
            gc.collect()
            kinds = [type(obj).__module__.partition(".")[0] for obj in gc.get_objects()]
            return kinds.count("lastly"), kinds.count("asyncio"), threading.active_count()

        class Thing: ...

        async def callback(thing):
            pass

        async def loop():
            for _ in range(100):
                lastly.register(callback, Thing())

        def cycle(number):
            manager = lastly.ShutdownManager()
            for which in manager, lastly:
                for _ in range(number):
                    which.defer(int)
            manager.pending()[0].cancel()
            manager.close()
            lastly.close()
            asyncio.run(loop())

        cycle(10)
        before = counts()
        for _ in range(10):
            cycle(50_000)
        assert counts() == before, (counts(), before)
        assert not [obj for obj in gc.get_objects() if isinstance(obj, Thing)]
        assert not lastly._interpreter._managers
        """
    )
    assert ended.err == ""


def test_a_manager_a_loop_and_a_thread_that_are_gone() -> None:
    """R14, R16: weak references prove that nobody holds what is over."""
    gone: list[weakref.ref[object]] = []

    def work() -> None:
        async def main() -> None:
            manager = lastly.ShutdownManager()
            handle = manager.defer(int)
            loop = asyncio.get_running_loop()
            gone.extend(map(weakref.ref, (manager, loop, threading.current_thread())))
            manager.defer(print).cancel()
            del handle

        asyncio.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    del thread
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]
