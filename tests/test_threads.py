"""R3 and R17: many threads at once, and loops that run in other threads."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext


from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, nullcontext, suppress

import anyio
import anyio.from_thread
import pytest

import lastly

BACKENDS = ["asyncio", "uvloop", "trio"]


def options(backend: str) -> dict[str, object]:
    given = {"use_uvloop": True} if backend == "uvloop" else {}
    return {"backend": "trio" if backend == "trio" else "asyncio", "backend_options": given}


@pytest.fixture
def _tiny_switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_tiny_switch_interval")
@pytest.mark.parametrize("seed", range(3))
def test_each_registration_runs_once_or_was_cancelled(
    manager: lastly.ShutdownManager, seed: int
) -> None:
    """R3: many threads register, cancel, unregister, close and aclose, all at once."""
    ran: list[int] = []  # append is atomic
    handles: dict[int, lastly.Registration] = {}
    cancelled: set[int] = set()
    barrier = threading.Barrier(8)
    errors: list[BaseException] = []

    class Callback:
        def __init__(self, number: int) -> None:
            self.number = number

        def __call__(self) -> object:
            ran.append(self.number)
            return asyncio.sleep(0) if self.number % 3 == 0 else None

    def work(thread: int) -> None:
        chance = random.Random(100 * seed + thread)
        mine: list[tuple[int, Callback]] = []
        barrier.wait()
        for step in range(150):
            number = thread * 1000 + step
            callback = Callback(number)
            match chance.randrange(8):
                case 0:
                    manager.close()
                case 1:
                    asyncio.run(manager.aclose())
                case 2 if mine:
                    number, _ = chance.choice(mine)
                    if handles[number].cancel():
                        cancelled.add(number)
                case 3 if mine:
                    number, callback = chance.choice(mine)
                    manager.unregister(callback)
                case 4:
                    manager.pending()
                case _:
                    handles[number] = manager.defer(callback)
                    mine.append((number, callback))

    def guarded(thread: int) -> None:
        try:
            work(thread)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manager.close()
    assert errors == []
    assert len(ran) == len(set(ran))
    assert cancelled.isdisjoint(ran)
    for number, handle in handles.items():
        assert handle.status == ("ok" if number in ran else "cancelled")


def test_no_lock_is_held_while_user_code_runs(manager: lastly.ShutdownManager) -> None:
    """R3: a callback, an `==`, a name and a log handler may call anything, from any thread."""
    done: list[str] = []

    def elsewhere(what: Callable[[], object]) -> None:
        thread = threading.Thread(target=what)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()

    def use() -> None:
        handle = manager.defer(int)
        manager.pending()
        assert handle.cancel()
        other = lastly.ShutdownManager()
        other.defer(done.append, "unwound")
        other.close()

    class Equal:
        def __eq__(self, other: object) -> bool:
            elsewhere(use)
            return False

        def __hash__(self) -> int:
            return 0

        def __getattr__(self, name: str) -> str:
            assert name == "__qualname__"
            elsewhere(use)
            return "equal"

        def __call__(self) -> None:
            elsewhere(use)

    manager.register(Equal())
    manager.unregister(print)
    assert "equal" in repr(manager.pending()[0])
    manager.close()
    assert len(done) >= 3


class Elsewhere:
    """A loop that runs in another thread for as long as the block."""

    def __init__(self, kind: str, backend: str = "asyncio") -> None:
        self.kind = kind
        self.backend = backend

    def __enter__(self) -> Elsewhere:
        self.stack = ExitStack()
        if self.kind == "portal":
            portal = anyio.from_thread.start_blocking_portal(**options(self.backend))
            self.call = self.stack.enter_context(portal).call
            return self
        self.loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        thread.start()

        def call(function: Callable[..., object], *args: object) -> object:
            return asyncio.run_coroutine_threadsafe(function(*args), self.loop).result(30)

        def stop() -> None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            thread.join()
            self.loop.close()

        self.call = call
        self.stack.callback(stop)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()


KINDS = [("run_forever", "asyncio"), *(("portal", backend) for backend in BACKENDS)]


@pytest.mark.parametrize(("kind", "backend"), KINDS)
@pytest.mark.parametrize("how", ["close", "aclose", "teardown"])
def test_a_loop_in_another_thread(
    manager: lastly.ShutdownManager, kind: str, backend: str, how: str
) -> None:
    """R17: from close(), from another loop's aclose(), and when it is torn down itself."""
    threads: list[int] = []

    async def callback() -> None:
        await anyio.to_thread.run_sync(int)
        threads.append(threading.get_ident())

    async def register() -> int:
        manager.register(callback)
        return threading.get_ident()

    with Elsewhere(kind, backend) as elsewhere:
        ident = elsewhere.call(register)
        if how == "close":
            manager.close()
        elif how == "aclose":
            anyio.run(manager.aclose)
    assert manager.last_report().ok
    # A loop that has stopped is torn down by who closes it.
    by = threading.get_ident() if kind == "run_forever" and how == "teardown" else ident
    assert threads == [by]


def test_a_home_that_makes_no_task(manager: lastly.ShutdownManager) -> None:
    """R9, R17: a task factory that raises is that callback's failure, and nobody waits for it."""
    calls: list[str] = []

    async def never() -> None:
        calls.append("never")

    async def register() -> None:
        manager.register(never)
        asyncio.get_running_loop().set_task_factory(lambda loop, coro: asyncio.Task(coro))  # type: ignore[arg-type]

    manager.defer(calls.append, "older")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(register(), loop).result()
    with pytest.raises(TypeError, match="context"):
        manager.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert calls == ["older"]


class NoTruth:
    def __bool__(self) -> bool:
        raise TypeError("no truth")


class Returns(nullcontext):
    def __exit__(self, *exc: object) -> object:
        return self.enter_result

    async def __aexit__(self, *exc: object) -> object:
        return self.enter_result


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_an_exit_returns_there(
    manager: lastly.ShutdownManager, backend: str, is_async: bool
) -> None:
    """R8, R9, R17: it swallows as it would here, and no result of it holds up the unwind."""
    calls: list[str] = []

    async def enter(*results: object) -> None:
        for result in results:
            if is_async:
                await manager.enter_async_context(Returns(result))
            else:
                manager.enter_context(Returns(result))

    with anyio.from_thread.start_blocking_portal(**options(backend)) as portal:
        portal.call(enter, NoTruth())
        manager.close()
        assert manager.last_report().ok  # it was told of nothing, and not asked
        with manager:
            manager.defer(calls.append, "next")
            portal.call(enter, True)
            raise ValueError
        with pytest.raises(TypeError, match="no truth"), manager:
            manager.defer(calls.append, "next")
            portal.call(enter, NoTruth())
            raise ValueError
    assert calls == ["next"] * 2
    assert [o.status for o in manager.last_report().outcomes] == ["failed", "ok"]


class Cancels:
    """The task that unwinds, for a callback to cancel it from another thread."""

    async def unwind(self, manager: lastly.ShutdownManager) -> None:
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        with pytest.raises(asyncio.CancelledError):
            await manager.aclose()

    def __call__(self) -> None:
        self.loop.call_soon_threadsafe(self.task.cancel)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("kind", "backend"), KINDS)
def test_a_cancelled_wait_for_a_loop_in_another_thread(
    manager: lastly.ShutdownManager, kind: str, backend: str, together: bool
) -> None:
    """R1, R17, R18: the callback is cancelled there, and the next begins when it has ended."""
    calls: list[str] = []
    cancel = Cancels()

    async def callback() -> None:
        cancel()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(10):
                    await anyio.sleep(0)
            calls.append("callback ends")

    async def register() -> None:
        with manager.together() if together else nullcontext():
            manager.defer(callback, name="callback")

    manager.defer(calls.append, "older", name="older")
    with Elsewhere(kind, backend) as elsewhere:
        elsewhere.call(register)
        asyncio.run(cancel.unwind(manager))
    assert calls == ["callback ends", "older"]
    outcomes = [(o.name, o.status) for o in manager.last_report().outcomes]
    assert outcomes == [("callback", "interrupted"), ("older", "ok")]


async def returns() -> None: ...


async def raises_groups() -> None:
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as exc:
        raise BaseExceptionGroup("all of it", [exc]) from None


async def fails() -> None:
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        raise LookupError("while it was cancelled") from None


@pytest.mark.parametrize(
    ("ends", "status"), [(returns, "ok"), (raises_groups, "interrupted"), (fails, "failed")]
)
def test_what_a_callback_makes_of_a_passed_on_cancellation(
    manager: lastly.ShutdownManager, ends: Callable[[], Awaitable[None]], status: str
) -> None:
    """R10, R18: each one is passed on, all go on afterwards, and the outcome is its own."""
    cancel = Cancels()
    cancelled: list[int] = []

    async def callback() -> None:
        for number in range(2):
            cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            cancelled.append(number)
        if ends is not returns:
            asyncio.current_task().cancel()
        await ends()

    async def register() -> None:
        manager.defer(callback, timeout=60)

    async def unwind() -> int:
        manager.defer(hand_made, name="hand-made")
        elsewhere.call(register)
        await cancel.unwind(manager)
        return asyncio.current_task().cancelling()

    async def hand_made() -> None:
        raise asyncio.CancelledError

    with Elsewhere("run_forever") as elsewhere:
        assert asyncio.run(unwind()) == 2
    assert cancelled == [0, 1]
    assert [o.status for o in manager.last_report().outcomes] == [status, "failed"]


def test_a_limit_of_a_callback_whose_wait_was_cancelled(manager: lastly.ShutdownManager) -> None:
    """R18, R20: what refuses to be cancelled is timed out all the same."""
    calls: list[str] = []
    cancel = Cancels()

    async def refuses() -> None:
        cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def register() -> None:
        manager.defer(refuses, timeout=0.05, on_timeout=lambda: calls.append("on_timeout"))

    with Elsewhere("run_forever") as elsewhere:
        elsewhere.call(register)
        asyncio.run(cancel.unwind(manager))
    assert [o.status for o in manager.last_report().outcomes] == ["timed_out"]
    assert calls == ["on_timeout"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exit_at_home_elsewhere_in_a_cancelled_scope(
    manager: lastly.ShutdownManager, backend: str
) -> None:
    """R3, R8, R17, R18: it is called, cancelled as the scope around it is, and waited for."""
    calls: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        yield
        try:
            await anyio.sleep_forever()
        finally:
            calls.append("exit")

    async def unwind() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await manager.aclose()

    manager.defer(calls.append, "older")
    with Elsewhere("portal") as elsewhere:
        elsewhere.call(manager.enter_async_context, resource())
        anyio.run(unwind, **options(backend))
    assert calls == ["exit", "older"]


def test_a_closed_wait_for_a_loop_in_another_thread(manager: lastly.ShutdownManager) -> None:
    """R1, R17: a callback that nobody can wait for any more is cancelled."""
    begins, ends = threading.Event(), threading.Event()

    async def callback() -> None:
        try:
            begins.set()
            await asyncio.Event().wait()
        finally:
            ends.set()

    async def register() -> None:
        manager.defer(callback, name="callback")

    async def until_it_begins() -> None:
        task = asyncio.ensure_future(manager.aclose())
        task.add_done_callback(lambda task: task.cancelled())
        while not begins.is_set():
            await asyncio.sleep(0)

    manager.defer(ends.wait, 30, name="older")
    with Elsewhere("run_forever") as elsewhere:
        elsewhere.call(register)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(until_it_begins())
        loop.close()
        manager.close()
    assert ends.is_set()
    assert [o.status for o in manager.last_report().outcomes] == ["ok"]


CTRL_C = """
import asyncio, contextlib, os, signal, sys, threading, lastly

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
ways = sys.argv[1:]

def waits():
    frame, names = sys._current_frames()[threading.main_thread().ident], []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    with open(f"/proc/self/task/{os.getpid()}/stat") as stat:
        sleeps = stat.read().rpartition(")")[2].split()[0] == "S"
    # Not for a thread to start.
    return sleeps and names[0] in ("wait", "get_events", "select") and "start" not in names

async def stubborn():
    for what in ["once"] if "together" in ways else ["once", "twice"]:
        seen = 0
        while seen < 5:  # a signal just before it blocks would not interrupt that
            await asyncio.sleep(0.002)
            seen = seen + 1 if waits() else 0
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print(what)
    for _ in range(10):
        await asyncio.sleep(0)
    print("ends")
    if "cancelled" in ways:
        raise asyncio.CancelledError

async def register():
    with lastly.together() if "together" in ways else contextlib.nullcontext():
        lastly.register(stubborn)

async def main():
    async with lastly.lifespan():
        pass

lastly.register(print, "older")
asyncio.run_coroutine_threadsafe(register(), loop).result()
try:
    if "trio" in ways:
        import trio
        trio.run(main)
    else:
        lastly.close()
except KeyboardInterrupt:
    print("out", *[str(outcome.status) for outcome in lastly.last_report().outcomes])
"""


@pytest.mark.parametrize(
    ("ways", "statuses"),
    [
        ("close", "ok ok"),
        ("close cancelled", "failed ok"),
        ("close together", "ok ok"),
        ("trio", "ok ok"),
        ("trio cancelled", "failed ok"),
        ("trio together", "ok ok"),
    ],
)
def test_ctrl_c_while_a_callback_of_another_thread_hangs(
    run_child, ways: str, statuses: str
) -> None:
    """R1, R9, R17: it cancels the callback there, as one of the loop that waits for it."""
    ended = run_child(CTRL_C, *ways.split())
    times = ["once"] if "together" in ways else ["once", "twice"]  # the tasks of a place, once
    assert ended.out == [*times, "ends", "older", f"out {statuses}"]


def test_a_call_that_comes_as_the_loop_cancels_its_tasks(manager: lastly.ShutdownManager) -> None:
    """R3, R17: it has not begun, and is begun again, in the teardown that waits for it."""
    ran: list[str] = []
    ends = threading.Event()
    closes = threading.Event()

    async def callback() -> None:
        await asyncio.sleep(0)
        ran.append("callback")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        manager.register(callback)
        handed_over = loop.call_soon_threadsafe

        def hand_over(*args: object, **kwargs: object) -> object:
            handle = handed_over(*args, **kwargs)
            closes.set()
            return handle

        loop.call_soon_threadsafe = hand_over
        ends.set()
        closes.wait()  # the loop comes to the call when main has ended, and all are cancelled
        loop.call_soon_threadsafe = handed_over

    thread = threading.Thread(target=lambda: (ends.wait(), manager.close()))
    thread.start()
    asyncio.run(main())
    thread.join()
    assert ran == ["callback"]
    assert manager.last_report().ok


def test_a_callback_of_another_thread_that_cancels_its_own_task(
    manager: lastly.ShutdownManager,
) -> None:
    """R3, R17: its task ends cancelled, though it has run, and does not run again."""
    calls: list[str] = []

    async def callback() -> None:
        calls.append("callback")
        if len(calls) < 3:
            asyncio.current_task().cancel()

    async def register() -> None:
        manager.register(callback)

    with Elsewhere("run_forever") as elsewhere:
        elsewhere.call(register)
        manager.close()
    assert calls == ["callback"]
    assert manager.last_report().ok


def test_a_loop_between_two_runs_of_its_owner(manager: lastly.ShutdownManager) -> None:
    """R14, R17: it is not run under the feet of asyncio.run; each callback runs there, once."""
    ran: list[int] = []
    stands_still, called = threading.Event(), threading.Event()

    async def callback() -> None:
        await asyncio.sleep(0)
        ran.append(threading.get_ident())

    async def main() -> None:
        for _ in range(3):
            manager.register(callback)

    def own() -> None:
        with asyncio.Runner() as runner:
            runner.run(main())
            call_soon = runner.get_loop().call_soon_threadsafe

            def hand_over(*args: object, **kwargs: object) -> object:
                handle = call_soon(*args, **kwargs)
                called.set()
                return handle

            runner.get_loop().call_soon_threadsafe = hand_over
            stands_still.set()
            called.wait(30)

    thread = threading.Thread(target=own)
    thread.start()
    stands_still.wait()
    manager.close()
    thread.join()
    assert ran == [thread.ident] * 3
    assert manager.last_report().ok


def test_a_loop_in_a_daemon_thread_at_interpreter_exit(run_child) -> None:
    """R16, R17: it is never closed, and still runs; threads and name look-ups work there."""
    ended = run_child(
        """
        import asyncio, threading, time
        import lastly

        loop = asyncio.new_event_loop()

        async def register():
            @lastly.register
            async def callback():
                print(await asyncio.to_thread(lambda: "in a thread"))
                print(bool(await loop.getaddrinfo("localhost", 80)))
                print(asyncio.get_running_loop() is loop)

        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(register(), loop).result()
        """
    )
    assert (ended.out, ended.err) == (["in a thread", "True", "True"], "")


def test_a_trio_run_in_a_daemon_thread_at_interpreter_exit(run_child) -> None:
    """R16, R17: the same; trio's own threads start there as they are."""
    ended = run_child(
        """
        import threading
        import lastly, trio

        registered = threading.Event()

        async def main():
            @lastly.register
            async def callback():
                await trio.sleep(0)
                print("callback")
            registered.set()
            await trio.sleep_forever()

        threading.Thread(target=trio.run, args=(main,), daemon=True).start()
        registered.wait()
        """
    )
    assert (ended.out, ended.err) == (["callback"], "")


def test_a_loop_that_is_never_closed(run_child) -> None:
    """R16, R17: as in Jupyter, cell by cell on one loop: from close(), and at interpreter exit."""
    ended = run_child(
        """
        import asyncio
        import lastly

        loop = asyncio.new_event_loop()

        async def cell(name):
            @lastly.register
            async def callback():
                await asyncio.to_thread(print, name, asyncio.get_running_loop() is loop)

        loop.run_until_complete(cell("first"))
        loop.run_until_complete(lastly.aclose())
        loop.run_until_complete(cell("second"))
        lastly.close()
        loop.run_until_complete(cell("third"))
        """
    )
    assert ended.out == ["first True", "second True", "third True"]


def test_a_home_that_died_without_teardown(run_child) -> None:
    """R17: the outcome is a failure that says what to do; what is sync still runs."""
    ended = run_child(
        """
        import asyncio, os
        import lastly

        async def main():
            lastly.defer(print, "sync")

            @lastly.register
            async def callback():
                print("never")

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        type(loop).close(loop)
        """
    )
    assert ended.out == ["sync"]
    assert "did you forget to unwind while the loop was open" in ended.err
