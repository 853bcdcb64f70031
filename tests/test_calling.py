"""R5 to R8 and R32: what is called and how, handles, context managers, bad input."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import types
import warnings
import weakref

import anyio
import pytest

import lastly


class Pool:
    """Something with many ways to be closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    async def aclose(self) -> None:
        await anyio.sleep(0)
        self.closed.append("aclose")

    async def __call__(self) -> None:
        await anyio.sleep(0)
        self.closed.append("call")

    @types.coroutine
    def old_style(self):
        yield from anyio.sleep(0).__await__()
        self.closed.append("old style")


class Awaitable:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def __await__(self):
        yield from anyio.sleep(0).__await__()
        self.calls.append("custom awaitable")


async def test_async_is_decided_by_the_result_of_the_call(
    manager: lastly.ShutdownManager,
) -> None:
    """R5: lambdas, partials, methods, async __call__ and custom awaitables are all awaited."""
    pool = Pool()
    manager.register(lambda: pool.aclose())
    manager.register(functools.partial(pool.aclose))
    manager.register(pool)
    manager.register(pool.old_style)
    manager.register(Awaitable, pool.closed)
    manager.register(functools.partial(lambda p: p(), pool))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await manager.aclose()
        gc.collect()
    assert caught == []
    expected = ["call", "custom awaitable", "old style", "call", "aclose", "aclose"]
    assert pool.closed == expected


def test_futures_and_tasks_are_awaited(manager: lastly.ShutdownManager) -> None:
    """R5: a callback that returns a task or a gather() of asyncio's is async too."""
    calls: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        calls.append("done")

    async def main() -> None:
        manager.register(lambda: asyncio.ensure_future(work()))
        manager.register(lambda: asyncio.gather(work(), work()))
        await manager.aclose()

    asyncio.run(main())
    assert calls == ["done"] * 3


def test_close_awaits_what_a_lambda_returns(manager: lastly.ShutdownManager) -> None:
    """R5: also without a loop a lambda's coroutine is awaited, on a fresh one."""
    pool = Pool()
    manager.register(lambda: pool.aclose())
    manager.register(pool.old_style)
    manager.close()
    assert pool.closed == ["old style", "aclose"]


def test_extension_methods_and_plain_results(manager: lastly.ShutdownManager) -> None:
    """R5: methods of extension types are called; a result that is no awaitable is let go."""
    calls: list[int] = [1]
    manager.defer(calls.pop)
    manager.defer(calls.append, 2)
    manager.defer(lambda: (n for n in calls))
    manager.close()
    assert calls == [1]


# -- R6 -------------------------------------------------------------------------------


def test_register_returns_the_function_and_passes_arguments(
    manager: lastly.ShutdownManager,
) -> None:
    """R6: register takes arguments and keywords as atexit does, and returns the function."""
    calls: list[object] = []

    def callback(*args: object, **kwargs: object) -> None:
        calls.append((args, kwargs))

    assert manager.register(callback, 1, func=2, self=3) is callback
    assert manager.register(callback) is callback
    manager.close()
    assert calls == [((), {}), ((1,), {"func": 2, "self": 3})]


def test_unregister_removes_every_equal_callback(manager: lastly.ShutdownManager) -> None:
    """R6: unregister compares with ==, and removes what any verb has registered."""
    pool = Pool()
    calls: list[str] = []
    manager.register(pool.aclose)
    manager.defer(pool.aclose, name="other")
    manager.register(calls.append, "kept")
    manager.register(functools.partial(pool.aclose))  # equal to nothing but itself
    assert pool.aclose is not pool.aclose
    manager.unregister(pool.aclose)
    manager.unregister(print)
    manager.close()
    assert (calls, pool.closed) == (["kept"], ["aclose"])


def test_unregister_finds_the_exit_of_a_context_manager(manager: lastly.ShutdownManager) -> None:
    """R6: "by whichever verb" includes enter_context: its callback is the bound __exit__."""
    stack = contextlib.ExitStack()
    manager.enter_context(stack)
    manager.unregister(stack.__exit__)
    assert manager.pending() == ()


def test_unregister_from_inside_a_callback(manager: lastly.ShutdownManager) -> None:
    """R6: a callback may unregister itself, which does nothing, and those still to run."""
    calls: list[str] = []

    def victim() -> None:
        calls.append("victim")

    def callback() -> None:
        manager.unregister(callback)
        manager.unregister(victim)
        calls.append("callback")

    manager.register(victim)
    manager.register(calls.append, "bottom")
    manager.register(victim)
    manager.register(callback)
    manager.close()
    assert calls == ["callback", "bottom"]


def test_unregister_finds_what_equals_nothing(manager: lastly.ShutdownManager) -> None:
    """R6: as atexit does, identity is looked at before `==`."""

    class Unequal:
        __hash__ = None

        def __call__(self) -> None: ...

        def __eq__(self, other: object) -> bool:
            return False

    callback = Unequal()
    manager.register(callback)
    manager.unregister(Unequal())
    assert len(manager.pending()) == 1
    manager.unregister(callback)
    assert manager.pending() == ()


def test_unregister_survives_an_eq_that_registers(manager: lastly.ShutdownManager) -> None:
    """R6: `==` may run code of the user's that changes the stack in the middle of the search."""

    class Odd:
        __hash__ = None

        def __call__(self) -> None: ...

        def __eq__(self, other: object) -> bool:
            manager.register(print)
            return isinstance(other, Odd)

    for _ in range(3):
        manager.register(Odd())
    manager.unregister(Odd())
    manager.unregister(print)
    assert manager.pending() == ()


# -- R7 -------------------------------------------------------------------------------


def test_a_handle_tells_its_name_origin_home_and_status(manager: lastly.ShutdownManager) -> None:
    """R7: name, origin as file:line, home and status; repr has them all in one line."""
    handle = manager.defer(Pool().aclose)
    line = inspect.currentframe().f_lineno - 1
    assert handle.name == "Pool.aclose"
    assert handle.origin == f"{__file__}:{line}"
    assert handle.home is None
    assert handle.status is lastly.Status.PENDING
    assert repr(handle) == (
        f"<Registration Pool.aclose ({__file__}:{line}), home the interpreter, pending>"
    )
    manager.close()
    assert handle.status is lastly.Status.OK
    assert handle.name == "Pool.aclose"


def test_origin_is_the_line_of_the_call_also_far_down_and_for_a_decorator(
    manager: lastly.ShutdownManager,
) -> None:
    """R7: the origin is where the user registered, not where the function was defined."""
    here = inspect.currentframe().f_lineno

    @manager.register
    def callback() -> None: ...

    @manager.defer(name="named")
    def other() -> None: ...

    with contextlib.nullcontext():
        manager.enter_context(
            contextlib.nullcontext(),
        )
    lines = [int(handle.origin.rpartition(":")[2]) - here for handle in manager.pending()]
    assert lines == [9, 5, 2]
    manager.close()


def test_a_loop_is_let_go_by_what_is_done(manager: lastly.ShutdownManager) -> None:
    """R7: a handle that somebody keeps does not keep its home, nor is it given another one."""
    handles = [manager.defer(str)]

    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        handles.extend([manager.defer(print), manager.defer(str)])
        assert handles[1].cancel()
        await manager.aclose()
        loop = asyncio.get_running_loop()
        assert [handle.home for handle in handles] == [None, loop, loop]
        return weakref.ref(loop)

    gone = asyncio.run(main())
    gc.collect()
    assert gone() is None
    assert [handle.home for handle in handles] == [None, None, None]


async def test_home_is_the_loop_that_runs(manager: lastly.ShutdownManager) -> None:
    """R7: made inside a loop, a registration belongs to it, and says so."""
    handle = manager.defer(print)
    assert handle.home is not None
    assert "home <" in repr(handle)
    with contextlib.suppress(RuntimeError):
        assert handle.home is asyncio.get_running_loop()
    assert handle.cancel()


def test_cancel_tells_whether_it_will_not_run(manager: lastly.ShutdownManager) -> None:
    """R7: cancel() is True if the callback will now not run, however often it is asked."""
    calls: list[str] = []
    first = manager.defer(calls.append, "first")
    second = manager.defer(calls.append, "second")
    assert first.cancel() is True
    assert first.cancel() is True
    assert first.status is lastly.Status.CANCELLED
    manager.close()
    assert second.cancel() is False
    assert calls == ["second"]


def test_unregistered_handles_are_cancelled(manager: lastly.ShutdownManager) -> None:
    """R7: what unregister took off is cancelled, and its handle says so."""
    handle = manager.defer(print)
    manager.unregister(print)
    assert handle.status is lastly.Status.CANCELLED
    assert handle.cancel() is True


def test_cancelling_the_callback_that_runs(manager: lastly.ShutdownManager) -> None:
    """R7: a running callback cannot be cancelled, and its status is running."""
    seen: list[object] = []
    handle = manager.defer(lambda: seen.extend([handle.cancel(), handle.status]))
    manager.close()
    assert seen == [False, lastly.Status.RUNNING]


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (print, "print"),
        ([].append, "list.append"),
        (functools.partial(functools.partial(print, 1), 2), "print"),
        (Pool(), "Pool"),
        (Pool, "Pool"),
        (lambda: None, "<lambda>"),
    ],
)
def test_names_of_callables(manager: lastly.ShutdownManager, callback, name: str) -> None:
    """R7: the name is the callback's qualified name, also for a partial or an object."""
    handle = manager.defer(callback)
    assert handle.name == name
    assert handle.cancel()


def test_a_name_that_would_forge_a_line(manager: lastly.ShutdownManager) -> None:
    """R7, R23: what breaks a line or steers a terminal is shown escaped, wherever it is told."""
    handle = manager.defer(print, name="a\nERROR b\x1b[31m é")
    assert handle.name == r"a\nERROR b\x1b[31m é"
    assert len(repr(handle).splitlines()) == 1
    handle.cancel()


def test_a_name_that_cannot_be_read(manager: lastly.ShutdownManager) -> None:
    """R7: a callable whose __qualname__ raises, or is no string, is named by its type."""

    class Nameless:
        def __getattribute__(self, name: str) -> object:
            if name == "__qualname__":
                raise OSError
            return super().__getattribute__(name)

        def __call__(self) -> None: ...

    handle = manager.defer(Nameless())
    assert handle.name.endswith("<locals>.Nameless")
    manager.close()


def test_context_managers_are_named_by_what_the_user_wrote(
    manager: lastly.ShutdownManager,
) -> None:
    """R7: @contextmanager functions give their name, other context managers their type's."""

    @contextlib.contextmanager
    def connection():
        yield

    manager.enter_context(connection())
    manager.enter_context(contextlib.ExitStack())
    names = [handle.name.rpartition(".")[2] for handle in manager.pending()]
    assert names == ["ExitStack", "connection"]
    manager.close()


def test_a_finished_handle_lets_go_of_its_callback(manager: lastly.ShutdownManager) -> None:
    """R7: keeping a handle does not keep the callback, nor what it owns."""
    pool = Pool()
    handles = [
        manager.defer(pool.aclose),
        manager.defer(functools.partial(print, pool, file=None)),
    ]
    manager.unregister(print)
    manager.close()
    assert handles
    assert not [r for r in gc.get_referrers(pool) if isinstance(r, types.MethodType)]


# -- R8 -------------------------------------------------------------------------------


async def test_entering_returns_the_value_and_registers_the_exit(
    manager: lastly.ShutdownManager,
) -> None:
    """R8: both verbs enter now, return the value, and exit in the unwind, newest first."""
    calls: list[str] = []

    @contextlib.contextmanager
    def sync():
        calls.append("enter sync")
        yield "sync"
        calls.append("exit sync")

    @contextlib.asynccontextmanager
    async def async_():
        calls.append("enter async")
        yield "async"
        await anyio.sleep(0)
        calls.append("exit async")

    assert manager.enter_context(sync()) == "sync"
    assert await manager.enter_async_context(async_()) == "async"
    assert len(manager.pending()) == 2
    await manager.aclose()
    assert calls == ["enter sync", "enter async", "exit async", "exit sync"]


async def test_nothing_is_registered_if_entering_fails(manager: lastly.ShutdownManager) -> None:
    """R8: an __enter__ or __aenter__ that raises leaves nothing on the stack."""

    @contextlib.contextmanager
    def sync():
        raise OSError("sync")
        yield

    @contextlib.asynccontextmanager
    async def async_():
        raise OSError("async")
        yield

    with pytest.raises(OSError, match="sync"):
        manager.enter_context(sync())
    with pytest.raises(OSError, match="async"):
        await manager.enter_async_context(async_())
    assert manager.pending() == ()


async def test_a_task_group_held_open_by_the_manager(manager: lastly.ShutdownManager) -> None:
    """R8: an anyio task group works in `async with manager`, callbacks before and after it."""
    calls: list[str] = []

    async def worker() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            calls.append("worker cancelled")

    async def callback(name: str) -> None:
        await anyio.sleep(0)
        calls.append(name)

    async with manager:
        manager.defer(callback, "after the task group")
        tasks = await manager.enter_async_context(anyio.create_task_group())
        manager.defer(tasks.cancel_scope.cancel)
        manager.defer(callback, "before the task group")
        tasks.start_soon(worker)
        await anyio.sleep(0)
    assert calls == ["before the task group", "worker cancelled", "after the task group"]


async def test_a_sync_cancel_scope_held_open_by_the_manager(
    manager: lastly.ShutdownManager,
) -> None:
    """R8: cancel scopes must nest, also those that are plain context managers."""

    async def callback() -> None:
        await anyio.sleep(0)

    async with manager:
        manager.defer(callback)
        manager.enter_context(anyio.fail_after(60))
        manager.defer(callback)
        manager.enter_context(anyio.CancelScope())
        manager.defer(callback)
    assert [outcome.status for outcome in manager.last_report().outcomes] == ["ok"] * 5


async def test_a_task_group_swallows_its_own_cancellation(
    manager: lastly.ShutdownManager,
) -> None:
    """R8: the exit is told what leaves the block, and may swallow it, as in `async with`."""
    async with manager:
        tasks = await manager.enter_async_context(anyio.create_task_group())
        tasks.cancel_scope.cancel()
        await anyio.sleep_forever()
    assert manager.last_report().ok


async def test_an_exit_gets_the_exception_of_the_block(manager: lastly.ShutdownManager) -> None:
    """R8: the exit is called with the type, the object and the traceback, or three Nones."""
    seen: list[object] = []

    class Watcher:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *exc: object) -> None:
            seen.append(exc)

    boom = ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        async with manager:
            await manager.enter_async_context(Watcher())
            raise boom
    await manager.enter_async_context(Watcher())
    await manager.aclose()
    (kind, exc, traceback), nothing = seen
    assert (kind, exc) == (ValueError, boom)
    assert isinstance(traceback, types.TracebackType)
    assert nothing == (None, None, None)


class NoTruth:
    """An array, or a clause of SQL."""

    def __bool__(self) -> bool:
        raise TypeError("no truth")


class Returns(contextlib.nullcontext):
    def __exit__(self, *exc: object) -> object:
        return self.enter_result

    async def __aexit__(self, *exc: object) -> object:
        return self.enter_result


def test_an_exit_that_returns_true_swallows_the_exception(
    manager: lastly.ShutdownManager,
) -> None:
    """R8: contextlib.suppress works on the stack as it does in a `with` statement."""
    seen: list[object] = []

    class Watcher(contextlib.nullcontext):
        def __exit__(self, *exc: object) -> None:
            seen.append(exc)

    with manager:
        manager.enter_context(Watcher())
        manager.enter_context(contextlib.suppress(ValueError))
        raise ValueError
    assert seen == [(None, None, None)]


def test_an_exit_whose_result_has_no_truth_value(manager: lastly.ShutdownManager) -> None:
    """R8, R9: it is asked as `with` does, only when something is told; its error is the exit's."""
    manager.enter_context(Returns(NoTruth()))
    manager.close()
    assert manager.last_report().ok
    calls: list[str] = []
    with pytest.raises(TypeError, match="no truth"), manager:
        manager.defer(calls.append, "next")
        manager.enter_context(Returns(NoTruth()))
        raise ValueError
    assert calls == ["next"]
    assert [o.status for o in manager.last_report().outcomes] == ["failed", "ok"]


def test_an_exit_that_raises_what_it_was_told_has_not_failed(
    manager: lastly.ShutdownManager,
) -> None:
    """R8: passing the block's exception on by raising it is not a failure of the exit."""

    class PassesOn(contextlib.nullcontext):
        def __exit__(self, kind: object, exc: BaseException | None, tb: object) -> None:
            if exc is not None:
                raise exc

    boom = ValueError("boom")
    with pytest.raises(ValueError, match="boom") as caught, manager:
        manager.enter_context(PassesOn())
        raise boom
    assert caught.value is boom
    assert manager.last_report().ok


async def test_the_exit_is_not_shielded(manager: lastly.ShutdownManager) -> None:
    """R8: the exit runs under no scope of lastly's, so a surrounding cancellation reaches it."""
    reached: list[bool] = []

    class Sleeps:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *exc: object) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                reached.append(True)

    with anyio.CancelScope() as scope:
        async with manager:
            manager.defer(anyio.sleep, 0)
            await manager.enter_async_context(Sleeps())
            scope.cancel()
    assert reached == [True]
    assert scope.cancelled_caught
    first, second = manager.last_report().outcomes
    assert (first.status, second.status) == ("interrupted", "ok")


# -- R32 ------------------------------------------------------------------------------


async def _close() -> None: ...


@contextlib.contextmanager
def _sync_context():
    yield


@contextlib.asynccontextmanager
async def _async_context():
    yield


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (None, "was given None; write the function itself"),
        (7, "type int; write a function, sync or async"),
        (contextlib.nullcontext(), r"nullcontext; write `await enter_async_context\("),
        (contextlib.redirect_stdout(None), r"redirect_stdout; write enter_context\("),
        (_sync_context(), r"ContextManager; write enter_context\("),
        (_async_context(), r"ContextManager; write `await enter_async_context\("),
    ],
)
def test_what_cannot_be_called_is_refused(
    manager: lastly.ShutdownManager, given: object, advice: str
) -> None:
    """R32: a callback that is not callable is a TypeError that says what to write instead."""
    for register in (manager.register, manager.defer, manager.defer(name="x")):
        with pytest.raises(TypeError, match=advice):
            register(given)
    assert manager.pending() == ()


def test_functions_that_do_nothing_when_called_are_refused(
    manager: lastly.ShutdownManager,
) -> None:
    """R32: generator functions, which are a forgotten @contextmanager or a stray `yield`."""

    class Resource:
        def close(self):
            yield

    async def close_pool():
        yield

    for func in (Resource().close, close_pool):
        with pytest.raises(TypeError, match=r"close.*, a generator function.*without `yield`"):
            manager.register(func)
    for func in (_sync_context, _async_context):
        with pytest.raises(TypeError, match=r"_context, which makes a context manager"):
            manager.register(func)
    assert manager.pending() == ()


def test_a_coroutine_instead_of_a_function_is_refused(manager: lastly.ShutdownManager) -> None:
    """R32: `register(close())` says to leave the parentheses out, and warns of nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for register in (manager.register, manager.defer):
            with pytest.raises(TypeError, match="without the parentheses"):
                register(_close())
        gc.collect()


def test_other_awaitables_are_refused(manager: lastly.ShutdownManager) -> None:
    """R32: a task, or another awaitable that is no coroutine, needs a function around it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(_close())
    for given in (task, loop.create_future(), Awaitable([])):
        with pytest.raises(TypeError, match=r"; write an async function that ends it and awaits"):
            manager.defer(given)
    loop.run_until_complete(task)
    loop.close()


async def test_what_is_no_context_manager_is_refused(manager: lastly.ShutdownManager) -> None:
    """R32: entering the wrong thing says which verb takes it, and registers nothing."""
    with pytest.raises(TypeError, match=r"no __enter__; write `await enter_async_context"):
        manager.enter_context(_async_context())
    with pytest.raises(TypeError, match=r"lifespan.*, or `await enter_async_context"):
        manager.enter_context(manager.lifespan())
    with pytest.raises(TypeError, match=r"no __aenter__; write enter_context"):
        await manager.enter_async_context(contextlib.suppress())
    with pytest.raises(TypeError, match=r"type function: .*; call it, .* write defer"):
        manager.enter_context(_sync_context)
    with pytest.raises(TypeError, match=r"type int: it has no __enter__; it is no context"):
        manager.enter_context(1)
    assert manager.pending() == ()


def test_options_are_checked(manager: lastly.ShutdownManager) -> None:
    """R32: wrong option values are refused at the call, with the values that there are."""
    with pytest.raises(TypeError, match="but 7 was given; write name='7'"):
        manager.defer(print, name=7)
    with pytest.raises(TypeError, match="a name is a string"):
        lastly.ShutdownManager(b"x")
    with pytest.raises(ValueError, match="errors='first' is unknown; write one of 'last', 'group'"):
        lastly.ShutdownManager(errors="first")
    with pytest.raises(ValueError, match="unknown"):
        manager.configure(errors=[])
    with pytest.raises(TypeError, match="a reason is a string"):
        manager.close(15)
    assert manager.pending() == ()


def test_unknown_options_are_refused(manager: lastly.ShutdownManager) -> None:
    """R32: a keyword that is no option of `defer` is named, with those that are, and `partial`."""
    options = [*inspect.signature(manager.defer).parameters][2:-1]
    advice = (
        f"defer() has no option sep, end; write one of {', '.join(options)}, or "
        "functools.partial(func, sep=..., end=...) to have the callback given it"
    )
    for given in ((print, "x"), ()):
        with pytest.raises(TypeError) as caught:
            manager.defer(*given, sep="", end="")
        assert str(caught.value) == advice
    assert manager.pending() == ()


def test_a_default_that_means_nothing_says_so() -> None:
    """`help` shows no object's address."""
    for func in (lastly.defer, lastly.configure):
        assert "= <not given>" in str(inspect.signature(func))
        assert " at 0x" not in str(inspect.signature(func))


async def test_an_exit_that_does_nothing(manager: lastly.ShutdownManager) -> None:
    """R8, R32: a context manager whose exit is a generator is refused before it is entered."""
    entered: list[str] = []

    class Stray:
        def __enter__(self) -> None:
            entered.append("sync")

        def __exit__(self, *_: object):
            yield

        async def __aenter__(self) -> None:
            entered.append("async")

        async def __aexit__(self, *_: object):
            yield

    with pytest.raises(TypeError, match=r"^enter_context\(\) was given .*a generator function"):
        manager.enter_context(Stray())
    with pytest.raises(TypeError, match=r"^enter_async_context\(\) was given .*generator function"):
        await manager.enter_async_context(Stray())
    assert entered == []
    assert manager.pending() == ()
