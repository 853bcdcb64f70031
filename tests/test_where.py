"""R23: where it is stuck, as `lastly._where` tells it."""

from __future__ import annotations

import asyncio
import re
import threading
import types
import weakref
from asyncio.futures import _PyFuture
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial

import anyio
import outcome
import pytest
import trio

import lastly
from lastly import _where
from lastly._where import await_chain, thread_stack

on_asyncio = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)
on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])


def names(lines: tuple[str, ...]) -> list[str]:
    """Return the names of the functions, each behind its task's if one begins there."""
    found = []
    for line in lines:
        pattern = r"(task '(?:[\w.]*<locals>\.)?([\w.-]*)': )?[^:]*:\d+ in ([\w.<>]*)(: .*)?"
        begin, task, name, _ = re.fullmatch(pattern, line).groups()
        found.append(f"task {task!r}: " * bool(begin) + name.rpartition("<locals>.")[2])
    return found


def source(line: str) -> str:
    return line.partition(" in ")[2].partition(": ")[2]


class Gate:
    """Where the tests get stuck, in one line of their own, until it is opened."""

    def __init__(self) -> None:
        self.waiters = []

    async def wait(self) -> None:
        if trio.lowlevel.in_trio_task():
            self.waiters.append(partial(trio.lowlevel.reschedule, trio.lowlevel.current_task()))
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        else:
            future = asyncio.get_running_loop().create_future()
            self.waiters.append(lambda: future.done() or future.set_result(None))
            await future

    def open(self) -> None:
        waiters, self.waiters = self.waiters, []
        for release in waiters:
            release()


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def picture(awaitable: object, gate: Gate, way: Callable | None = None) -> tuple[str, ...]:
    """Return the picture of a manager's callback that is stuck, and let it end.

    `way` awaits it otherwise, in the manager's place.
    """
    tasks = []

    async def unwind() -> None:
        in_trio = trio.lowlevel.in_trio_task()
        tasks.append(trio.lowlevel.current_task() if in_trio else asyncio.current_task())
        if way is not None:
            await way(awaitable)
            return
        manager = lastly.ShutdownManager("stuck")
        manager.defer(lambda: awaitable)
        await manager.aclose()

    async with anyio.create_task_group() as group:
        group.start_soon(unwind)
        await anyio.wait_all_tasks_blocked()
        try:
            return await_chain(tasks[0], awaitable)
        finally:
            while gate.waiters:
                gate.open()
                await anyio.wait_all_tasks_blocked()


INNERMOST = {
    "await future",
    "await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)",
}


def assert_stuck(lines: tuple[str, ...], *expected: str) -> None:
    """Assert which functions are in the picture, down to the gate."""
    assert names(lines) == [*expected[:-1], expected[-1] + "Gate.wait"], "\n".join(lines)
    assert source(lines[-1]) in INNERMOST


# -- what can be awaited, on every loop ---------------------------------------------------


async def test_it_goes_down_to_the_innermost_line(gate) -> None:
    """R23: the frames below lastly's are told, with file, line, function and source."""

    class Pool:
        async def close(self) -> None:
            await self.drain()

        async def drain(self) -> None:
            await gate.wait()

    lines = await picture(Pool().close(), gate)
    assert_stuck(lines, "Pool.close", "Pool.drain", "")
    number = Pool.close.__code__.co_firstlineno + 1
    place = f"{__file__}:{number} in {Pool.close.__qualname__}"
    assert lines[0] == f"{place}: await self.drain()"


async def test_generators_that_are_coroutines(gate) -> None:
    """R23: it goes through generator-based coroutines."""

    @types.coroutine
    def old() -> Generator:
        yield from gate.wait()

    async def callback() -> None:
        await old()

    assert_stuck(await picture(callback(), gate), "callback", "old", "")


class Lazy:
    """An awaitable whose `__await__` is a generator."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __await__(self) -> Generator:
        yield from self.gate.wait().__await__()


class Wrapped(Lazy):
    """An awaitable whose `__await__` returns the iterator of a coroutine."""

    def __await__(self) -> Iterator:
        return self.gate.wait().__await__()


@pytest.mark.parametrize(("kind", "frames"), [(Lazy, ["Lazy.__await__", ""]), (Wrapped, [""])])
async def test_objects_that_can_be_awaited(gate, kind, frames) -> None:
    """R23: it goes through `__await__`, be it a generator or an iterator of C."""

    async def callback() -> None:
        await kind(gate)

    assert_stuck(await picture(callback(), gate), "callback", *frames)
    assert_stuck(await picture(kind(gate), gate), *frames)


async def items(gate: Gate) -> AsyncIterator[int]:
    try:
        yield 1
        await gate.wait()
        yield 2
    finally:
        await gate.wait()


async def loop_over(generator) -> None:
    async for _ in generator:
        pass


async def close(generator) -> None:
    await anext(generator)
    await generator.aclose()


async def throw(generator) -> None:
    await anext(generator)
    with pytest.raises(ZeroDivisionError):
        await generator.athrow(ZeroDivisionError())


async def take_two(generator) -> None:
    await anext(generator)
    await anext(generator, None)
    await generator.aclose()


@pytest.mark.parametrize("use", [loop_over, close, throw, take_two])
async def test_async_generators(gate, use) -> None:
    """R23: it goes into an async generator that is iterated, closed or thrown into."""
    assert_stuck(await picture(use(items(gate)), gate), use.__name__, "items", "")


async def test_anext_of_an_iterator_that_is_no_generator(gate) -> None:
    """R23: it goes through `anext` into what the iterator's `__anext__` runs."""

    class Items:
        @types.coroutine
        def __anext__(self) -> Generator:
            yield from gate.wait()

    async def callback() -> None:
        await anext(Items(), None)

    assert_stuck(await picture(callback(), gate), "callback", "Items.__anext__", "")


async def test_a_custom_iterator_is_not_guessed_about(gate) -> None:
    """R23: what an object of a Python class drives it does not say, and it ends there."""

    class Opaque:
        def __init__(self) -> None:
            self.inner = gate.wait()

        def __await__(self) -> Opaque:
            return self

        def __next__(self) -> object:
            return self.send(None)

        def send(self, value: object) -> object:
            return self.inner.send(value)

    async def callback() -> None:
        await Opaque()

    assert names(await picture(callback(), gate)) == ["callback"]


async def test_an_iterator_of_c_that_drives_nothing() -> None:
    """R23: an iterator that no coroutine is behind ends the chain."""

    class Bare:
        def __await__(self) -> Iterator:
            return iter([None])

    async def callback() -> None:
        await Bare()

    coroutine = callback()
    coroutine.send(None)
    assert names(await_chain(None, coroutine)) == ["callback"]
    coroutine.close()


async def test_without_lastly_it_begins_with_the_awaitable(gate) -> None:
    """R23: where no frame of lastly's awaits it, the picture begins with the awaitable."""

    async def callback() -> None:
        await gate.wait()

    async def foreign(awaitable: object) -> None:
        await awaitable

    assert_stuck(await picture(callback(), gate, foreign), "callback", "")
    assert await picture(Wrapped(gate), gate, foreign) == ()  # nothing tells what that runs


async def test_a_task_that_has_ended(gate) -> None:
    """R23: where the task has ended meanwhile, the picture begins with the awaitable."""
    coroutine = done()
    await coroutine

    async def take(awaitable: object) -> None:
        awaitable.send(None)
        lines.append(await_chain(coroutine, awaitable))
        awaitable.close()

    async def bare() -> None:
        await types.coroutine(lambda: (yield))()

    lines = []
    await take(bare())
    assert names(lines[0]) == ["bare", "<lambda>"]


async def test_the_last_frame_of_lastly_counts(gate) -> None:
    """R23: frames of lastly's that hand the awaitable on are not in the picture."""
    scope = {"__package__": "lastly"}
    exec(
        "async def inner(awaitable):\n await awaitable\n"
        "async def outer(awaitable):\n await inner(awaitable)\n"
        "async def other(awaitable):\n await outer(renamed(awaitable))\n"
        "async def renamed(it):\n await it\n",
        scope,
    )

    async def callback() -> None:
        await gate.wait()

    assert_stuck(await picture(callback(), gate, scope["outer"]), "callback", "")
    lines = await picture(callback(), gate, scope["other"])
    assert_stuck(lines, "outer", "inner", "renamed", "callback", "")


async def test_source_that_is_not_to_be_had(gate) -> None:
    """R23: without its source, a line ends with the function."""
    scope = {"gate": gate}
    exec(compile("async def callback():\n await gate.wait()", "/none.py", "exec"), scope)
    lines = await picture(scope["callback"](), gate)
    assert lines[0] == "/none.py:2 in callback"


async def test_a_loader_that_fails(gate) -> None:
    """R23: a loader that raises costs the source only."""

    class Loader:
        def get_source(self, _: str) -> str:
            raise RuntimeError

    scope = {"gate": gate, "__loader__": Loader(), "__name__": "broken"}
    exec(compile("async def callback():\n await gate.wait()", "/broken.py", "exec"), scope)
    lines = await picture(scope["callback"](), gate)
    assert lines[0] == "/broken.py:2 in callback"


async def test_a_deep_chain_is_cut_in_the_middle(gate) -> None:
    """R23: of a long picture both ends are told, the innermost line above all."""

    async def dive(depth: int) -> None:
        await (dive(depth - 1) if depth else gate.wait())

    lines = await picture(dive(200), gate)
    assert len(lines) == 30
    assert lines[9] == "... 173 more ..."
    assert_stuck((*lines[:9], *lines[10:]), *["dive"] * 28, "")
    assert_stuck(await picture(dive(28), gate), *["dive"] * 29, "")


async def test_it_keeps_nothing_alive(gate) -> None:
    """R23: a look at a suspended coroutine prolongs the life of none of its locals."""

    class Thing:
        pass

    async def drop(awaitable: object) -> None:
        await awaitable
        thing, awaitable = Thing(), gate.wait()
        dropped.append(weakref.ref(thing))
        await awaitable
        del thing, awaitable
        await gate.wait()
        dropped.append(dropped[0]())

    scope = {**globals(), "__package__": "lastly"}
    drop = types.FunctionType(drop.__code__, scope, closure=drop.__closure__)
    dropped = []
    await picture(gate.wait(), gate, drop)
    assert dropped[1] is None


async def test_what_has_ended_or_runs_makes_no_picture_and_no_error() -> None:
    """R23: something that is not suspended is told as far as it can be."""

    async def callback() -> None:
        task = trio.lowlevel.current_task() if trio.lowlevel.in_trio_task() else None
        lines.append(await_chain(task or asyncio.current_task(), coroutine))

    lines = []
    coroutine = callback()
    manager = lastly.ShutdownManager("running")
    manager.defer(lambda: coroutine)
    await manager.aclose()
    assert names(lines[0]) == ["callback"]
    assert await_chain(None, coroutine) == ()
    assert await_chain(None, None) == ()


async def test_it_never_raises() -> None:
    """R23: what raises when it is looked at ends the picture."""

    class Hostile:
        @property
        def cr_frame(self) -> None:
            raise ZeroDivisionError

        def __await__(self) -> Hostile:
            return self

        def __iter__(self) -> Hostile:
            return self

        def __next__(self) -> None:
            return None

    async def callback() -> None:
        await Hostile()

    coroutine = callback()
    coroutine.send(None)
    assert names(await_chain(None, coroutine)) == ["callback"]
    coroutine.close()
    assert await_chain(Hostile(), None) == ()


# -- from task to task, on asyncio --------------------------------------------------------


def spawn(coroutine: object, name: str) -> asyncio.Task:
    return asyncio.get_running_loop().create_task(coroutine, name=name)


async def until(gate: Gate) -> None:
    await gate.wait()


async def done() -> None:
    pass


@on_asyncio
async def test_a_task(gate) -> None:
    """R23: it goes on in a task that is awaited, and says its name."""

    async def callback() -> None:
        await spawn(until(gate), "second")

    assert_stuck(await picture(callback(), gate), "callback", "task 'second': until", "")


@on_asyncio
async def test_a_task_for_an_awaitable(gate) -> None:
    """R23: an awaitable that is a task begins with the task's name."""
    assert_stuck(await picture(spawn(until(gate), "second"), gate), "task 'second': until", "")


@on_asyncio
async def test_gather(gate) -> None:
    """R23: of a gather, it goes on in the first that is not done."""

    async def callback() -> None:
        tasks = [spawn(done(), "first"), spawn(until(gate), "third"), spawn(until(gate), "second")]
        await asyncio.gather(asyncio.gather(tasks[0]), asyncio.gather(*tasks))

    assert_stuck(await picture(callback(), gate), "callback", "task 'third': until", "")


@on_asyncio
async def test_a_gather_that_is_done(gate) -> None:
    """R23: where all children are done and the gather has not noticed, the chain ends."""

    future = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await asyncio.gather(future)

    waiter = spawn(wait(), "waiter")
    await anyio.wait_all_tasks_blocked()
    future.set_result(None)
    assert names(await_chain(None, waiter)) == ["task 'waiter': wait"]
    await waiter
    assert await_chain(None, waiter) == ()


@on_asyncio
async def test_a_future_that_is_done(gate) -> None:
    """R23: nobody is looked for who would resolve a future that is done."""
    future = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await future

    waiter = spawn(wait(), "waiter")
    await anyio.wait_all_tasks_blocked()
    future.set_result(None)
    assert names(await_chain(None, waiter)) == ["task 'waiter': wait"]
    await waiter


@on_asyncio
async def test_task_group(gate) -> None:
    """R23: where a TaskGroup waits, it goes on in the oldest of its tasks."""

    async def callback() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(until(gate), name="Task-1000")
            group.create_task(until(gate), name="Task-999")

    lines = await picture(callback(), gate)
    assert_stuck(lines, "callback", "TaskGroup.__aexit__", "task 'Task-999': until", "")


async def wait(task: asyncio.Task) -> None:
    await asyncio.wait([task])


async def shield(task: asyncio.Task) -> None:
    await asyncio.shield(task)


async def wait_for(task: asyncio.Task) -> None:
    await asyncio.wait_for(task, 60)


async def set_by_method(task: asyncio.Task) -> None:
    future = asyncio.get_running_loop().create_future()
    task.add_done_callback(partial(lambda resolve, _: resolve(None), future.set_result))
    await future


@on_asyncio
@pytest.mark.parametrize(
    ("way", "frames"),
    [
        (wait, ["wait", "wait", "_wait"]),
        (shield, ["shield"]),
        (wait_for, ["wait_for", "wait_for"]),
        (set_by_method, ["set_by_method"]),
    ],
)
async def test_a_future_that_a_task_will_resolve(gate, way, frames) -> None:
    """R23: it goes on in the task whose done-callback resolves the future."""
    lines = await picture(way(spawn(until(gate), "second")), gate)
    assert_stuck(lines, *frames, "task 'second': until", "")


@on_asyncio
async def test_a_future_in_python(gate) -> None:
    """R23: it goes through a future that is not in C, and its `__await__`."""

    async def callback() -> None:
        future = _PyFuture(loop=asyncio.get_running_loop())
        task = spawn(until(gate), "second")
        task.add_done_callback(lambda _: future.set_result(None))
        await future

    lines = await picture(callback(), gate)
    assert_stuck(lines, "callback", "Future.__await__", "task 'second': until", "")


def behind_keyword(future: asyncio.Future) -> Callable:
    return partial(lambda *_, future: future.set_result(None), future=future)


@on_asyncio
async def test_a_future_in_a_keyword(gate) -> None:
    """R23: a callback that is given the future by keyword is found."""
    task = spawn(until(gate), "second")

    async def callback() -> None:
        future = asyncio.get_running_loop().create_future()
        task.add_done_callback(behind_keyword(future))
        await future

    assert_stuck(await picture(callback(), gate), "callback", "task 'second': until", "")


def behind_list(future: asyncio.Future) -> Callable:
    return partial(print, [future])


def behind_class(future: asyncio.Future) -> Callable:
    kind = type("Kind", (), {"future": future})
    return lambda _: kind


def behind_module(future: asyncio.Future) -> Callable:
    module = types.ModuleType("module")
    module.future = future
    return lambda _: module


def behind_loop(future: asyncio.Future) -> Callable:
    loop = type("Loop", (asyncio.AbstractEventLoop,), {})()
    loop.future = future
    return lambda _: loop


def behind_another(future: asyncio.Future) -> Callable:
    another = future.get_loop().create_future()
    another.add_done_callback(behind_keyword(future))
    return behind_keyword(another)


def in_a_heap(future: asyncio.Future) -> Callable:
    heap = {"future": future} | dict.fromkeys(range(1000))
    return lambda _: heap


def among_many(future: asyncio.Future) -> Callable:
    return partial(print, *range(200), future, *range(200))


def far_away(future: asyncio.Future) -> Callable:
    return partial(print, ((future,),))


@on_asyncio
@pytest.mark.parametrize(
    "hide",
    [
        behind_list,
        behind_class,
        behind_module,
        behind_loop,
        behind_another,
        in_a_heap,
        among_many,
        far_away,
    ],
)
async def test_a_future_that_nobody_is_known_to_resolve(gate, hide) -> None:
    """R23: a future that is in no near relation to a done-callback is not followed."""
    future = asyncio.get_running_loop().create_future()
    task = spawn(until(gate), "second")
    callback = hide(future)
    task.add_done_callback(callback)

    async def wait() -> None:
        gate.waiters.append(lambda: future.set_result(task.remove_done_callback(callback)))
        await future

    assert names(await picture(wait(), gate)) == ["wait"]


@on_asyncio
async def test_a_cycle(gate) -> None:
    """R23: tasks that wait for each other make a picture that ends."""
    loop = asyncio.get_running_loop()

    async def wait(future: asyncio.Future) -> None:
        gate.waiters.append(lambda: future.done() or future.set_result(None))
        await future

    futures = [loop.create_future() for _ in range(2)]
    tasks = [spawn(wait(future), f"waiter-{n}") for n, future in enumerate(futures)]
    for task, future in zip(tasks, reversed(futures), strict=True):
        task.add_done_callback(lambda _, future=future: future.done() or future.set_result(None))
    lines = await picture(tasks[0], gate)
    assert names(lines) == ["task 'waiter-0': wait", "task 'waiter-1': wait"]


# -- groups of anyio's and trio's ---------------------------------------------------------


@on_asyncio
async def test_among_too_many_tasks(gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """R23: what resolves a future is not searched for where that would hold up the loop."""

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(gate.wait())

    monkeypatch.setattr(_where, "_TASKS", 1)
    assert names(await picture(group(), gate)) == ["group", "TaskGroup.__aexit__"]


async def test_task_group_of_anyio(gate) -> None:
    """R23: where a task group of anyio's waits, it goes on in one of its tasks."""

    async def callback() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(until, gate, name="second")

    lines = await picture(callback(), gate)
    assert names(lines)[:2] == ["callback", "TaskGroup.__aexit__"]
    begin = next(n for n, name in enumerate(names(lines)) if name.startswith("task 'second'"))
    assert names(lines)[-2:] in (["until", "Gate.wait"], ["task 'second': until", "Gate.wait"])
    assert begin in (2, 4)


@on_trio
async def test_nursery(gate) -> None:
    """R23: where a nursery waits, it goes on in one of its tasks, always the same."""

    async def callback() -> None:
        async with trio.open_nursery() as nursery:
            for name in "cab":
                nursery.start_soon(until, gate, name=name)

    lines = await picture(callback(), gate)
    waits = "NurseryManager.__aexit__", "Nursery._nested_child_finished"
    assert_stuck(lines, "callback", *waits, "task 'a': until", "")


@on_trio
async def test_the_start_of_a_task(gate) -> None:
    """R23: a start that is waited for is followed into the task that starts."""

    async def service(task_status: trio.TaskStatus) -> None:
        await gate.wait()
        task_status.started()

    async def callback() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until, gate, name="a")
            await nursery.start(service, name="service")

    lines = await picture(callback(), gate)
    waits = "NurseryManager.__aexit__", "Nursery._nested_child_finished"
    assert_stuck(lines, "callback", "Nursery.start", *waits, "task 'service': service", "")


@on_trio
async def test_a_wait_of_trios_that_is_no_nursery(gate) -> None:
    """R23: a wait of trio's own ends in the line that waits, not in that of every wait."""

    async def callback() -> None:
        async with trio.open_nursery() as nursery:
            gate.waiters.append(nursery.cancel_scope.cancel)
            nursery.start_soon(until, gate, name="a")
            await trio.sleep_forever()

    lines = await picture(callback(), gate)
    assert names(lines) == ["callback", "sleep_forever"]

    async def trap() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until, gate, name="a")
            gate.waiters.append(partial(trio.lowlevel.reschedule, trio.lowlevel.current_task()))
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    assert names(await picture(trap(), gate)) == ["trap"]


# -- the stack of a thread ----------------------------------------------------------------


class Busy:
    """A thread that blocks in `block`, wherever `target` calls it."""

    def __init__(self, target: Callable[[Callable[[], None]], None]) -> None:
        self.blocked, self.go_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=target, args=[self.block], daemon=True)

    def block(self) -> None:
        self.blocked.set()
        self.go_on.wait()

    def stack(self) -> tuple[str, ...]:
        self.thread.start()
        assert self.blocked.wait(10)
        try:
            while source((lines := thread_stack(self.thread.ident))[-1]) != "waiter.acquire()":
                pass  # it is on its way from one event to the other
            return lines
        finally:
            self.go_on.set()
            self.thread.join()


BLOCKED = ["Busy.block", "Event.wait", "Condition.wait"]


def test_a_thread_without_lastly() -> None:
    """R23: the stack of a thread that lastly is not in is told whole."""
    lines = Busy(lambda block: block()).stack()
    assert names(lines)[-4:] == ["<lambda>", *BLOCKED]
    assert names(lines)[0] == "Thread._bootstrap"
    assert source(lines[-3]) == "self.go_on.wait()"


def test_a_deep_stack_without_lastly() -> None:
    """R23: of a long stack that lastly is not in, the innermost lines are told."""

    def dive(block: Callable[[], None], depth: int = 100) -> None:
        dive(block, depth - 1) if depth else block()

    lines = Busy(dive).stack()
    assert names(lines) == ["dive"] * 17 + BLOCKED


def test_a_deep_stack_below_lastly() -> None:
    """R23: a long stack below lastly is cut in the middle."""

    def dive(block: Callable[[], None], depth: int = 100) -> None:
        dive(block, depth - 1) if depth else block()

    def target(block: Callable[[], None]) -> None:
        manager = lastly.ShutdownManager()
        manager.defer(dive, block)
        manager.close()

    lines = Busy(target).stack()
    assert lines[9] == "... 75 more ..."
    assert names(lines[:9] + lines[10:]) == ["dive"] * 26 + BLOCKED


def test_a_sync_callback() -> None:
    """R23: of a sync callback, the lines below lastly's are told."""

    def flush(block: Callable[[], None]) -> None:
        block()

    def target(block: Callable[[], None]) -> None:
        with lastly.ShutdownManager() as manager:
            manager.defer(flush, block)

    assert names(Busy(target).stack()) == ["flush", *BLOCKED]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_blocked_loop(anyio_backend, kind) -> None:
    """R23: in a loop that a callback blocks, nothing of the loop is told."""
    backend, options = anyio_backend

    def target(block: Callable[[], None]) -> None:
        def flush() -> None:
            block()

        async def aflush() -> None:
            block()

        async def main() -> None:
            async with lastly.ShutdownManager() as manager:
                manager.defer(flush if kind == "sync" else aflush)

        anyio.run(main, backend=backend, backend_options=options)

    assert names(Busy(target).stack()) == ["flush" if kind == "sync" else "aflush", *BLOCKED]


def test_a_loop_that_lastly_runs() -> None:
    """R23: the loop's frames between lastly's and the callback are not told."""

    def target(block: Callable[[], None]) -> None:
        async def callback() -> None:
            block()

        manager = lastly.ShutdownManager()
        manager.defer(callback)
        manager.close()

    assert names(Busy(target).stack()) == ["callback", *BLOCKED]


@pytest.mark.parametrize(
    "run",
    [
        anyio.run,
        trio.run,
        lambda main: asyncio.run(main()),
        lambda main: __import__("uvloop").run(main()),
        lambda main: outcome.capture(main().send, None),
    ],
    ids=["anyio", "trio", "asyncio", "uvloop", "outcome"],
)
def test_the_machinery_of_loops(run) -> None:
    """R23: neither backend has frames between lastly's and those that are told."""
    scope = {"__package__": "lastly"}
    if isinstance(run, types.FunctionType) and run.__name__ == "<lambda>":
        run = types.FunctionType(run.__code__, {**globals(), **scope})
    exec("def start(run, main):\n run(main)", scope)

    def target(block: Callable[[], None]) -> None:
        async def main() -> None:
            block()

        scope["start"](run, main)

    assert names(Busy(target).stack()) == ["main", *BLOCKED]


def test_a_stack_that_is_machinery_throughout() -> None:
    """R23: where nothing is below the machinery, its innermost lines are told."""
    loop = {"__package__": "asyncio", "ready": threading.Event(), "leave": threading.Lock()}
    lines = [f"def f{n}():\n f{n + 1}()\n" for n in range(5)]
    exec("".join(lines) + "def f5():\n ready.set()\n leave.acquire()\n", loop)
    scope = {"__package__": "lastly", "f0": loop["f0"]}
    exec("def start():\n f0()", scope)
    loop["leave"].acquire()
    thread = threading.Thread(target=scope["start"])
    thread.start()
    loop["ready"].wait()
    try:
        while names(lines := thread_stack(thread.ident)) != ["f3", "f4", "f5"]:
            assert len(lines) == 3 or names(lines)[-1] != "f5"
    finally:
        loop["leave"].release()
        thread.join()


def test_a_function_of_c_has_no_stack() -> None:
    """R23: what lastly calls straight is nothing to show if it is not written in Python."""
    leave = threading.Lock()
    scope = {"__package__": "lastly", "leave": leave}
    exec("def call():\n with leave:\n  leave.acquire()", scope)
    thread = threading.Thread(target=scope["call"])
    thread.start()
    try:
        while thread_stack(thread.ident) != ():
            assert thread.is_alive()
    finally:
        leave.release()
        thread.join()


def test_a_thread_that_is_not_there() -> None:
    """R23: an unknown thread has no stack."""
    assert thread_stack(-1) == ()
