"""`lastly.run`: what it takes, what it gives back, and the exit status of a program with it."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import trio

import lastly

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = [("asyncio", None), ("asyncio", {"use_uvloop": True}), ("trio", None)]
backends = pytest.mark.parametrize(
    ("backend", "options"), BACKENDS, ids=["asyncio", "uvloop", "trio"]
)


async def double(number: int) -> int:
    await anyio.sleep(0)
    return 2 * number


class Doubler:
    async def __call__(self, number: int) -> int:
        return await double(number)


@backends
@pytest.mark.parametrize(
    "main",
    [double, Doubler(), functools.partial(double), lambda number: double(number)],
    ids=["function", "object", "partial", "lambda"],
)
def test_run_returns_what_main_does(backend: str, options: object, main: object) -> None:
    """R24: whatever kind of callable main is, and also as a coroutine."""
    assert lastly.run(main, 4, backend=backend, backend_options=options) == 8
    assert lastly.run(double(4), backend=backend, backend_options=options) == 8


def sync() -> None:
    raise AssertionError("nobody may call it")


def returns(value: object) -> object:
    return value


async def generator() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((None,), {}, TypeError, "needs an async function, but was given None; write run(main)"),
        ((sync,), {}, TypeError, "needs an async function, and sync is none; write `async def`"),
        ((generator,), {}, TypeError, "and generator is none"),
        ((asynccontextmanager(generator),), {}, TypeError, "is none; write `async def`"),
        ((returns, None), {}, TypeError, "returned None; did you forget `async def`"),
        ((returns, 3), {}, TypeError, "returned an object of type int; did you forget"),
        ((double, 1), {"backend": "curio"}, ValueError, "'curio' is unknown; write one of"),
        ((double, 1), {"backend_options": 5}, TypeError, "=5 are no options; write a dict"),
        ((double, 1), {"grace": -1}, ValueError, "grace=-1 is no duration"),
        ((double, 1), {"signal_exit_code": "0"}, TypeError, "'0' is no exit status; write an int"),
        ((double, 1), {"signal_exit_code": True}, TypeError, "True is no exit status"),
        ((double, 1), {"signal_exit_code": 256}, ValueError, "256 is no exit status; write 0 to"),
        ((double, 1), {"signal_exit_code": -1}, ValueError, "-1 is no exit status"),
        ((double, 1), {"signals": ["TERM"]}, TypeError, "'TERM' is no signal; write one like"),
        ((double, 1), {"signals": [True]}, TypeError, "True is no signal"),
        ((double, 1), {"signals": signal.SIGTERM}, TypeError, "are no signals; write several"),
        ((double, 1), {"signals": [0]}, ValueError, "0 is no signal that a process can handle"),
        ((double, 1), {"signals": [signal.SIGKILL]}, ValueError, "no signal that a process can"),
    ],
)
def test_what_run_refuses(arguments, options, error: type[Exception], says: str) -> None:
    """R24, R32: it says what was given and what to write instead, and does not begin main."""
    with pytest.raises(error) as raised:
        lastly.run(*arguments, **options)
    assert says in str(raised.value)


def test_a_coroutine_that_is_refused_is_closed() -> None:
    """R24, R32: nobody is told that it was never awaited."""
    with pytest.raises(TypeError, match=r"run\(double, \.\.\.\) for the function"):
        lastly.run(double(1), 2)
    with pytest.raises(ValueError, match="is unknown"):
        lastly.run(double(1), backend="curio")


@pytest.mark.parametrize("runner", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_run_refuses_to_be_nested(runner: Callable[..., object]) -> None:
    """R24: a loop is running already, and the error says what to write there."""

    async def main() -> None:
        with pytest.raises(
            RuntimeError, match="did you forget to write `await main()`".replace("()", r"\(\)")
        ):
            lastly.run(double(1))

    runner(main) if runner is trio.run else runner(main())


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@backends
@pytest.mark.parametrize("ends", ["returns", "raises", "is cancelled"])
def test_handlers_are_put_back(backend: str, options: object, ends: str) -> None:
    """R24: those that it has replaced, however main ends; they are its own meanwhile."""

    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        expected = handlers()

        async def main() -> None:
            assert all(now is not then for now, then in zip(handlers(), expected, strict=True))
            if ends == "raises":
                raise LookupError
            if ends == "is cancelled":
                lastly.request_shutdown()
                await anyio.sleep_forever()

        try:
            lastly.run(main, backend=backend, backend_options=options)
        except LookupError:
            assert ends == "raises"
        assert handlers() == expected
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_is_ignored_stays_so() -> None:
    """R24, R27: nohup, and a shell for what it starts in the background, ask for that."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:

        async def main() -> object:
            signal.raise_signal(signal.SIGTERM)
            return signal.getsignal(signal.SIGTERM)

        assert lastly.run(main) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_run_in_another_thread_has_no_signals() -> None:
    """R24: it works all the same; handlers are the main thread's."""
    expected = handlers()
    results: list[object] = []

    async def main() -> object:
        lastly.defer(results.append, "unwound")
        return handlers()

    thread = threading.Thread(target=lambda: results.append(lastly.run(main)))
    thread.start()
    thread.join()
    assert results == ["unwound", expected]


def test_the_grace_of_a_run_in_another_thread() -> None:
    """R21, R24: it holds for the run also where no signal is heeded."""
    caught: list[BaseException] = []

    async def main() -> None:
        lastly.defer(anyio.sleep_forever)

    def run() -> None:
        try:
            lastly.run(main, grace=0.01)
        except lastly.CleanupTimeout as exc:
            caught.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert [exc.name for exc in caught] == ["sleep_forever"]


@backends
def test_everything_unwinds_in_mains_task(backend: str, options: object) -> None:
    """R18, R24: also what was registered before; threads and task groups work there yet."""
    ran: list[str] = []

    async def in_thread() -> None:
        ran.append(await anyio.to_thread.run_sync(lambda: "module"))

    lastly.register(in_thread)

    async def main() -> str:
        group = await lastly.enter_async_context(anyio.create_task_group())
        done = anyio.Event()

        async def child() -> None:
            await done.wait()
            ran.append("child")

        group.start_soon(child)
        lastly.defer(done.set)
        return "result"

    assert lastly.run(main, backend=backend, backend_options=options) == "result"
    assert ran == ["child", "module"]
    assert str(lastly.last_report().reason) == "scope exit"


@backends
def test_exits_are_not_cut_short_because_main_was_cancelled(backend: str, options: object) -> None:
    """R8, R18, R28: but on trio, in a task group that main has left open, as in `async with`."""
    ran: list[str] = []

    @asynccontextmanager
    async def connection(name: str) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await anyio.sleep(0.001)
            ran.append(name)

    async def close() -> None:
        await anyio.sleep(0.001)
        ran.append("callback")

    async def main() -> None:
        await lastly.enter_async_context(connection("below"))
        group = await lastly.enter_async_context(anyio.create_task_group())
        group.start_soon(anyio.sleep_forever)
        lastly.register(close)
        await lastly.enter_async_context(connection("above"))
        lastly.request_shutdown("deploy")
        await anyio.sleep_forever()

    assert lastly.run(main, backend=backend, backend_options=options) is None
    assert ran == ["above", "callback", "below"][backend == "trio" :]
    report = lastly.last_report()
    assert str(report.reason) == "request: deploy"
    assert report.ok


@backends
def test_a_task_group_in_main(backend: str, options: object) -> None:
    """R25, R28: what comes out of it is the cancellation alone."""

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            lastly.request_shutdown()

    assert lastly.run(main, backend=backend, backend_options=options) is None


@backends
def test_main_and_a_callback_fail(backend: str, options: object) -> None:
    """R11, R12, R24: the callback's exception comes out, with main's as its context."""

    async def fails() -> None:
        raise LookupError("callback")

    async def main() -> None:
        lastly.register(fails)
        raise ValueError("main")

    with pytest.raises(LookupError, match="callback") as raised:
        lastly.run(main, backend=backend, backend_options=options)
    assert repr(raised.value.__context__) == "ValueError('main')"


@backends
def test_main_fails_while_it_is_cancelled(backend: str, options: object) -> None:
    """R24, R28: what its `finally` raises comes out, like anything else of main's."""

    async def main() -> None:
        lastly.request_shutdown()
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("main")

    with pytest.raises(ValueError, match="main"):
        lastly.run(main, backend=backend, backend_options=options)


@backends
def test_a_task_of_main_fails_while_it_is_cancelled(backend: str, options: object) -> None:
    """R24, R28: its exception comes out, without the cancellations beside it."""

    async def fails() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("child")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fails)
            group.start_soon(anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            lastly.request_shutdown()
            await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        lastly.run(main, backend=backend, backend_options=options)
    assert [repr(exc) for exc in raised.value.exceptions] == ["ValueError('child')"]


@backends
@pytest.mark.parametrize("open_at_the_end", [False, True])
def test_a_group_of_cancellations(backend: str, options: object, open_at_the_end: bool) -> None:
    """R25, R28: it is one cancellation, though trio of old raises each for itself."""

    async def main() -> None:
        if open_at_the_end:
            await lastly.enter_async_context(anyio.create_task_group())
        lastly.request_shutdown()
        try:
            await anyio.sleep_forever()
        except BaseException as exc:
            raise BaseExceptionGroup("", [exc]) from None

    assert lastly.run(main, backend=backend, backend_options=options) is None


def test_what_main_raises_has_attributes_that_raise() -> None:
    """R24: it comes out as it is, whatever a property `exceptions` of it does."""

    class NotLoaded(Exception):
        @property
        def exceptions(self) -> object:
            raise RuntimeError("not loaded")

    async def main() -> None:
        raise NotLoaded

    with pytest.raises(NotLoaded):
        lastly.run(main)


def test_an_exit_swallows_what_main_raised() -> None:
    """R8, R24: then nothing comes out, as of `async with`."""

    class Swallow:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *exc: object) -> bool:
            return exc[0] is ValueError

    async def main() -> None:
        await lastly.enter_async_context(Swallow())
        raise ValueError

    assert lastly.run(main) is None


@pytest.mark.parametrize("where", ["inside", "thread", "before"])
def test_request_shutdown(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """R28: in main, from another thread, or before main could begin; and then it is over."""
    caplog.set_level(logging.INFO, "lastly")
    called: list[str] = []
    thread = threading.Thread(target=lastly.request_shutdown, args=("deploy",))

    async def main() -> None:
        called.append("main")
        if where == "thread":
            thread.start()
        else:
            lastly.request_shutdown("deploy")
        lastly.request_shutdown("too late")
        await anyio.sleep_forever()

    lastly.defer(called.append, "unwound")
    if where == "before":
        lastly.request_shutdown("deploy")
        lastly.request_shutdown("too late")
    assert lastly.run(main) is None
    assert called == ["unwound"] if where == "before" else ["main", "unwound"]
    if where != "thread":
        assert str(lastly.last_report().reason) == "request: deploy"
    assert lastly.run(double, 1) == 2
    if where == "thread":
        thread.join()  # its request may have been heard before it has set aside the line
    lastly._aside.settle()
    told = f"shutdown was requested: {lastly.last_report().reason}"
    assert [m for m in caplog.messages if "requested" in m] == [told]


@backends
def test_main_waits_for_the_request(backend: str, options: object) -> None:
    """R25, R28: it is woken with the reason, and what it returns is the result."""

    async def main() -> str:
        thread = threading.Thread(target=lastly.request_shutdown, args=("deploy",))
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, thread.start)
            reason = await lastly.wait_requested()
        assert await lastly.wait_requested() == reason
        thread.join()
        return str(reason)

    assert lastly.run(main, backend=backend, backend_options=options) == "request: deploy"


def test_whoever_has_stopped_to_wait_does_not_count() -> None:
    """R25: then main is cancelled."""

    async def main() -> None:
        with anyio.move_on_after(0):
            await lastly.wait_requested()
        lastly.request_shutdown()
        await anyio.sleep_forever()

    assert lastly.run(main) is None


def test_a_request_while_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """R25, R28: it is heard, though nobody listens yet; and main is not begun."""
    begun: list[bool] = []

    async def main() -> None:
        begun.append(True)
        await anyio.sleep_forever()

    install = lastly._signals.Handlers.install

    def install_late(self: object, signums: object) -> None:
        lastly.request_shutdown("just then")
        install(self, signums)

    monkeypatch.setattr(lastly._signals.Handlers, "install", install_late)
    assert lastly.run(main) is None
    assert begun == []


@backends
@pytest.mark.parametrize("first", ["request", "signal"])
def test_a_request_and_a_signal_cancel_main_once(backend: str, options: object, first: str) -> None:
    """R25, R28: whichever comes first; only a second signal cuts main's `finally` short."""
    ran: list[str] = []

    def ask(how: str) -> None:
        if how == "signal":
            signal.raise_signal(signal.SIGTERM)
        else:
            lastly.request_shutdown()

    async def main() -> None:
        ask(first)
        try:
            await anyio.sleep_forever()
        finally:
            ask("signal" if first == "request" else "request")
            with anyio.CancelScope(shield=backend == "trio"):
                await anyio.sleep(0.01)
                ran.append("finally")

    with pytest.raises(SystemExit) as raised:
        lastly.run(main, backend=backend, backend_options=options)
    assert (raised.value.code, ran) == (143, ["finally"])


@backends
def test_half_of_the_grace_does_not_cut_mains_own_unwind(backend: str, options: object) -> None:
    """R18, R21, R25: main is cancelled when that is done; a callback has its share of the grace."""

    async def slow() -> None:
        await anyio.sleep(0.35)

    async def main() -> None:
        async with lastly.lifespan():
            lastly.register(slow)
            lastly.request_shutdown()
            await anyio.sleep_forever()

    assert lastly.run(main, backend=backend, backend_options=options, grace=0.5) is None
    assert lastly.last_report().ok


def test_a_failure_that_main_has_handled() -> None:
    """R24, R26: what came out of an unwind of main's is main's to judge."""

    async def main() -> str:
        lastly.register(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await lastly.aclose()
        return "result"

    assert lastly.run(main) == "result"


def test_what_main_configures_stays() -> None:
    """R24: only the grace that `run` was given is for that run."""

    async def main() -> None:
        lastly.configure(grace=7)

    try:
        lastly.run(main)
        assert lastly._default._settings.grace == 7
    finally:
        lastly.configure(grace=None)


def test_a_signal_that_is_given_twice() -> None:
    """R24: its handler is put back all the same."""
    expected = handlers()
    assert lastly.run(double, 1, signals=(signal.SIGTERM, signal.SIGTERM)) == 2
    assert handlers() == expected


def test_a_wakeup_of_mains_own(run_child) -> None:
    """R24: what it has put in the place of run's stays there."""
    ended = run_child(
        """
        import signal, socket
        import lastly

        reader, writer = socket.socketpair()
        writer.setblocking(False)

        async def main():
            signal.set_wakeup_fd(writer.fileno())

        lastly.run(main)
        print(signal.set_wakeup_fd(-1) == writer.fileno())
        """
    )
    assert ended.out == ["True"]


def test_a_loop_that_closes_the_wakeup(run_child) -> None:
    """R24: whose descriptor it was may be gone; what run has changed is put back."""
    ended = run_child(
        """
        import os, signal, socket
        import lastly

        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())

        async def main():
            writer.close()

        lastly.run(main)
        print(signal.getsignal(signal.SIGTERM))
        """
    )
    assert ended.out == ["0"] or ended.out == ["Handlers.SIG_DFL"]


def test_the_cancellation_of_main_is_over_when_it_has_ended() -> None:
    """R18, R24: callbacks find the task as it was, whoever counts its cancellations."""
    counted: list[int] = []

    async def callback() -> None:
        counted.append(asyncio.current_task().cancelling())

    async def main() -> None:
        lastly.register(callback)
        lastly.request_shutdown()
        await anyio.sleep_forever()

    lastly.run(main)
    assert counted == [0]


def test_what_was_set_aside_is_done_when_run_returns() -> None:
    """R25: what a signal had logged, above all."""
    done: list[str] = []

    async def main() -> None:
        began = threading.Event()
        lastly._aside.aside(lambda: (began.set(), time.sleep(0.1), done.append("logged")))
        began.wait()

    lastly.run(main)
    assert done == ["logged"]


def test_main_may_refuse_to_be_cancelled() -> None:
    """R28: what it returns then is the result."""

    async def main() -> str:
        lastly.request_shutdown()
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            return "result"

    assert lastly.run(main) == "result"


def test_an_unwind_of_mains_own_is_not_disturbed() -> None:
    """R25: main is cancelled when that is done, and not in the middle of a callback."""
    ran: list[str] = []

    async def callback() -> None:
        lastly.request_shutdown()
        await anyio.sleep(0.001)
        ran.append("callback")

    async def main() -> None:
        async with lastly.ShutdownManager() as manager:
            manager.register(callback)
        ran.append("after")
        await anyio.sleep_forever()

    assert lastly.run(main) is None
    assert ran == ["callback", "after"]


@backends
def test_another_tasks_unwind_does_not_put_it_off(backend: str, options: object) -> None:
    """R25: main is cancelled at once, where it is another task that unwinds."""
    ran: list[str] = []

    async def main() -> None:
        goes_on = anyio.Event()
        other = lastly.ShutdownManager()
        other.register(goes_on.wait)
        async with anyio.create_task_group() as group:
            group.start_soon(other.aclose)
            await anyio.wait_all_tasks_blocked()
            lastly.request_shutdown()
            try:
                await anyio.sleep_forever()
            finally:
                ran.append("main is left")
                goes_on.set()

    assert lastly.run(main, backend=backend, backend_options=options) is None
    assert ran == ["main is left"]


def test_main_that_closes_everything_itself() -> None:
    """R13, R28: the request counts for main all the same."""

    async def main() -> None:
        lastly.defer(int)
        lastly.request_shutdown()
        await lastly.aclose()
        await anyio.sleep_forever()

    assert lastly.run(main) is None


def test_requests_of_different_managers(manager: lastly.ShutdownManager) -> None:
    """R28: each has its own, until it has unwound."""

    async def main() -> list[str]:
        said: list[str] = []

        async def wait(which: lastly.ShutdownManager) -> None:
            said.append(f"{which.name}: {await which.wait_requested()}")

        other = lastly.ShutdownManager("other")
        async with anyio.create_task_group() as group:
            for which in manager, other:
                group.start_soon(wait, which)
            await anyio.wait_all_tasks_blocked()
            manager.request_shutdown("one")
            await anyio.wait_all_tasks_blocked()
            assert said == ["test: request: one"]
            other.request_shutdown()
        manager.register(int)
        await manager.aclose()
        with anyio.move_on_after(0) as scope:
            await manager.wait_requested()
        assert scope.cancelled_caught
        return said

    assert anyio.run(main) == ["test: request: one", "other: request"]


def test_a_request_counts_until_the_whole_manager_has_unwound(
    manager: lastly.ShutdownManager,
) -> None:
    """R28: neither a loop's own registrations are all, nor what a refused close() leaves."""

    async def main() -> None:
        manager.register(int)

    async def refused() -> None:
        manager.register(main)
        with pytest.raises(RuntimeError, match="aclose"):
            manager.close()

    manager.register(int)
    manager.request_shutdown("deploy")
    reasons: list[str] = []
    for work in main, refused:
        asyncio.run(work())
        reasons.append(str(manager.last_report().reason))
    for _ in range(2):
        with manager:
            manager.register(int)
        reasons.append(str(manager.last_report().reason))
    assert reasons == [*["request: deploy"] * 3, "scope exit"]


def test_the_grace_of_a_run() -> None:
    """R21, R24: it is the manager's for this run, and not after it."""

    async def main() -> float | None:
        return lastly.ShutdownManager.configure and lastly._default._settings.grace

    assert lastly.run(main, grace=3) == 3
    assert lastly._default._settings.grace is None


def test_a_loop_that_cannot_be_made() -> None:
    """R24: what its making raises comes out, and all is as before."""
    expected = handlers()
    lastly.request_shutdown()
    lastly.register(int)
    with pytest.raises(ZeroDivisionError):
        lastly.run(double, 1, backend_options={"loop_factory": lambda: 1 / 0})
    assert handlers() == expected
    assert [r.name for r in lastly.pending()] == ["int"]
    assert lastly.run(double, 1) == 2


def test_main_that_is_cancelled_from_outside() -> None:
    """R12, R24: a cancellation that nobody asked of lastly goes on."""

    async def main() -> None:
        asyncio.current_task().cancel()
        await anyio.sleep_forever()

    with pytest.raises(asyncio.CancelledError):
        lastly.run(main)


def test_run_keeps_nothing_alive() -> None:
    """R24: neither main's frames, nor the listeners of a run that is over."""
    import gc
    import weakref

    class Thing: ...

    things: list[weakref.ref[Thing]] = []

    async def main() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        lastly.request_shutdown()
        await anyio.sleep_forever()

    lastly.run(main)
    gc.collect()
    assert things[0]() is None
    assert not lastly._ladder.signals.listeners
    assert not lastly._ladder.signals.heeded
    assert not lastly._unwind.in_progress


ENDING = """
import atexit, logging, os, signal, sys
import anyio
import lastly

what = sys.argv[1]
sys.stdout = open(1, "w", buffering=8192)

class Handler(logging.StreamHandler):
    def close(self):
        os.write(1, b"logging was shut down\\n")
        super().close()

logging.basicConfig(handlers=[Handler()])
atexit.register(os.write, 1, b"atexit\\n")

def fail():
    raise LookupError("the pool was gone")

async def hang():
    signal.raise_signal(signal.SIGTERM)
    await anyio.sleep_forever()

async def twice():
    signal.raise_signal(signal.SIGTERM)

def thrice():
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)

async def main():
    print("buffered")
    if "callback=" in what:
        lastly.register(globals()[what.split("callback=")[1].split()[0]])
    if "errors=log" in what:
        lastly.configure(errors="log")
    if "main raises" in what:
        raise ValueError
    if "exits" in what:
        sys.exit(0)
    if "request" in what:
        lastly.request_shutdown()
        await anyio.sleep_forever()
    for name in "SIGTERM", "SIGINT":
        if name in what:
            signal.raise_signal(getattr(signal, name))
            await anyio.sleep_forever()

backend, options = sys.argv[2], None
if backend == "uvloop":
    backend, options = "asyncio", {"use_uvloop": True}
code = 0 if "code=0" in what else None
lastly.run(main, backend=backend, backend_options=options, signal_exit_code=code)
"""

EXIT_STATUSES = {
    "main returns": ("", 0),
    "main raises": ("main raises", 1),
    "SIGTERM, and everything closed": ("SIGTERM", 143),
    "SIGINT, and everything closed; no traceback is printed": ("SIGINT", 130),
    "a signal, everything closed, and `signal_exit_code=0`": ("SIGTERM code=0", 0),
    "`request_shutdown()`, and everything closed": ("request", 0),
    "a signal, and a cleanup failed": ("SIGTERM callback=fail", 1),
    "the same with `signal_exit_code=0`": ("SIGTERM code=0 callback=fail", 1),
    'the same with `errors="log"`': ("SIGTERM errors=log callback=fail", 1),
    'no signal, but a cleanup failed, with `errors="log"`': ("errors=log callback=fail", 1),
    "main calls `sys.exit(0)`, and a cleanup failed": ("exits callback=fail", 1),
    "the second signal cut a cleanup short": ("SIGTERM callback=hang", 1),
    "the second signal found nothing to cut short": ("SIGTERM callback=twice", 143),
    "the third signal": ("SIGTERM callback=thrice", -15),
}


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("row", EXIT_STATUSES)
def test_exit_status(run_child, row: str, backend: str) -> None:
    """R26: the status is true, and the interpreter is finalised, but for the third signal."""
    what, status = EXIT_STATUSES[row]
    ended = run_child(ENDING, what, backend, expect=status)
    if status < 0:
        assert ended.out == []
        return
    assert sorted(ended.out) == ["atexit", "buffered", "logging was shut down"]
    assert ("callback fail (" in ended.err) == ("fail" in what)
    assert ("Traceback" in ended.err) == (status == 1)


def test_the_docs_have_the_table() -> None:
    """R26: every row of it is a test, and has what that has seen."""
    page = (ROOT / "docs/signals.md").read_text()
    rows = page.split("| --- | --- |\n")[2].split("\n\n")[0].splitlines()
    assert rows == [
        f"| {label} | {status if status >= 0 else f'died of the signal ({status})'} |"
        for label, (_, status) in EXIT_STATUSES.items()
    ]


def test_the_failure_of_another_manager_that_a_signal_would_hide(run_child) -> None:
    """R12, R26: main's `async with` lets the cancellation go on; the status tells."""
    ended = run_child(
        """
        import signal
        import anyio
        import lastly

        async def main():
            async with lastly.ShutdownManager() as manager:
                manager.register(lambda: 1 / 0)
                signal.raise_signal(signal.SIGTERM)
                await anyio.sleep_forever()

        lastly.run(main, signal_exit_code=0)
        """,
        expect=1,
    )
    assert "ZeroDivisionError" in ended.err


EARLY = """
import signal, sys
import lastly

class Finder:
    def find_spec(self, name, *args):
        if name == "lastly._wakeup":  # in the run's own code, before main
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

async def main():
    print("main")

sys.meta_path.insert(0, Finder())
lastly.register(print, "closed")
lastly.run(main)
"""


def test_two_signals_in_what_is_not_main(run_child) -> None:
    """R24, R25, R26: they interrupt nothing of the run's own, and everything unwinds."""
    ended = run_child(EARLY, expect=143)
    assert ended.out == ["closed"]
    assert "KeyboardInterrupt" not in ended.err


BESIDE = """
import signal, sys
import lastly

async def main():
    if sys.argv[1] == "main":
        raise ValueError
    if sys.argv[1] == "a signal":
        signal.raise_signal(signal.SIGTERM)
    if sys.argv[1] == "256":
        sys.exit(256)  # of which the system takes the last byte

if sys.argv[1] != "256":
    lastly.defer(sys.exit, 256 if sys.argv[1] == "a callback, 256" else None)
if sys.argv[1] not in ("main", "nothing"):
    lastly.register(lambda: 1 / 0)
lastly.run(main)
"""


@pytest.mark.parametrize(
    "what", ["a callback", "a callback, 256", "a signal", "main", "256", "nothing"]
)
def test_a_failure_beside_an_exit(run_child, what: str) -> None:
    """R26: the `sys.exit()` of a callback, or of main, is what comes out, but no success."""
    run_child(BESIDE, what, expect=0 if what == "nothing" else 1)


ON_TRIO = """
import lastly

async def fails():
    raise ValueError

async def main():
    lastly.ShutdownManager().defer(fails)

lastly.run(main, backend="trio")
"""


def test_a_failure_that_trio_cannot_raise(run_child) -> None:
    """R15, R26: of another manager, in the teardown: it is logged, and the exit status tells."""
    ended = run_child(ON_TRIO, expect=1)
    assert "trio.run cannot raise what has come out of its teardown: ValueError" in ended.err


HIDDEN = """
import asyncio, contextlib, signal, sys
import anyio
import lastly

async def hang():
    signal.raise_signal(signal.SIGTERM)
    await anyio.sleep_forever()

async def child():
    async with lastly.ShutdownManager() as manager:
        manager.register((lambda: 1 / 0) if sys.argv[1] == "fails" else hang)
        await anyio.sleep_forever()

async def main():
    if sys.argv[1] == "exits":
        async with lastly.ShutdownManager() as manager:
            manager.register(lambda: 1 / 0)
            sys.exit(0)
    if sys.argv[1] in ("is interrupted", "is a member and interrupted"):
        manager = lastly.ShutdownManager()
        with manager.together() if "member" in sys.argv[1] else contextlib.nullcontext():
            manager.register(anyio.sleep_forever)
        task = asyncio.create_task(manager.aclose())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return
    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(600)

lastly.run(main, signal_exit_code=0)
"""


@pytest.mark.parametrize(
    "what", ["fails", "is forced", "exits", "is interrupted", "is a member and interrupted"]
)
def test_a_failure_that_nobody_sees(run_child, what: str) -> None:
    """R26: of any manager, in any task: the exit status tells that there was one."""
    run_child(HIDDEN, what, expect=1)


AS_PROCESS_1 = """
import os, signal, sys, threading
import anyio
import lastly

def hang():
    threading.main_thread().join()  # until the interpreter waits for this thread
    print("closed", flush=True)
    while True:  # one that comes just before that wait blocks does not interrupt it
        os.kill(1, signal.SIGTERM)
        threading.Event().wait(0.05)

async def main():
    assert os.getpid() == 1
    if sys.argv[1] == "later":
        return
    if sys.argv[1] == "3":
        @lastly.register
        def kill():
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
    lastly.register(print, "closed", flush=True)
    signal.raise_signal(signal.SIGTERM)
    await anyio.sleep_forever()

lastly.run(main)
if sys.argv[1] == "later":
    lastly.run(main)  # a second time changes nothing
    threading.Thread(target=hang).start()
"""


def unshared() -> list[str]:
    """The command that makes a process the first of its own; root may, and who may map users."""
    for options in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *options, "--fork", "--pid"]
        if (
            shutil.which("unshare")
            and not subprocess.run([*command, "true"], check=False).returncode
        ):
            return command
    pytest.skip("no process can be the first of its own here")


@pytest.mark.parametrize("signals", ["1", "3", "later"])
def test_process_1(tmp_path: Path, signals: str) -> None:
    """R25, R26: the kernel spares it the default action of a signal, but not the third one.

    Nor one that comes when the run is over, and something else hangs.
    """
    program = tmp_path / "program.py"
    program.write_text(AS_PROCESS_1)
    done = subprocess.run(
        [*unshared(), sys.executable, program, signals],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("closed\n", 143)
