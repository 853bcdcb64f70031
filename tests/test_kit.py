"""The test kit inside one process: isolation, faults, the clock, and the order of an unwind."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import threading
import time

import anyio
import pytest

import lastly
from lastly import _interpreter, _ladder
from lastly._manager import default
from lastly._outcome import Reason
from lastly.testing import FakeClock, assert_unwound, fail, fake_clock, hang, isolated


@pytest.fixture(autouse=True)
def outermost():
    """Nothing of these tests' own is on the default manager before or after them."""
    assert lastly.pending() == ()
    with isolated():
        yield


def statuses(manager: lastly.ShutdownManager) -> list[str]:
    return [f"{o.name} {o.status}" for o in manager.last_report().outcomes]


# -- isolation ------------------------------------------------------------------------


def test_isolated_empties_the_default_manager_and_puts_back_what_was_there() -> None:
    """isolated(): stack, settings and report of the default manager are lent, and put back."""
    register, pending = lastly.register, lastly.pending  # as the code under test imports them
    lastly.defer(print, name="outer")
    lastly.configure(grace=7, errors="log")
    outer = lastly.pending()
    with isolated() as manager:
        assert manager is default
        assert pending() == ()
        assert lastly.last_report() is None
        lastly.configure(grace=3)
        register(int)
        lastly.close()
        assert_unwound("int")
    assert lastly.pending() == outer
    assert lastly.last_report() is None
    assert default._settings.grace == 7
    lastly.close()
    assert_unwound("outer")


def test_isolated_starts_with_the_settings_that_are_there() -> None:
    """isolated(): what the application configures where it is imported holds in its tests."""
    lastly.configure(timeout=4)
    with isolated() as manager:
        assert manager._settings.timeout == 4


def test_isolated_takes_a_manager_of_ones_own() -> None:
    """isolated(manager): that one, and not the default."""
    mine = lastly.ShutdownManager("mine")
    mine.defer(print, name="outer")
    lastly.defer(print, name="default's")
    with isolated(mine):
        assert mine.pending() == ()
        assert [r.name for r in lastly.pending()] == ["default's"]
    assert [r.name for r in mine.pending()] == ["outer"]
    mine.close()
    lastly.close()


def test_isolated_fails_for_what_is_left_and_cancels_it() -> None:
    """isolated(): it says what was left, newest first, and where that was registered."""
    outer = lastly.defer(print, name="outer")
    with pytest.raises(AssertionError, match="did you forget") as raised, isolated():
        left = lastly.defer(print, name="close_pool")
        lastly.defer(print, name="newer")
    assert re.findall(r"(?m)^  (\w+) \(.*test_kit\.py:\d+\)$", str(raised.value)) == [
        "newer",
        "close_pool",
    ]
    assert left.status is lastly.Status.CANCELLED
    assert lastly.pending() == (outer,)
    outer.cancel()


def test_isolated_does_not_hide_what_the_block_raises() -> None:
    """isolated(): an exception of the block's comes out, whatever is left."""
    with pytest.raises(ZeroDivisionError), isolated():
        lastly.defer(print)
        1 / 0  # noqa: B018


def test_what_was_there_before_still_runs_at_interpreter_exit(run_child) -> None:
    """isolated(): a manager that was emptied inside is not let go for what it had outside."""
    ended = run_child(
        """
        import lastly
        from lastly.testing import isolated

        lastly.defer(print, "outer")
        with isolated():
            lastly.defer(print, "inner")
            lastly.close()
        print("end of main")
        """
    )
    assert ended.out == ["inner", "end of main", "outer"]


async def test_a_loop_that_outlives_the_block_keeps_no_hook_of_it(anyio_backend_name: str) -> None:
    """isolated(): what was registered on a loop that goes on is untied from it."""
    outer = lastly.defer(print, name="outer")
    with isolated():
        async with lastly.lifespan():
            lastly.defer(anyio.sleep, 0)
        with pytest.raises(AssertionError), isolated():
            lastly.defer(anyio.sleep, 0)
        assert default._tied == {}
    assert list(default._tied) == [None, outer.home]  # the interpreter, and the loop
    assert default in _interpreter._managers
    outer.cancel()
    assert default not in _interpreter._managers


def test_what_was_registered_before_the_block_can_be_cancelled_inside_of_it() -> None:
    """isolated(): a handle finds its registration, and what the block has is still held."""
    first, second = lastly.defer(print, name="first"), lastly.defer(print, name="second")
    with isolated():
        inner = lastly.defer(print, name="inner")
        assert second.cancel()
        assert lastly.pending() == (inner,)
        assert first.cancel()
        assert default in _interpreter._managers
        lastly.close()
        assert_unwound("inner")
    assert lastly.pending() == ()
    assert {first.status, second.status} == {lastly.Status.CANCELLED}
    assert default not in _interpreter._managers
    assert default._tied == {}


def test_what_was_registered_before_the_block_can_be_cancelled_after_it() -> None:
    """isolated(): a handle finds its registration where that was put back to."""
    handle = lastly.defer(print)
    with isolated(), isolated():
        pass
    assert handle.cancel()
    assert lastly.pending() == ()
    assert default not in _interpreter._managers


def test_handlers_from_before_the_block_stay_and_count_their_signals_anew(run_child) -> None:
    """isolated(), R25: what was installed before it works inside of it and after it."""
    ended = run_child(
        """
        import asyncio, signal
        from signal import SIGHUP, SIGTERM
        import lastly
        from lastly.testing import isolated

        def terminate(signum):
            try:
                signal.raise_signal(signum)
            except SystemExit as exc:
                print(signal.Signals(signum).name, exc.code)

        async def wait():
            print(await lastly.wait_requested())

        lastly.install_signal_handlers(SIGTERM)
        with isolated():
            lastly.install_signal_handlers(SIGTERM, SIGHUP)
            terminate(SIGHUP)
            asyncio.run(wait())
            terminate(SIGTERM)  # the second: the third one would kill
        print(signal.getsignal(SIGHUP).name)
        lastly.request_shutdown("outer")
        asyncio.run(wait())
        terminate(SIGTERM)
        asyncio.run(wait())
        """
    )
    assert ended.out == [
        "SIGHUP 129",
        "signal: SIGHUP",
        "SIGTERM 143",
        "SIG_DFL",
        "request: outer",
        "SIGTERM 143",
        "request: outer",
    ]


def test_a_block_in_another_thread_leaves_the_signals_alone() -> None:
    """isolated(manager): the main thread has them, whatever blocks others open meanwhile."""
    reason, seen = Reason("signal", "SIGTERM"), []

    def work() -> None:
        with isolated(lastly.ShutdownManager()) as manager:
            seen.append(manager._ladder.request)

    _ladder.signals.ask(reason, 0.0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [request.reason for request in seen] == [reason]
    with isolated(lastly.ShutdownManager()) as manager:
        assert manager._ladder.request is None


async def test_who_waits_outside_of_a_block_may_stop_inside_of_it(anyio_backend_name: str) -> None:
    """isolated(): nobody who is gone is taken for one who waits for a signal."""
    async with anyio.create_task_group() as group:
        group.start_soon(lastly.wait_requested)
        await anyio.wait_all_tasks_blocked()
        with isolated(), anyio.CancelScope(shield=True):
            assert _ladder.signals._waiters == {}
            group.cancel_scope.cancel()
            await anyio.wait_all_tasks_blocked()
    assert _ladder.signals._waiters == {}


# -- assert_unwound -------------------------------------------------------------------


def test_assert_unwound_returns_the_report() -> None:
    """assert_unwound(): names for what ended ok, pairs for what did not."""
    lastly.configure(errors="log")
    lastly.defer(print, name="close_pool")
    lastly.defer(int, "no number", name="stop_worker")
    lastly.close()
    report = assert_unwound(("stop_worker", "failed"), "close_pool")
    assert report is lastly.last_report()
    assert_unwound(("stop_worker", lastly.Status.FAILED), "close_pool", report=report)


@pytest.mark.parametrize(
    "expected",
    [
        ("close_pool", "stop_worker"),
        ("stop_worker",),
        (),
        ("stop_worker", "close_pool", "more"),
        ("stop_worker", ("close_pool", "failed")),
    ],
)
def test_assert_unwound_shows_the_difference(expected) -> None:
    """assert_unwound(): another order, more, less, or another status."""
    lastly.defer(print, name="close_pool")
    lastly.defer(print, name="stop_worker")
    lastly.close()
    with pytest.raises(AssertionError) as raised:
        assert_unwound(*expected)
    lines = str(raised.value).splitlines()
    assert {line[2:] for line in lines if line[:1] in {" ", "+"}} == {
        "stop_worker ok",
        "close_pool ok",
    }
    assert lines[-1] == str(lastly.last_report()).splitlines()[-1]
    assert "?" not in {line[:1] for line in lines}


def test_assert_unwound_without_an_unwind() -> None:
    """assert_unwound(): it says what is pending, and that nothing has unwound."""
    with pytest.raises(AssertionError, match="pending: nothing; did you forget"):
        assert_unwound()
    lastly.defer(print, name="close_pool").cancel()
    handle = lastly.defer(print, name="stop_worker")
    with pytest.raises(AssertionError, match="pending: stop_worker; did you forget"):
        assert_unwound("stop_worker")
    handle.cancel()


def test_assert_unwound_refuses_a_status_that_there_is_not() -> None:
    """assert_unwound(): a mistyped status is told, and not compared."""
    lastly.defer(print, name="close_pool")
    lastly.close()
    with pytest.raises(ValueError, match="timeout"):
        assert_unwound(("close_pool", "timeout"))


# -- hang -----------------------------------------------------------------------------


async def close_pool() -> None:
    print("pool closed")


async def test_an_async_callback_hangs_until_its_timeout(manager, capsys) -> None:
    """hang(): a timeout of hours passes at once, what comes after it runs, `on_timeout` too."""
    manager.configure(errors="log")
    manager.defer(print, name="older")
    manager.defer(close_pool, timeout=9000, on_timeout=anyio.lowlevel.checkpoint)
    with hang("close_pool", manager=manager):
        await manager.aclose()
    assert statuses(manager) == ["close_pool timed_out", "older ok"]
    outcome = manager.last_report().outcomes[0]
    assert outcome.duration >= 9000
    assert isinstance(outcome.exception, lastly.CleanupTimeout)
    assert "on_timeout" not in str(outcome.exception)
    assert "pool closed" not in capsys.readouterr().out


async def test_it_hangs_when_it_is_registered_inside_the_block(manager) -> None:
    """hang(): before the block or inside of it, also while it unwinds (R2)."""
    manager.configure(errors="log", timeout=30)
    with hang("close_pool", manager=manager):
        manager.defer(lambda: manager.register(close_pool), name="older")
        manager.register(close_pool)
        await manager.aclose()
    assert statuses(manager) == ["close_pool timed_out", "older ok", "close_pool timed_out"]


async def test_the_grace_is_used_up_by_what_hangs(manager) -> None:
    """hang(): R21's shares are what each hung callback gets."""
    manager.configure(errors="log", grace=100)
    for _ in range(3):
        manager.register(close_pool)
    with hang("close_pool", manager=manager):
        await manager.aclose()
    durations = [outcome.duration for outcome in manager.last_report().outcomes]
    assert 80 <= durations[0]
    assert durations[0] > durations[1] > durations[2]
    assert sum(durations) <= 100


async def test_it_hangs_after_its_real_work(manager, capsys) -> None:
    """hang(after=True): what has to be released is released."""
    manager.configure(errors="log")
    manager.defer(close_pool, timeout=30)
    with hang("close_pool", after=True, manager=manager):
        await manager.aclose()
    assert statuses(manager) == ["close_pool timed_out"]
    assert capsys.readouterr().out == "pool closed\n"


@pytest.mark.parametrize("after", [False, True])
async def test_a_callback_in_a_thread_hangs_and_is_abandoned(manager, after: bool) -> None:
    """hang(): with thread=True it blocks the thread, until the end of the block."""
    manager.configure(errors="log")
    manager.defer(print, name="older")
    threads: list[threading.Thread] = []
    manager.defer(
        lambda: threads.append(threading.current_thread()),
        name="flush",
        timeout=30,
        thread=True,
        on_timeout=anyio.lowlevel.checkpoint,
    )
    before = set(threading.enumerate())
    with hang("flush", after=after, manager=manager):
        await manager.aclose()
        hung = [t for t in threading.enumerate() if t not in before and t.name == "lastly: flush"]
        assert len(hung) == 1
    assert statuses(manager) == ["flush abandoned", "older ok"]
    assert threads == (hung if after else [])
    await anyio.to_thread.run_sync(hung[0].join)


async def test_what_a_thread_returns_to_be_awaited_hangs_on_the_loop(manager, capsys) -> None:
    """hang(after=True): R5, with thread=True: it blocks neither the loop nor a thread."""
    manager.configure(errors="log")
    manager.defer(lambda: close_pool(), name="close_pool", timeout=30, thread=True)
    with hang("close_pool", after=True, manager=manager):
        await manager.aclose()
    assert statuses(manager) == ["close_pool timed_out"]
    assert capsys.readouterr().out == "pool closed\n"


@pytest.mark.parametrize("after", [False, True])
def test_callbacks_hang_in_close(manager, after: bool) -> None:
    """hang(): the same where no loop runs, async and in a thread."""
    manager.configure(errors="log")
    manager.defer(print, name="older")
    manager.defer(close_pool, timeout=9000)
    manager.defer(time.sleep, 0, name="flush", timeout=30, thread=True, on_timeout=print)
    with (
        hang("flush", after=after, manager=manager),
        hang("close_pool", after=after, manager=manager),
    ):
        manager.close()
    assert statuses(manager) == ["flush abandoned", "close_pool timed_out", "older ok"]


def test_a_callback_in_a_thread_that_does_not_hang(manager) -> None:
    """FakeClock: where nothing hangs, a thread is waited for in real time."""
    manager.defer(print, name="flush", timeout=30, thread=True)
    with fake_clock(manager):
        manager.close()
    assert statuses(manager) == ["flush ok"]


async def test_a_callback_on_another_loop_hangs(manager) -> None:
    """hang(): the time of a callback that runs in another thread's loop passes, too (R17)."""
    manager.configure(errors="log")
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(lambda: manager.defer(close_pool, timeout=30))
        with hang("close_pool", manager=manager):
            await manager.aclose()
    assert statuses(manager) == ["close_pool timed_out"]


async def test_exits_hang(manager) -> None:
    """hang(): the exit of a context manager has a name, too."""
    manager.configure(errors="log", timeout=30)

    @contextlib.asynccontextmanager
    async def pool():
        yield
        print("closed")

    await manager.enter_async_context(pool())
    with hang(pool.__qualname__, after=True, manager=manager):
        await manager.aclose()
    assert [o.status.value for o in manager.last_report().outcomes] == ["timed_out"]


def unwind_a_task_group(backend: str, work, fault) -> lastly.Outcome:
    """Unwind a manager that holds a task group, on a loop whose end finds what was not left."""

    async def main() -> lastly.ShutdownManager:
        manager = lastly.ShutdownManager(errors="log", timeout=30)
        group = await manager.enter_async_context(anyio.create_task_group())
        group.start_soon(work)
        with fault("TaskGroup", manager=manager):
            await manager.aclose()
        return manager

    (outcome,) = anyio.run(main, backend=backend).last_report().outcomes
    return outcome


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("work", [anyio.lowlevel.checkpoint, anyio.sleep_forever])
def test_the_exit_of_a_task_group_hangs(backend: str, work) -> None:
    """hang(), R8: on trio inside of the scope that the exit holds, and it leaves that."""
    outcome = unwind_a_task_group(backend, work, hang)
    assert outcome.status is lastly.Status.TIMED_OUT
    assert isinstance(outcome.exception, lastly.CleanupTimeout)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_exit_of_a_task_group_fails(backend: str) -> None:
    """fail(): the same object comes out of it, and on trio its scope is left."""
    error = OSError("gone")

    def fault(name: str, manager: lastly.ShutdownManager):
        return fail(name, error, manager=manager)

    assert unwind_a_task_group(backend, anyio.lowlevel.checkpoint, fault).exception is error


def test_after_it_has_left_its_scope_nothing_would_end_an_exit_on_trio() -> None:
    """hang(after=True), R8: where lastly can put up no scope it fails, and says so."""

    def fault(name: str, manager: lastly.ShutdownManager):
        return hang(name, after=True, manager=manager)

    work = anyio.lowlevel.checkpoint
    assert unwind_a_task_group("asyncio", work, fault).status is lastly.Status.TIMED_OUT
    outcome = unwind_a_task_group("trio", work, fault)
    assert isinstance(outcome.exception, AssertionError)
    assert re.search(
        r"^TaskGroup \(.*\) would hang for ever: .* did you mean it without `after=True`\?$",
        str(outcome.exception),
    )


@pytest.mark.parametrize("after", [False, True])
async def test_what_nothing_would_end_fails_and_says_so(manager, after: bool) -> None:
    """hang(): no limit, and a sync callback without a thread: the test fails, and goes on."""
    manager.register(close_pool)
    with (
        pytest.raises(AssertionError, match="would hang for ever: did you forget its timeout"),
        hang("close_pool", after=after, manager=manager),
    ):
        await manager.aclose()
    manager.configure(grace=10)

    def flush() -> None: ...

    manager.defer(flush, name="flush")
    with (
        pytest.raises(AssertionError, match="flush .* is sync, .*did you forget `thread=True`"),
        hang("flush", after=after, manager=manager),
    ):
        await manager.aclose()


@pytest.mark.parametrize("limits", [{"timeout": 30}, {"grace": 30}])
async def test_the_managers_limits_are_limits(manager, limits) -> None:
    """hang(): a callback with other options has its manager's limits."""
    manager.configure(errors="log", **limits)
    manager.defer(print, name="flush", thread=True)
    manager.defer(close_pool, before_threads=True)
    with hang("flush", manager=manager), hang("close_pool", manager=manager):
        await manager.aclose()
    assert statuses(manager) == ["close_pool timed_out", "flush abandoned"]


async def test_a_timeout_without_end_is_none(manager) -> None:
    """hang(): `math.inf` as its own timeout overrides that of its manager."""
    manager.configure(timeout=30)
    manager.defer(close_pool, timeout=math.inf)
    with (
        pytest.raises(AssertionError, match="would hang for ever"),
        hang("close_pool", manager=manager),
    ):
        await manager.aclose()


async def test_unregister_finds_what_hangs(manager) -> None:
    """R6: hang() leaves a callback equal to itself, also once an unwind has come near it."""
    manager.configure(errors="log", timeout=30)
    manager.register(close_pool)
    manager.defer(manager.unregister, close_pool, name="unregisters")
    manager.register(close_pool)
    with hang("close_pool", manager=manager):
        await manager.aclose()
    assert statuses(manager) == ["close_pool timed_out", "unregisters ok"]


def test_it_is_itself_again_after_the_block(manager, capsys) -> None:
    """hang(): what has not run in the block runs after it as if nothing had been."""
    manager.configure(errors="log", timeout=30)

    async def main() -> None:
        manager.register(close_pool)  # unwinds with this loop

    manager.register(close_pool)
    with hang("close_pool", manager=manager):
        asyncio.run(main())
        assert statuses(manager) == ["close_pool timed_out"]
    manager.close()
    assert statuses(manager) == ["close_pool ok"]
    assert capsys.readouterr().out == "pool closed\n"


async def test_a_second_unwind_in_the_block(manager) -> None:
    """hang(): all unwinds inside the block."""
    manager.configure(errors="log", timeout=30)
    with hang("close_pool", manager=manager):
        for _ in range(2):
            manager.register(close_pool)
            await manager.aclose()
            assert statuses(manager) == ["close_pool timed_out"]


async def test_a_forced_callback_hangs_no_longer_than_that(manager) -> None:
    """hang(): R22's cancellation ends it; the limit of the next one is not its."""
    manager.configure(errors="log", grace=10)
    manager.defer(anyio.sleep, 0, name="older")
    manager.register(close_pool)
    with hang("close_pool", manager=manager) as _, fake_clock(manager) as clock:
        manager.defer(clock.advance, 11, name="takes all")
        await manager.aclose()
    assert statuses(manager) == ["takes all ok", "close_pool forced", "older forced"]


async def test_on_the_default_manager() -> None:
    """hang(), fail(): that of the default manager, unless told otherwise."""
    lastly.configure(errors="log", timeout=30)
    lastly.register(close_pool)
    lastly.defer(print, name="flush")
    with hang("close_pool"), fail("flush", OSError):
        await lastly.aclose()
    assert_unwound(("flush", "failed"), ("close_pool", "timed_out"))


# -- fail -----------------------------------------------------------------------------


async def test_a_callback_fails(manager, capsys) -> None:
    """fail(): instead of its real work; the same object comes out (R11)."""
    error = OSError("gone")
    manager.register(close_pool)
    manager.defer(print, "flushed", name="flush")
    with pytest.raises(OSError, match="gone") as raised, fail("flush", error, manager=manager):
        await manager.aclose()
    assert raised.value is error
    assert statuses(manager) == ["flush failed", "close_pool ok"]
    assert capsys.readouterr().out == "pool closed\n"


async def test_callbacks_fail_after_their_real_work(manager, capsys) -> None:
    """fail(after=True): sync and async ones."""
    manager.configure(errors="log")
    with (
        fail("flush", ValueError("late"), after=True, manager=manager),
        fail("close_pool", ZeroDivisionError, after=True, manager=manager),
    ):
        manager.register(close_pool)
        manager.defer(print, "flushed", name="flush")
        await manager.aclose()
    assert statuses(manager) == ["flush failed", "close_pool failed"]
    assert capsys.readouterr().out == "flushed\npool closed\n"


async def test_a_callback_is_made_to_go_wrong_once(manager) -> None:
    """fail(): of two blocks for one name the outer one counts, and the inner one says so."""
    manager.register(close_pool)
    with (
        pytest.raises(AssertionError, match="no callback of this name has gone wrong"),
        fail("close_pool", OSError, manager=manager),
        fail("close_pool", ValueError, manager=manager),
    ):
        with contextlib.suppress(OSError):
            await manager.aclose()


# -- a name that does not occur -------------------------------------------------------


def missed(manager: lastly.ShutdownManager, name: str, unwind: bool = True) -> str:
    with pytest.raises(AssertionError) as raised, hang(name, manager=manager):
        if unwind:
            manager.close()
    return str(raised.value)


def test_a_name_that_is_mistyped(manager) -> None:
    """hang(): it proposes the name that is like it, and lists those that it saw."""
    manager.defer(print, name="stop_worker")
    manager.defer(print, name="close_pool")
    assert missed(manager, "close_pol") == (
        "hang('close_pol'): no callback of this name has gone wrong; did you mean 'close_pool'? "
        "Names seen: 'close_pool', 'stop_worker'"
    )


def test_a_name_that_was_never_registered(manager) -> None:
    """hang(): it says that nothing of that name was there."""
    assert missed(manager, "x") == (
        "hang('x'): no callback of this name has gone wrong; did you forget to register it? "
        "Names seen: none"
    )


def test_a_name_whose_callback_is_still_there(manager) -> None:
    """hang(): it says that the block has unwound nothing."""
    handle = manager.register(close_pool)
    told = missed(manager, "close_pool", unwind=False)
    assert re.fullmatch(
        r"hang\('close_pool'\): <Registration close_pool \(.*:\d+\), home the interpreter, "
        r"pending> has not run; did you forget to unwind inside the block\?",
        told,
    )
    manager.unregister(close_pool)


def test_a_mistyped_name_in_a_block_that_unwinds_nothing(manager) -> None:
    """hang(): what is pending counts among the names that it saw."""
    manager.defer(print, name="close_pool")
    assert "did you mean 'close_pool'?" in missed(manager, "close_pol", unwind=False)
    manager.close()


def test_the_blocks_own_exception_comes_first(manager) -> None:
    """hang(): what the block raises is not hidden by a name that did not occur."""
    with pytest.raises(ZeroDivisionError), hang("close_pool", manager=manager):
        1 / 0  # noqa: B018


# -- the clock ------------------------------------------------------------------------


async def test_the_clock_moves_where_the_test_says_so(manager) -> None:
    """FakeClock: what a callback takes is what the test makes of it; a limit falls due."""
    manager.configure(errors="log", grace=100)
    order: list[str] = []

    async def slow(seconds: float) -> None:
        clock.advance(seconds)
        await anyio.lowlevel.checkpoint()
        order.append("done")

    with fake_clock(manager) as clock:
        manager.defer(slow, 20, name="in time", timeout=30)
        manager.defer(slow, 40, name="late", timeout=30)
        await manager.aclose()
    assert statuses(manager) == ["late timed_out", "in time ok"]
    durations = [outcome.duration for outcome in manager.last_report().outcomes]
    assert durations[0] >= 40
    assert durations[1] >= 20
    assert order == ["done"]


async def test_a_test_moves_the_clock_from_another_task_or_thread(manager) -> None:
    """FakeClock: advance() from anywhere; the callback is cancelled on its own loop."""
    manager.configure(errors="log")
    began = threading.Event()

    async def begin() -> None:
        began.set()
        await anyio.sleep_forever()

    def move() -> None:
        began.wait()
        clock.advance(30)

    with fake_clock(manager) as clock:
        manager.defer(begin, timeout=30)
        thread = threading.Thread(target=move)
        thread.start()
        await manager.aclose()
        thread.join()
    assert statuses(manager)[0].endswith("begin timed_out")


async def test_due_timers_are_called_in_order(anyio_backend_name: str) -> None:
    """FakeClock: each at its own time; one that was taken back is not, nor one that is not due."""
    clock = FakeClock()
    start = clock.now()
    called: list[tuple[str, float]] = []

    def timer(seconds: float):
        return clock.call_later(
            seconds, lambda: called.append((f"after {seconds}", clock.now() - start))
        )

    later = timer(50)
    timer(20)
    timer(10)
    timer(15)()
    clock.call_later(25, lambda: timer(2))
    clock.advance(30)
    assert [name for name, _ in called] == ["after 10", "after 20", "after 2"]
    assert called[0][1] >= 10
    assert called[1][1] >= 20
    later()
    later()
    clock.advance(100)
    assert len(called) == 3


async def test_a_timer_that_is_taken_back_on_its_way_to_its_loop(anyio_backend_name: str) -> None:
    """FakeClock: what another thread lets fall due is not called after it was taken back."""
    clock = FakeClock()
    called: list[int] = []
    take_back = clock.call_later(10, lambda: called.append(1))
    thread = threading.Thread(target=clock.advance, args=(20,))
    thread.start()
    thread.join()
    take_back()
    await anyio.wait_all_tasks_blocked()
    assert called == []


async def test_nothing_is_skipped_for_what_hangs_no_more(anyio_backend_name: str) -> None:
    """hang(): the limit of the callback after it is its own."""
    clock = FakeClock()
    called: list[int] = []
    hanging = [True]
    clock._skip_while(lambda: bool(hanging))
    take_back = clock.call_later(10, lambda: called.append(1))
    hanging.clear()
    await anyio.wait_all_tasks_blocked()
    assert called == []
    take_back()


async def test_what_really_hangs_is_cut_short_in_real_time(manager) -> None:
    """FakeClock: it goes on by itself, so that a test of what really hangs ends."""
    manager.configure(errors="log")
    manager.defer(anyio.sleep_forever, timeout=0.01)
    manager.defer(threading.Event().wait, name="thread", timeout=0.01, thread=True)
    with fake_clock(manager):
        await manager.aclose()
    assert [o.status.value for o in manager.last_report().outcomes] == ["abandoned", "timed_out"]


def test_one_clock_for_nested_blocks_and_the_old_one_afterwards() -> None:
    """fake_clock(): of the default manager, unless told otherwise."""
    before = default._settings.clock
    with fake_clock() as clock:
        assert default._settings.clock is clock
        with fake_clock() as inner:
            assert inner is clock
        assert default._settings.clock is clock
    assert default._settings.clock is before


# -- what it costs --------------------------------------------------------------------


def test_the_kit_needs_no_pytest_and_lastly_no_kit(run_child) -> None:
    """`import lastly` loads no kit; the kit loads no pytest, for those who test without."""
    run_child(
        """
        import sys
        import lastly
        assert not any("testing" in name for name in sys.modules if name.startswith("lastly"))
        import lastly.testing
        assert "pytest" not in sys.modules
        """
    )
