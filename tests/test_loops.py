"""R14: loop teardown under asyncio's runners and uvloop, by whoever tears the loop down."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import textwrap
import threading
import types
import unittest
import weakref

import pytest

import lastly

WORKS = """
import asyncio, sys
import lastly

async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    @lastly.register
    async def bottom():
        server.close()
        await server.wait_closed()
        print("bottom")

    @lastly.register
    async def threads():
        print("thread", await asyncio.to_thread(lambda: 1))

    @lastly.register
    async def names():
        infos = await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        print("name", bool(infos))

    @lastly.register
    async def connections():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        print("connection", await reader.read())
        writer.close()
        await writer.wait_closed()

    @lastly.register
    async def processes():
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        print("process", await process.wait())

    @lastly.register
    async def generators():
        async def generate():
            yield "generator"
        async for item in generate():
            print(item)

    print("main")
"""

RUNNERS = {
    "asyncio.run": "asyncio.run(main())",
    "asyncio.run, uvloop": """
        import uvloop
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
        """,
    "uvloop.run": "import uvloop; uvloop.run(main())",
    "Runner": """
        with asyncio.Runner() as runner:
            runner.run(main())
        """,
    "anyio.run": "import anyio; anyio.run(main)",
    "anyio.run, uvloop": "import anyio; anyio.run(main, backend_options={'use_uvloop': True})",
    "IsolatedAsyncioTestCase": """
        import unittest
        class Test(unittest.IsolatedAsyncioTestCase):
            async def test(self):
                await main()
        unittest.main(argv=["test"], exit=False, verbosity=0)
        """,
    "close alone": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """,
    "close alone, uvloop": """
        import uvloop
        loop = uvloop.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """,
    "never closed": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        """,
    "never closed, uvloop": """
        import uvloop
        loop = uvloop.new_event_loop()
        loop.run_until_complete(main())
        """,
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_everything_still_works_in_callbacks(run_child, runner: str) -> None:
    """R14, R16: callbacks run newest first while threads, names, connections, processes work."""
    source = WORKS + textwrap.dedent(RUNNERS[runner])
    ended = run_child(source + "\nprint('after')\n")
    expected = ["main", "generator", "process 0", "connection b''", "name True", "thread 1"]
    expected += ["bottom"]
    closes = not runner.startswith("never closed")
    # A loop that is never closed unwinds at interpreter exit, after all else.
    expected = [*expected, "after"] if closes else ["main", "after", *expected[1:]]
    assert ended.out == expected, ended.err
    errors = [line for line in ended.err.splitlines() if "unclosed" not in line]
    assert closes is False or not any("Error" in line for line in errors), ended.err


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_final_exception_comes_out_of_the_call_that_tears_down(run_child, runner: str) -> None:
    """R11, R14: whoever tears the loop down gets the final exception; its own work is done."""
    source = """
import asyncio, sys
import lastly

async def main():
    global loop_of_main
    loop_of_main = asyncio.get_running_loop()
    lastly.defer(print, "bottom")

    @lastly.register
    async def fails():
        await asyncio.sleep(0)
        raise ValueError("cleanup")

try:
"""
    source += textwrap.indent(textwrap.dedent(RUNNERS[runner]).strip(), "    ")
    source += """
except ValueError as exc:
    print("came out:", exc)
print(loop_of_main.is_closed())
"""
    ended = run_child(source)
    if runner.startswith("never closed"):
        assert ended.out == ["False", "bottom"]
        assert "Exception ignored in atexit callback" in ended.err
    else:
        assert ended.out == ["bottom", "came out: cleanup", "True"], ended.err


def test_registering_while_another_thread_loads_asyncio(
    manager: lastly.ShutdownManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R14: a half-loaded library runs no loop in this thread, and breaks no registration."""
    for name in ("asyncio.events", "trio.lowlevel"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    handle = manager.defer(int)
    monkeypatch.undo()
    assert handle.home is None
    assert handle.cancel()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest):
    if request.param == "uvloop":
        loop = pytest.importorskip("uvloop").new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    yield loop
    loop.close()


async def _fail(exception: BaseException) -> None:
    await asyncio.sleep(0)
    raise exception


def test_the_final_exception_comes_out_of_asyncio_run(manager: lastly.ShutdownManager) -> None:
    """R14: asyncio.run raises the final exception, the same object, when main was fine."""
    boom = ValueError("boom")

    async def main() -> None:
        manager.defer(_fail, boom)
        manager.defer(_fail, KeyError("earlier"))

    with pytest.raises(ValueError, match="boom") as caught:
        asyncio.run(main())
    assert caught.value is boom
    assert "1 earlier failure" in boom.__notes__[0]
    assert manager.last_report().reason == lastly.Reason("loop teardown")


def test_what_main_raised_is_the_context(manager: lastly.ShutdownManager) -> None:
    """R12, R14: main's ordinary exception is the context of the cleanup's."""
    body = ValueError("main")

    async def main() -> None:
        manager.defer(_fail, KeyError("cleanup"))
        raise body

    with pytest.raises(KeyError) as caught:
        asyncio.run(main())
    assert caught.value.__context__ is body


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_mains_control_flow_goes_on(manager: lastly.ShutdownManager, kind: type) -> None:
    """R12, R14: what main raised on purpose comes out of asyncio.run, with the note on it."""

    async def main() -> None:
        manager.defer(_fail, ValueError("cleanup"))
        raise kind

    with pytest.raises(kind) as caught:
        asyncio.run(main())
    assert "1 callback failed while this was on its way out" in caught.value.__notes__[0]


def test_what_is_handled_around_the_run_is_not_on_its_way_out(
    manager: lastly.ShutdownManager,
) -> None:
    """R12, R14: `except KeyboardInterrupt: asyncio.run(...)` must not hide a failed cleanup."""

    async def main() -> None:
        manager.defer(_fail, ValueError("cleanup"))

    with pytest.raises(ValueError, match="cleanup"):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            asyncio.run(main())


def test_two_managers_on_one_loop(manager: lastly.ShutdownManager) -> None:
    """R14: the manager that came last unwinds first, and neither's failure is lost."""
    other = lastly.ShutdownManager("other")
    calls: list[str] = []
    first, second = ValueError("first"), KeyError("second")

    async def main() -> None:
        manager.defer(_fail, first)
        manager.defer(calls.append, "first manager")
        other.defer(_fail, second)
        other.defer(calls.append, "second manager")

    with pytest.raises(ValueError, match="first") as caught:
        asyncio.run(main())
    assert caught.value is first
    assert first.__context__ is second
    assert calls == ["second manager", "first manager"]


def test_only_the_loop_object_is_touched_and_only_once(
    manager: lastly.ShutdownManager, loop: asyncio.AbstractEventLoop
) -> None:
    """R14: two attributes of one instance, put back when the loop is closed."""
    other = lastly.ShutdownManager()
    before = dict(vars(loop))
    classes = {name: vars(kind).get("close") for kind in type(loop).__mro__ for name in [kind]}

    async def register() -> None:
        manager.defer(int)
        other.defer(int)

    loop.run_until_complete(register())
    touched = {name for name in vars(loop) if vars(loop)[name] is not before.get(name)}
    assert {"shutdown_asyncgens", "close"} <= touched
    ours = vars(loop)["close"]
    loop.run_until_complete(register())
    assert vars(loop)["close"] is ours
    loop.close()
    assert "close" not in vars(loop)
    assert "shutdown_asyncgens" not in vars(loop)
    assert classes == {name: vars(name).get("close") for name in type(loop).__mro__}
    assert loop.is_closed()
    loop.close()


def test_somebody_elses_wrapper_stays(manager: lastly.ShutdownManager) -> None:
    """R14: whoever wraps close() and shutdown_asyncgens() after lastly keeps the wrapper."""
    loop = asyncio.new_event_loop()
    calls: list[str] = []

    async def register() -> None:
        manager.defer(calls.append, "callback")

    loop.run_until_complete(register())
    close, shutdown = loop.close, loop.shutdown_asyncgens
    loop.close = lambda: (calls.append("close"), close())
    loop.shutdown_asyncgens = lambda: (calls.append("asyncgens"), shutdown())[1]
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    loop.close()
    assert calls == ["asyncgens", "callback", "close", "close"]
    assert loop.is_closed()


def test_closing_a_running_loop_is_refused_and_runs_nothing(
    manager: lastly.ShutdownManager, loop: asyncio.AbstractEventLoop
) -> None:
    """R14: the loop's own refusal comes out; the callbacks wait for the real teardown."""
    calls: list[str] = []

    async def main() -> None:
        manager.defer(calls.append, "callback")
        with pytest.raises(RuntimeError):
            loop.close()
        assert calls == []

    loop.run_until_complete(main())
    loop.close()
    assert calls == ["callback"]


def test_registering_while_the_loop_is_torn_down(
    manager: lastly.ShutdownManager, loop: asyncio.AbstractEventLoop
) -> None:
    """R2, R14: also what an async generator's `finally` registers is run, at the latest in close()."""
    calls: list[str] = []

    async def generate():
        try:
            yield
        finally:
            manager.defer(calls.append, "from the generator")

    async def main() -> None:
        manager.defer(calls.append, "callback")
        await anext(kept)

    kept = generate()
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert calls == ["callback"]
    loop.close()
    assert calls == ["callback", "from the generator"]


def test_registering_with_a_manager_that_the_teardown_has_passed(
    manager: lastly.ShutdownManager,
) -> None:
    """R2, R14: what another manager's callback registers runs while the executor still does."""
    passed = lastly.ShutdownManager("passed")
    calls: list[str] = []

    async def needs_the_executor() -> None:
        calls.append(await asyncio.to_thread(str, "in a thread"))

    async def main() -> None:
        manager.defer(passed.register, needs_the_executor)
        passed.defer(calls.append, "passed")

    asyncio.run(main())
    assert calls == ["passed", "in a thread"]


def test_the_rest_of_a_teardown_is_watched_as_the_last_manager_asks_for(
    manager: lastly.ShutdownManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R14, R23: the one that has unwound last, whatever those before it do not want to hear."""
    other = lastly.ShutdownManager("other", slow_after=None)
    manager.configure(slow_after=0.01)
    told = threading.Event()

    def hears(record: logging.LogRecord) -> bool:
        if "for the event loop to be torn down" in record.getMessage():
            told.set()
        return True

    async def main() -> None:
        manager.defer(int)
        other.defer(int)
        asyncio.get_running_loop().run_in_executor(None, told.wait, 30)

    monkeypatch.setattr(logging.getLogger("lastly"), "filters", [hears])
    asyncio.run(main())
    assert told.is_set()


def test_closing_the_loop_where_mains_exception_is_handled(
    manager: lastly.ShutdownManager, loop: asyncio.AbstractEventLoop
) -> None:
    """R12, R14: close() does not raise what its caller handles already."""
    calls: list[str] = []

    async def main() -> None:
        manager.defer(calls.append, "callback")
        raise ValueError

    try:
        loop.run_until_complete(main())
    except ValueError:
        loop.close()
    assert calls == ["callback"]


def test_exceptions_that_cannot_be_compared(manager: lastly.ShutdownManager) -> None:
    """R12, R14: what main raises comes out, also where another of its kind is being handled."""

    class Incomparable(Exception):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise TypeError

    async def main() -> asyncio.AbstractEventLoop:
        manager.defer(loops.append, asyncio.get_running_loop())
        raise Incomparable("main's")

    loops: list[asyncio.AbstractEventLoop] = []
    try:
        raise Incomparable("handled")
    except Incomparable:
        with pytest.raises(Incomparable, match="main's"):
            asyncio.run(main())
    assert [loop.is_closed() for loop in loops] == [True]


def test_a_teardown_that_is_broken_off_goes_on_in_close(
    manager: lastly.ShutdownManager, loop: asyncio.AbstractEventLoop
) -> None:
    """R9, R14: Ctrl-C in the middle of the teardown leaves a suspended unwind: close() ends it."""
    calls: list[str] = []

    async def interrupted() -> None:
        loop.call_soon(_raise, KeyboardInterrupt)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        calls.append("interrupted")

    def _raise(kind: type[BaseException]) -> None:
        calls.append("ctrl-c")
        raise kind

    async def main() -> None:
        manager.defer(calls.append, "bottom")
        manager.register(interrupted)

    loop.run_until_complete(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(loop.shutdown_asyncgens())
    assert calls == ["ctrl-c"]
    loop.close()
    assert calls == ["ctrl-c", "interrupted", "bottom"]


def test_a_loop_closed_inside_another_that_runs(manager: lastly.ShutdownManager) -> None:
    """R14: a thread can run one loop, so the other's callbacks run in a thread of their own."""
    calls: list[object] = []
    inner = asyncio.new_event_loop()

    async def callback() -> None:
        await asyncio.sleep(0)
        calls.append(asyncio.get_running_loop())

    async def register() -> None:
        manager.register(callback)

    inner.run_until_complete(register())

    async def main() -> None:
        inner.close()

    asyncio.run(main())
    assert calls == [inner]
    assert inner.is_closed()


def test_a_task_that_is_unwinding_when_the_loop_ends(manager: lastly.ShutdownManager) -> None:
    """R14: asyncio.run cancels a task in its aclose(): one callback is hit, the rest run."""
    calls: list[str] = []

    async def hangs() -> None:
        began.set()
        await asyncio.Event().wait()

    async def main() -> None:
        nonlocal began
        began = asyncio.Event()
        manager.defer(calls.append, "bottom")
        manager.register(hangs)
        tasks.append(asyncio.ensure_future(manager.aclose()))
        await began.wait()

    began: asyncio.Event
    tasks: list[asyncio.Future[None]] = []
    asyncio.run(main())
    assert calls == ["bottom"]


def test_asyncio_run_many_times_in_one_program(manager: lastly.ShutdownManager) -> None:
    """R14: each run unwinds its own, and what is at home in the interpreter waits."""
    calls: list[object] = []
    manager.defer(calls.append, "module level")

    async def main(n: int) -> None:
        manager.defer(calls.append, n)

    for n in range(5):
        asyncio.run(main(n))
        assert calls == list(range(n + 1))
    manager.close()
    assert calls[5:] == ["module level"]


def test_nothing_is_kept_of_a_loop_that_is_gone(manager: lastly.ShutdownManager) -> None:
    """R14: after the teardown neither manager nor loop hold each other."""
    gone: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    manager.defer(int, name="still pending")

    async def main() -> None:
        manager.defer(int)
        gone.append(weakref.ref(asyncio.get_running_loop()))

    asyncio.run(main())
    gc.collect()
    assert gone[0]() is None
    manager.close()


async def test_the_default_manager_is_a_manager() -> None:
    """The module's functions are the methods of one default manager."""
    calls: list[str] = []
    handle = lastly.defer(calls.append, "one")
    lastly.defer(name="two")(int)
    lastly.unregister(int)
    assert lastly.pending() == (handle,)
    await lastly.aclose("test")
    assert lastly.last_report().reason == lastly.Reason("close", "test")
    assert calls == ["one"]


class TestIsolated(unittest.IsolatedAsyncioTestCase):
    async def test_a_loop_of_unittests(self) -> None:
        """R14: unittest's own loop is torn down like any other."""
        manager = lastly.ShutdownManager()
        loop = asyncio.get_running_loop()
        manager.defer(self.addClassCleanup, int)
        assert manager.pending()[0].home is loop


def test_the_loops_of_pytest_asyncio(run_child) -> None:
    """R14: function and session loops of pytest-asyncio are torn down like any other."""
    run_child(
        """
        import pytest, lastly

        calls = []

        @pytest.mark.asyncio
        async def test_function():
            lastly.defer(calls.append, "function")

        @pytest.mark.asyncio(loop_scope="session")
        async def test_session():
            assert calls == ["function"]
            lastly.defer(calls.append, "session")

        @pytest.mark.asyncio(loop_scope="session")
        async def test_later():
            assert calls == ["function"]

        if __name__ == "__main__":
            plugins = ["-p", "no:anyio", "-p", "no:cacheprovider"]
            code = pytest.main([__file__, "-q", "--noconftest", "-c", "/dev/null", *plugins])
            import sys
            assert sys.modules["program"].calls == ["function", "session"]
            raise SystemExit(code)
        """
    )
