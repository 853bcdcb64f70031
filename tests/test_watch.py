"""R23: what is still waited for is told in the log while it lasts."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

import anyio
import pytest
import trio
from conftest import FakeClock

import lastly
from lastly import _interpreter, _spot, _watch
from lastly._backends import current_home

THREADS_START_AT_EXIT = not (3, 12, 0) <= sys.version_info[:3] < (3, 12, 2)
needs_threads_at_exit = pytest.mark.skipif(
    not THREADS_START_AT_EXIT, reason="3.12.0 and 3.12.1 start no thread at interpreter exit"
)
LONG = 20.0  # seconds after which a test that would hang fails instead
SLOW = 0.01
NAME = "slow one"

LOOPS = ["asyncio", "uvloop"]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


class Gate:
    """Where callbacks get stuck, async or sync, until it is opened from any thread."""

    def __init__(self) -> None:
        self.future: Future[None] = Future()
        self.lock = threading.Lock()
        self.lock.acquire()

    async def wait(self) -> None:
        if trio.lowlevel.in_trio_run():
            token, task = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
            wake = lambda _: token.run_sync_soon(trio.lowlevel.reschedule, task)
            self.future.add_done_callback(wake)
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        else:
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            wake = lambda _: loop.call_soon_threadsafe(waiter.set_result, None)
            self.future.add_done_callback(wake)
            await waiter

    def block(self) -> None:
        self.lock.acquire()
        self.lock.release()

    def open(self) -> None:
        with suppress(Exception):  # open already
            self.future.set_result(None)
            self.lock.release()


WAITS = " in Gate.wait: await "
BLOCKS = " in Gate.block: self.lock.acquire()"


@dataclass
class Told:
    """One line of the watch."""

    record: logging.LogRecord
    name: str
    origin: str
    place: str
    seconds: float
    limit: str
    innermost: str
    chain: list[str]


class Log(logging.Handler):
    """What the logger "lastly" was told; reacts, in the thread of the watch."""

    pattern = re.compile(
        r"still waiting for (.+) \((.+:\d+)\), (\d+ of \d+), for (\d+\.\d) s"
        r"(, although it was cancelled|, which is sync, so that no limit ends it; "
        r"did you forget `thread=True`\?)?(?:, at (.+))?(, in a function that is not written in Python"
        r"|, on an event loop of another thread that does not come to it)?"
        r"((?:\n    .+)*)"
    )

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Told] = []
        self.others: list[logging.LogRecord] = []
        self.found: dict[str, Told] = {}
        self.reactions: list[Callable[[Told], object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        match = self.pattern.fullmatch(record.getMessage())
        if match is None:
            self.others.append(record)
            return
        name, origin, place, seconds, limit, innermost, in_c, chain = match.groups()
        told = Told(
            record,
            name,
            origin,
            place,
            float(seconds),
            (limit or "").removeprefix(", "),
            innermost or in_c or "",
            [line.strip() for line in chain.splitlines()][1:],
        )
        self.lines.append(told)
        for react in list(self.reactions):
            react(told)

    def opens(
        self, gate: Gate, where: str, name: str = NAME, *, limit: str = "", lines: int = 1
    ) -> None:
        """Open the gate when so many lines have said that it is there, and keep the last."""
        count = itertools.count(1)

        def react(told: Told) -> None:
            fits = told.name == name and where in told.innermost and told.limit == limit
            if fits and next(count) == lines:
                self.found[name] = told
                gate.open()

        self.reactions.append(react)

    def about(self, name: str = NAME) -> list[Told]:
        return [told for told in self.lines if told.name == name]


def watch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "lastly: watch"]


def end_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the thread find itself idle, now, and wait until it has ended."""
    with monkeypatch.context() as patch:
        patch.setattr(_watch, "_LOOKS", 0.001)
        with suppress(RuntimeError):
            _watch.watchman._wake.release()
        for thread in watch_threads():
            thread.join(LONG)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start and end without a thread; a loop that is free to answer does, however busy."""
    end_watch(monkeypatch)
    monkeypatch.setattr(_spot, "_ANSWERS", 1.0)
    yield
    end_watch(monkeypatch)


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    logging.getLogger("lastly").addHandler(log)
    yield log
    logging.getLogger("lastly").removeHandler(log)


@pytest.fixture
def new_gate() -> Iterator[Callable[[], Gate]]:
    """Make gates, each of which opens by itself before a test would hang."""
    timers: list[threading.Timer] = []

    def new() -> Gate:
        gate = Gate()
        timers.append(threading.Timer(LONG, gate.open))
        timers[-1].daemon = True
        timers[-1].start()
        return gate

    yield new
    for timer in timers:
        timer.cancel()
        timer.join(LONG)


@pytest.fixture
def gate(new_gate: Callable[[], Gate]) -> Gate:
    return new_gate()


def three(
    manager: lastly.ShutdownManager, func: Callable[[], object], **options: object
) -> lastly.Registration:
    """Register the callback between two others; return its handle."""
    manager.configure(slow_after=SLOW)
    manager.defer(int)
    handle = manager.defer(func, name=NAME, **options)
    manager.defer(int)
    return handle


def check(log: Log, handle: lastly.Registration, where: str, *chain: str) -> Told:
    """Check the line that has opened the gate, and the names in its chain."""
    told = log.found[NAME]
    assert (told.record.name, told.record.levelno) == ("lastly", logging.WARNING)
    assert (told.origin, told.place) == (handle.origin, "2 of 3")
    assert told.origin.startswith(__file__)
    assert told.seconds < LONG
    assert told.innermost.startswith(__file__)
    assert where in told.innermost
    lines = told.chain or [told.innermost]
    assert lines[-1] == told.innermost
    names = [line.partition(" in ")[2].partition(": ")[0] for line in lines]
    names = [name.rpartition("<locals>.")[2] for name in names]
    assert tuple(names[len(names) - len(chain) :]) == chain
    return told


# -- who is told about ----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["aclose", "async with"])
async def test_an_async_callback(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, way: str
) -> None:
    """R23: a slow async callback is logged: its name, origin, place, how long, and where."""

    async def hangs() -> None:
        await gate.wait()

    log.opens(gate, WAITS)
    if way == "aclose":
        handle = three(manager, hangs)
        await manager.aclose()
    else:
        async with manager:
            handle = three(manager, hangs)
    told = check(log, handle, WAITS, "hangs", "Gate.wait")
    assert len(told.chain) == 2  # nothing of lastly's or of the loop's


@pytest.mark.parametrize("kind", LOOPS)
def test_an_async_callback_in_loop_teardown(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, kind: str
) -> None:
    """R14, R23: it is logged while a loop is torn down; the places are those of that loop."""
    handles = []

    async def hangs() -> None:
        await gate.wait()

    async def main() -> None:
        handles.append(three(manager, hangs))

    log.opens(gate, WAITS)
    manager.defer(int)  # the interpreter's: it does not count
    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        runner.run(main())
    check(log, handles[0], WAITS, "hangs", "Gate.wait")
    manager.close()


def test_an_async_callback_on_a_fresh_loop(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R23: it is logged when close() runs it on a loop of its own."""

    async def hangs() -> None:
        await gate.wait()

    log.opens(gate, WAITS)
    handle = three(manager, hangs)
    manager.close()
    check(log, handle, WAITS, "hangs", "Gate.wait")


@pytest.mark.parametrize("kind", LOOPS)
def test_an_async_callback_on_a_loop_that_is_open(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, kind: str
) -> None:
    """R23: it is logged when close() runs it on its home, which had stopped."""

    async def hangs() -> None:
        await gate.wait()

    async def main() -> lastly.Registration:
        return three(manager, hangs)

    log.opens(gate, WAITS)
    loop = new_loop(kind)
    try:
        handle = loop.run_until_complete(main())
        manager.close()
    finally:
        loop.close()
    check(log, handle, WAITS, "hangs", "Gate.wait")


def test_a_sync_callback_in_close(manager: lastly.ShutdownManager, log: Log, gate: Gate) -> None:
    """R23: a slow sync callback is logged with the stack of the thread that it blocks."""

    def hangs() -> None:
        gate.block()

    log.opens(gate, BLOCKS)
    handle = three(manager, hangs)
    manager.close()
    told = check(log, handle, BLOCKS, "hangs", "Gate.block")
    assert len(told.chain) == 2


def test_a_stack_of_one_line(manager: lastly.ShutdownManager, log: Log, gate: Gate) -> None:
    """R23: a single line is told once."""
    log.opens(gate, BLOCKS)
    handle = three(manager, gate.block)
    manager.close()
    assert check(log, handle, BLOCKS).chain == []


async def test_a_function_that_has_no_lines(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R23: of a function of C the log says that it is one."""
    in_c = ", in a function that is not written in Python"
    log.opens(gate, in_c)
    three(manager, gate.lock.acquire)
    await manager.aclose()
    assert log.found[NAME].innermost == in_c
    assert log.found[NAME].chain == []


@pytest.mark.parametrize("kind", LOOPS)
def test_an_awaitable_that_has_no_lines(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, kind: str
) -> None:
    """R23: of a bare future there is no line to tell; the rest is told."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        wake = lambda _: loop.call_soon_threadsafe(future.set_result, None)
        gate.future.add_done_callback(wake)
        three(manager, lambda: future)
        await manager.aclose()

    def react(told: Told) -> None:
        if told.name == NAME and told.innermost == "":
            log.found[NAME] = told
            gate.open()

    log.reactions.append(react)
    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        runner.run(main())
    assert (log.found[NAME].place, log.found[NAME].chain) == ("2 of 3", [])


async def test_a_sync_callback_in_aclose(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R23: a slow sync callback is logged although it blocks the loop."""

    def hangs() -> None:
        gate.block()

    log.opens(gate, BLOCKS)
    handle = three(manager, hangs)
    await manager.aclose()
    check(log, handle, BLOCKS, "hangs", "Gate.block")


async def test_a_callback_in_a_thread(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R23: a slow callback with `thread=True` is logged with its own thread's stack."""

    def hangs() -> None:
        gate.block()

    log.opens(gate, BLOCKS)
    handle = three(manager, hangs, thread=True)
    await manager.aclose()
    told = check(log, handle, BLOCKS, "hangs", "Gate.block")
    assert len(told.chain) == 2


def test_a_callback_in_a_thread_in_close(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R23: close() tells where that thread is, or the one that waits for it."""

    def hangs() -> None:
        gate.block()

    log.opens(gate, BLOCKS)
    handle = three(manager, hangs, thread=True)
    manager.close()
    check(log, handle, BLOCKS, "hangs", "Gate.block")


async def test_a_thread_that_returns_an_awaitable(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R5, R23: where the call in the thread has returned an awaitable, its chain is told."""
    ends = threading.Event()

    async def hangs() -> None:
        # It may well get the ident of the thread that has ended.
        stranger = in_thread(lambda: ends.wait(LONG))
        await gate.wait()
        ends.set()
        stranger.join(LONG)

    log.opens(gate, WAITS)
    handle = three(manager, lambda: hangs(), thread=True)
    await manager.aclose()
    check(log, handle, WAITS, "hangs", "Gate.wait")


async def test_a_thread_that_has_ended_while_the_loop_is_blocked(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23: where only the loop holds up a callback in a thread, its thread's line is told."""
    monkeypatch.setattr(_spot, "_ANSWERS", 0.001)
    runs, blocked = threading.Event(), threading.Event()

    def quick() -> None:
        runs.set()
        assert blocked.wait(LONG)

    async def blocks() -> None:
        while not runs.is_set():
            await anyio.sleep(0)
        blocked.set()
        gate.block()

    log.opens(gate, BLOCKS)
    handle = three(manager, quick, thread=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blocks)
        await manager.aclose()
    check(log, handle, BLOCKS, "blocks", "Gate.block")


async def test_an_async_callback_that_blocks_the_loop(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23: where an async callback blocks its loop, the line is that of the loop's thread."""
    monkeypatch.setattr(_spot, "_ANSWERS", 0.001)

    async def hangs() -> None:
        await anyio.lowlevel.checkpoint()
        gate.block()

    log.opens(gate, BLOCKS)
    handle = three(manager, hangs)
    await manager.aclose()
    check(log, handle, BLOCKS, "hangs", "Gate.block")


async def test_another_task_that_blocks_the_loop(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23: where another task blocks the loop, the line says by what."""
    monkeypatch.setattr(_spot, "_ANSWERS", 0.001)
    waits = anyio.Event()

    async def hangs() -> None:
        waits.set()
        await gate.wait()

    async def blocks() -> None:
        await waits.wait()
        gate.block()

    log.opens(gate, BLOCKS)
    handle = three(manager, hangs)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blocks)
        await manager.aclose()
    check(log, handle, BLOCKS, "blocks", "Gate.block")


class Elsewhere:
    """A loop that runs in a thread of its own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.began: Future[None] = Future()
        self.stop: Callable[[], object]
        self.then: Callable[[], object] = int
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        if self.kind == "trio":
            trio.run(self._main)
        else:
            with asyncio.Runner(loop_factory=lambda: new_loop(self.kind)) as runner:
                runner.run(self._main())

    async def _main(self) -> None:
        gate = Gate()
        self.stop = gate.open
        self.register()
        self.began.set_result(None)
        self.then()
        await gate.wait()

    def __enter__(self) -> Elsewhere:
        self.thread.start()
        self.began.result(LONG)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.thread.join(LONG)


@pytest.mark.parametrize("blocks", [False, True], ids=["waits", "blocks"])
@pytest.mark.parametrize("kind", [*LOOPS, "trio"])
def test_a_home_elsewhere_in_close(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, kind: str, blocks: bool
) -> None:
    """R17, R23: it is told where a callback is in the loop of another thread."""

    async def hangs() -> None:
        if blocks:
            gate.block()
        else:
            await gate.wait()

    where, method = (BLOCKS, "Gate.block") if blocks else (WAITS, "Gate.wait")
    log.opens(gate, where)
    handles = []
    with pytest.MonkeyPatch.context() as patch:
        if blocks:
            patch.setattr(_spot, "_ANSWERS", 0.001)
        elsewhere = Elsewhere(kind)
        elsewhere.register = lambda: handles.append(three(manager, hangs))
        with elsewhere:
            manager.close()
    check(log, handles[0], where, "hangs", method)


@pytest.mark.parametrize("kind", [*LOOPS, "trio"])
async def test_a_home_elsewhere_in_aclose(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, kind: str
) -> None:
    """R17, R23: it is told where a callback is in another thread's loop, from any loop."""

    async def hangs() -> None:
        await gate.wait()

    log.opens(gate, WAITS)
    handles = []
    elsewhere = Elsewhere(kind)
    elsewhere.register = lambda: handles.append(three(manager, hangs))
    with elsewhere:
        await manager.aclose()
    check(log, handles[0], WAITS, "hangs", "Gate.wait")


@pytest.mark.parametrize("way", ["close", "aclose"])
def test_what_comes_after_a_home_elsewhere(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, way: str
) -> None:
    """R17, R23: the next callback is looked for where it is, not where the last one was."""
    manager.configure(slow_after=SLOW)
    manager.defer(int)
    handle = manager.defer(gate.block, name=NAME)
    elsewhere = Elsewhere("asyncio")
    elsewhere.register = lambda: manager.defer(int)
    with elsewhere:
        log.opens(gate, BLOCKS)
        if way == "close":
            manager.close()
        else:
            asyncio.run(manager.aclose())
    check(log, handle, BLOCKS)


@pytest.mark.parametrize("way", ["close", "aclose"])
@pytest.mark.parametrize("kind", [*LOOPS, "trio"])
def test_a_home_elsewhere_that_is_blocked(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, kind: str, way: str
) -> None:
    """R17, R23: where its home is blocked before it begins, it is told by what, if known."""
    where = ", on an event loop of another thread that does not come to it"
    if kind == "asyncio":
        where = BLOCKS
    log.opens(gate, where)
    handles = []
    elsewhere = Elsewhere(kind)

    def register() -> None:
        manager.configure(slow_after=SLOW)
        handles.append(manager.defer(int, name=NAME))

    elsewhere.register = register
    elsewhere.then = gate.block
    with elsewhere:
        if way == "close":
            manager.close()
        else:
            asyncio.run(manager.aclose())
    told = log.found[NAME]
    assert (told.origin, told.place) == (handles[0].origin, "1 of 1")


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_was_closed_under_the_unwind(
    manager: lastly.ShutdownManager,
    log: Log,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """R23: of an unwind that a closed loop has left suspended the log tells its thread's line."""
    monkeypatch.setattr(_spot, "_ANSWERS", 0.001)
    began = asyncio.Event()

    async def hangs() -> None:
        began.set()
        await asyncio.get_running_loop().create_future()

    manager.configure(slow_after=SLOW)
    manager.defer(hangs, name=NAME)
    loop = new_loop(kind)
    task = loop.create_task(manager.aclose())
    loop.run_until_complete(began.wait())
    loop.close()
    log.opens(gate, BLOCKS)
    gate.block()
    manager.close()  # ends it
    assert NAME in log.found
    task._log_destroy_pending = False


def test_two_unwinds_at_once(log: Log, new_gate: Callable[[], Gate]) -> None:
    """R23: each of two unwinds in two threads is reported, whatever the other does."""
    gates = {"a": new_gate(), "b": new_gate()}
    threads = []
    for name, gate in gates.items():
        manager = lastly.ShutdownManager(slow_after=SLOW)
        manager.defer(int)
        manager.defer(gate.block, name=name)
        threads.append(threading.Thread(target=manager.close))

    def react(_: Told) -> None:
        if {told.name for told in log.lines if BLOCKS in told.innermost} == {"a", "b"}:
            for gate in gates.values():
                gate.open()

    log.reactions.append(react)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert {told.place for told in log.about("a")} == {"1 of 2"}
    assert {told.place for told in log.about("b")} == {"1 of 2"}


async def test_what_is_registered_meanwhile_counts(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R2, R23: the place counts what has yet to run at that moment."""

    async def hangs() -> None:
        manager.defer(int)
        await gate.wait()

    log.opens(gate, WAITS)
    manager.configure(slow_after=SLOW)
    manager.defer(hangs, name=NAME)
    await manager.aclose()
    assert log.found[NAME].place == "1 of 2"


# -- when -----------------------------------------------------------------------------------


class Ticking(FakeClock):
    """Time that goes on by one tick whenever the watch looks."""

    def __init__(self, tick: float) -> None:
        super().__init__()
        self.tick = tick

    def now(self) -> float:
        if threading.current_thread().name == "lastly: watch":
            self.time += self.tick
        return self.time


@pytest.mark.parametrize(
    ("tick", "expected"), [(0.25, [1.0, 2.0, 4.0, 8.0]), (5.0, [5.0, 10.0, 20.0, 35.0])]
)
async def test_doubling_intervals(
    manager: lastly.ShutdownManager,
    log: Log,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    tick: float,
    expected: list[float],
) -> None:
    """R23: the lines come at slow_after, then at doubling intervals, late ones once."""
    monkeypatch.setattr(_watch, "_LOOKS", 0.001)
    manager._settings.clock = Ticking(tick)
    manager.configure(slow_after=1.0)
    manager.defer(gate.wait, name=NAME)
    log.opens(gate, "", lines=4)
    await manager.aclose()
    assert [told.seconds for told in log.about()][:4] == expected


def test_the_next_callback_starts_anew(
    manager: lastly.ShutdownManager,
    log: Log,
    new_gate: Callable[[], Gate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R23: each callback has its own time; its first line comes at slow_after again."""
    monkeypatch.setattr(_watch, "_LOOKS", 0.001)
    manager._settings.clock = Ticking(0.25)
    manager.configure(slow_after=1.0)
    gates = {"one": new_gate(), "two": new_gate()}
    for name, gate in gates.items():
        manager.defer(gate.block, name=name)
        log.opens(gate, "", name, lines=3)
    manager.close()
    for name, place in (("two", "1 of 2"), ("one", "2 of 2")):
        assert [t.seconds for t in log.about(name)][:3] == [1.0, 2.0, 4.0]
        assert {t.place for t in log.about(name)} == {place}


async def test_no_line_before_slow_after(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R23: on a real clock, too, no line comes before its time."""
    manager.configure(slow_after=0.02)
    times = []
    log.reactions.append(lambda _: times.append(_watch.perf_counter()))
    log.opens(gate, "", lines=3)
    manager.defer(gate.wait, name=NAME)
    began = _watch.perf_counter()
    await manager.aclose()
    assert len(times) >= 3
    for time, due in zip(times, (0.02, 0.04, 0.08), strict=False):
        assert time - began >= due


async def test_a_quick_callback_is_not_told(manager: lastly.ShutdownManager, log: Log) -> None:
    """R23: what takes no longer than slow_after is not logged, five seconds by default."""
    assert manager._settings.slow_after == 5.0
    manager.defer(anyio.lowlevel.checkpoint)
    manager.defer(int)
    await manager.aclose()
    assert log.lines == []


async def test_although_it_was_cancelled(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R20, R23: a callback that goes on past its timeout is told as one that was cancelled."""

    async def refuses() -> None:
        with anyio.CancelScope(shield=True):
            await gate.wait()

    log.opens(gate, WAITS, limit="although it was cancelled")
    handle = three(manager, refuses, timeout=0.015)
    with pytest.raises(lastly.CleanupTimeout):
        await manager.aclose()
    check(log, handle, WAITS, "refuses", "Gate.wait")
    limits = [told.limit for told in log.about()]
    assert limits == sorted(limits)  # never before it was


async def test_a_sync_callback_that_no_limit_ends(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R20, R23: past its timeout a sync callback is told as what it is, with a way out."""
    monkeypatch.setattr(_watch, "_LOOKS", 0.001)
    manager._settings.clock = Ticking(0.25)
    manager.configure(slow_after=1.0, timeout=3.0)
    limit = "which is sync, so that no limit ends it; did you forget `thread=True`?"
    log.opens(gate, BLOCKS, limit=limit)
    manager.defer(gate.block, name=NAME)
    await manager.aclose()
    assert [(t.seconds, t.limit) for t in log.about()][:3] == [(1.0, ""), (2.0, ""), (4.0, limit)]
    assert manager.last_report().ok


async def test_a_callback_with_time_left_is_not_told_as_cancelled(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R20, R23: before its timeout nothing is said of a cancellation."""
    log.opens(gate, WAITS)
    handle = three(manager, gate.wait, timeout=2 * LONG)
    await manager.aclose()
    check(log, handle, WAITS, "Gate.wait")


async def test_on_timeout_that_is_slow(
    manager: lastly.ShutdownManager, log: Log, gate: Gate
) -> None:
    """R20, R23: what runs in the place of a callback is told under its name and place."""

    async def instead() -> None:
        with anyio.CancelScope(shield=True):
            await gate.wait()

    log.opens(gate, WAITS, limit="although it was cancelled")
    handle = three(manager, anyio.sleep_forever, timeout=0.005, on_timeout=instead)
    with pytest.raises(lastly.CleanupTimeout):
        await manager.aclose()
    check(log, handle, WAITS, "instead", "Gate.wait")


async def test_where_a_thread_was_abandoned(
    manager: lastly.ShutdownManager, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R20, R23: the timeout of a callback in a thread tells the line that the thread is at."""
    blocks = threading.Event()

    def hangs() -> None:
        blocks.set()
        gate.block()

    manager.defer(hangs, thread=True, timeout=0.01)
    manager._settings.clock = clock = FakeClock()
    monkeypatch.setattr(clock, "call_later", lambda _, expire: later(blocks, expire))
    with pytest.raises(lastly.CleanupTimeout) as caught:
        await manager.aclose()
    gate.open()
    assert caught.value.where[-1].startswith(__file__)
    assert " in Gate." in caught.value.where[-1] or " hangs" in caught.value.where[-1]
    assert manager.last_report().outcomes[0].status == "abandoned"


def later(event: threading.Event, callback: Callable[[], object]) -> Callable[[], object]:
    """Call back in the loop that runs here, when the event is set."""
    home = current_home()

    def run() -> None:
        assert event.wait(LONG)
        wake = getattr(home, "run_sync_soon", None) or home.call_soon_threadsafe
        wake(callback)

    threading.Thread(target=run).start()
    return lambda: None


# -- settings -------------------------------------------------------------------------------


class Keeper:
    """A slow unwind of another manager that lasts until the watch has told it three times."""

    def __init__(self, log: Log, gate: Gate) -> None:
        self.manager = lastly.ShutdownManager(slow_after=SLOW)
        self.manager.defer(gate.block, name="keeper")
        log.opens(gate, "", "keeper", lines=3)

    def run(self) -> None:
        self.manager.close()


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_none_is_silence(
    manager: lastly.ShutdownManager, log: Log, new_gate: Callable[[], Gate]
) -> None:
    """R23: with slow_after=None nothing is logged and no thread is started."""
    gate, began = new_gate(), threading.Event()
    threads: list[int] = []

    def hangs() -> None:
        threads.append(len(watch_threads()))
        began.set()
        gate.block()

    manager.configure(slow_after=None)
    manager.defer(hangs, name=NAME)
    thread = in_thread(manager.close)
    assert began.wait(LONG)
    Keeper(log, new_gate()).run()
    gate.open()
    thread.join(LONG)
    assert threads == [0]
    assert "keeper" in log.found
    assert {told.name for told in log.lines} == {"keeper"}


def test_it_may_be_bigger_than_the_grace(log: Log) -> None:
    """R21, R23: slow_after may be bigger than the grace, and is then of no use."""
    manager = lastly.ShutdownManager(grace=1.0, slow_after=100.0)
    manager.configure(grace=0.5, slow_after=1000)
    manager.defer(int)
    manager.close()
    assert manager.last_report().ok
    assert log.lines == []


@pytest.mark.parametrize("first", [1000, None])
def test_configure_is_heeded_at_once(
    manager: lastly.ShutdownManager,
    log: Log,
    new_gate: Callable[[], Gate],
    monkeypatch: pytest.MonkeyPatch,
    first: float | None,
) -> None:
    """R23: an unwind in progress heeds a change, from None or much to less, to None, and back."""
    monkeypatch.setattr(_watch, "_LOOKS", 1000.0)
    gate, began, told = new_gate(), threading.Event(), threading.Event()

    def hangs() -> None:
        began.set()
        gate.block()

    def react(line: Told) -> None:
        if line.name == NAME and not told.is_set():
            manager.configure(slow_after=None)
            told.set()

    log.reactions.append(react)
    manager.configure(slow_after=first)
    manager.defer(hangs, name=NAME)
    thread = in_thread(manager.close)
    assert began.wait(LONG)
    assert log.lines == []
    manager.configure(slow_after=SLOW)
    assert told.wait(LONG)
    Keeper(log, new_gate()).run()
    assert len(log.about()) == 1
    log.opens(gate, BLOCKS)
    manager.configure(slow_after=SLOW)
    thread.join(LONG)
    assert NAME in log.found


# -- the thread -----------------------------------------------------------------------------


def test_one_thread_for_all(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """R23: however many unwinds there are, one after another or at once, one thread watches."""
    monkeypatch.setattr(_watch, "_LOOKS", 60.0)
    seen: set[int] = set()

    def unwind() -> None:
        for _ in range(30):
            manager = lastly.ShutdownManager()
            manager.defer(lambda: seen.update(t.ident for t in watch_threads() if t.ident))
            manager.close()

    unwind()
    assert len(watch_threads()) == 1
    threads = [in_thread(unwind) for _ in range(4)]
    for thread in threads:
        thread.join(LONG)
    assert len(watch_threads()) == 1
    assert seen == {watch_threads()[0].ident}


def test_the_thread_ends_by_itself(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23: when there is nothing to watch for a while, it ends; the next unwind has another."""
    monkeypatch.setattr(_watch, "_LOOKS", 0.001)
    ended = []
    for _ in range(2):
        manager.defer(lambda: ended.extend(watch_threads()))
        manager.close()
        ended[-1].join(LONG)
        assert not ended[-1].is_alive()
        assert watch_threads() == []
    log.opens(gate, BLOCKS)
    handle = three(manager, gate.block)
    manager.close()
    check(log, handle, BLOCKS)


async def test_a_manager_is_not_kept_alive(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """R23: the thread lingers, and what was unwound is let go all the same."""
    monkeypatch.setattr(_watch, "_LOOKS", 60.0)
    gone = threading.Event()

    class Owned:
        def close(self) -> None: ...

    async def unwind() -> list[object]:
        manager = lastly.ShutdownManager(slow_after=1.0)
        owned = Owned()
        manager.defer(owned.close)
        manager.defer(anyio.lowlevel.checkpoint)
        await manager.aclose()
        return [weakref.ref(manager, lambda _: gone.set()), weakref.ref(owned)]

    references = await unwind()
    for _ in range(int(LONG / 0.01)):
        gc.collect()
        if gone.wait(0.01):  # the thread may be looking at it at this moment
            break
    assert [reference() for reference in references] == [None, None]
    assert len(watch_threads()) == 1


async def test_what_was_watched_is_not_kept_alive(manager: lastly.ShutdownManager) -> None:
    """R23: who keeps the unwind, a traceback say, keeps no callback and no result by its watch."""
    spots: list[_spot.Spot] = []
    manager.defer(anyio.lowlevel.checkpoint)
    manager.defer(lambda: spots.extend(_watch.watchman.waits))
    await manager.aclose()
    assert [(spot.registration, spot.awaitable) for spot in spots] == [(None, None)]


def test_it_is_woken_for_who_is_in_a_hurry(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23: a thread that sleeps for long is woken for a shorter slow_after, only then."""
    monkeypatch.setattr(_watch, "_LOOKS", 1000.0)
    patient = lastly.ShutdownManager(slow_after=500.0)

    def unwind() -> None:
        while _watch.watchman._next_look - _watch.perf_counter() < 400:
            assert threading.main_thread() is threading.current_thread()
        other = lastly.ShutdownManager(slow_after=2000.0)
        other.defer(int)
        before = _watch.watchman._next_look
        other.close()
        assert _watch.watchman._next_look == before
        manager.close()

    log.opens(gate, BLOCKS)
    handle = three(manager, gate.block)
    patient.defer(unwind)
    patient.close()
    check(log, handle, BLOCKS)


class NoThread:
    """Stand in for Thread where none can start."""

    def __init__(self, **_: object) -> None: ...

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


async def test_no_thread_can_start(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23: where no thread can start, the unwind goes on unwatched; the next one tries again."""
    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(_watch, "Thread", NoThread)
        three(manager, anyio.lowlevel.checkpoint)
        manager.defer(calls.append, 1)
        await manager.aclose()
        assert calls == [1]
        assert manager.last_report().ok
        assert watch_threads() == []
    log.opens(gate, WAITS)
    handle = three(manager, gate.wait)
    await manager.aclose()
    check(log, handle, WAITS, "Gate.wait")
    assert not _watch.watchman.waits


def test_two_that_would_start_it_at_once(
    manager: lastly.ShutdownManager,
    log: Log,
    new_gate: Callable[[], Gate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R23: of two unwinds that find no thread, one starts it, and it watches both."""
    monkeypatch.setattr(_watch, "_LOOKS", 60.0)
    keeper = Keeper(log, new_gate())
    made: list[threading.Thread] = []

    class Racing(threading.Thread):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            made.append(self)
            if len(made) == 1:
                keeper.run()

    monkeypatch.setattr(_watch, "Thread", Racing)
    gate = new_gate()
    log.opens(gate, BLOCKS)
    handle = three(manager, gate.block)
    manager.close()
    check(log, handle, BLOCKS)
    assert [thread.ident is None for thread in made] == [True, False]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_unwind_that_comes_while_the_thread_ends(
    manager: lastly.ShutdownManager,
    log: Log,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """R23: who comes just before or after the thread has said goodbye is watched all the same."""
    unwinds: list[threading.Thread] = []
    handle = three(manager, gate.block)
    log.opens(gate, BLOCKS)

    class Racing(dict):
        """What holds the thread: another thread unwinds just around its farewell."""

        def pop(self, *args: object) -> object:
            if moment == "before":
                unwind()
            thread = super().pop(*args)
            if moment == "after":
                unwind()
            return thread

    def unwind() -> None:
        if not unwinds:
            unwinds.append(in_thread(manager.close))
            while not log_has_begun():
                pass

    def log_has_begun() -> bool:
        # It is being watched, and has done what it does for that.
        spots = [wait for wait in _watch.watchman.waits if wait.current()[0] == 2]
        return bool(spots)

    monkeypatch.setattr(_watch, "_LOOKS", 0.001)
    monkeypatch.setattr(_watch.watchman, "_thread", Racing())
    quick = lastly.ShutdownManager()
    quick.defer(int)
    quick.close()
    first = watch_threads()
    for _ in range(int(LONG / 0.001)):
        if unwinds:
            break
        first[0].join(0.001)
    unwinds[0].join(LONG)
    check(log, handle, BLOCKS)
    end_watch(monkeypatch)


# -- log handlers ---------------------------------------------------------------------------


class Odd(logging.Handler):
    """A log handler that does something else with what the watch says."""

    def __init__(self, function: Callable[[str], object]) -> None:
        super().__init__()
        self.function = function

    def emit(self, record: logging.LogRecord) -> None:
        self.function(record.getMessage())


@pytest.fixture
def odd() -> Iterator[Callable[[Callable[[str], object]], None]]:
    handlers: list[Odd] = []

    def add(function: Callable[[str], object]) -> None:
        handlers.append(Odd(function))
        logging.getLogger("lastly").addHandler(handlers[-1])

    yield add
    for handler in handlers:
        logging.getLogger("lastly").removeHandler(handler)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
async def test_a_handler_that_raises(
    manager: lastly.ShutdownManager,
    log: Log,
    new_gate: Callable[[], Gate],
    monkeypatch: pytest.MonkeyPatch,
    odd: Callable,
    error: type[BaseException],
) -> None:
    """R10, R23: it stops neither the unwind nor the watch over it and over others."""
    monkeypatch.setattr(_watch, "_LOOKS", 1000.0)
    raised: list[str] = []

    def fails(line: str) -> None:
        raised.append(line)
        raise error("the handler's")

    odd(fails)
    gate = new_gate()
    log.opens(gate, WAITS, lines=3)
    handle = three(manager, gate.wait)
    await manager.aclose()
    check(log, handle, WAITS, "Gate.wait")
    assert len(raised) >= 2
    assert manager.last_report().ok
    Keeper(log, new_gate()).run()
    assert "keeper" in log.found


def test_a_handler_that_hangs(
    manager: lastly.ShutdownManager,
    log: Log,
    new_gate: Callable[[], Gate],
    monkeypatch: pytest.MonkeyPatch,
    odd: Callable,
) -> None:
    """R23: a handler that hangs holds up no unwind, and the watch goes on after it."""
    monkeypatch.setattr(_watch, "_PATIENCE", 0.001)
    gate, hangs, go_on = new_gate(), threading.Event(), threading.Event()
    let_go: list[bool] = []

    def hang(line: str) -> None:
        if NAME in line:
            hangs.set()
            gate.open()
            let_go.append(go_on.wait(LONG))

    odd(hang)
    three(manager, gate.block)
    manager.close()
    assert hangs.is_set()
    assert let_go == []
    assert manager.last_report().ok
    for _ in range(3):  # nor others that would wake it
        manager.configure(slow_after=100.0)
        manager.defer(int)
        manager.close()
    assert len(watch_threads()) == 1
    go_on.set()
    Keeper(log, new_gate()).run()
    assert "keeper" in log.found


def test_the_end_waits_for_a_line_that_is_being_written(
    manager: lastly.ShutdownManager,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    odd: Callable,
) -> None:
    """R23: no line comes after the unwind has ended: one that has begun is waited for."""
    monkeypatch.setattr(_watch, "_PATIENCE", LONG)
    ended = threading.Event()
    ended_before: list[bool] = []

    def slow(line: str) -> None:
        if NAME in line and not ended_before:
            gate.open()
            ended_before.append(ended.wait(0.05))

    odd(slow)
    manager.configure(slow_after=SLOW)
    manager.defer(gate.block, name=NAME)
    manager.close()
    ended.set()
    assert ended_before == [False]


def test_a_look_that_comes_too_late(
    manager: lastly.ShutdownManager, log: Log, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23: nothing is told of an unwind that ends between two steps of a look."""
    ended, looked = threading.Event(), threading.Event()

    class Late(FakeClock):
        def now(self) -> float:
            if threading.current_thread().name == "lastly: watch":
                gate.open()
                assert ended.wait(LONG)
                looked.set()
                return 100.0
            return 0.0

    manager._settings.clock = Late()
    manager.configure(slow_after=SLOW)
    manager.defer(gate.block)
    manager.close()
    ended.set()
    assert looked.wait(LONG)
    end_watch(monkeypatch)
    assert log.lines == []
    assert log.others == []


@pytest.mark.parametrize("then", ["ends", "goes on"])
def test_a_look_that_takes_too_long(
    manager: lastly.ShutdownManager,
    log: Log,
    new_gate: Callable[[], Gate],
    monkeypatch: pytest.MonkeyPatch,
    then: str,
) -> None:
    """R23: no line tells of a callback that has ended by the time that the line is ready."""
    first, second = new_gate(), new_gate()
    reached, looked = threading.Event(), threading.Event()
    real = _spot.thread_stack

    def look(ident: int) -> tuple[str, ...]:
        where = real(ident)
        if not looked.is_set() and BLOCKS in where[-1]:
            first.open()
            assert reached.wait(LONG)
            looked.set()
        return where

    def next_one() -> None:
        reached.set()
        second.block()

    monkeypatch.setattr(_spot, "thread_stack", look)
    manager.configure(slow_after=SLOW)
    if then == "goes on":
        manager.defer(next_one, name="next")
        log.opens(second, BLOCKS, "next")
    before = []
    log.reactions.append(lambda told: before.append(looked.is_set()))
    manager.defer(first.block, name=NAME)
    manager.close()
    reached.set()
    assert looked.wait(LONG)
    end_watch(monkeypatch)
    late = [told for told, after in zip(log.lines, before, strict=True) if after]
    assert NAME not in [told.name for told in late]
    assert then == "ends" or "next" in log.found


# -- processes ------------------------------------------------------------------------------

CHILD = """
import asyncio, logging, os, sys, threading
import lastly

lock = threading.Lock()
lock.acquire()
lines = []

class Log(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
        react(record)

def react(record):
    line = record.getMessage()
    if marker in line and lock.locked():
        print(record.levelname, line, flush=True)
        open_gate()

def open_gate():
    lock.release()

def block():
    lock.acquire()

async def wait():
    global open_gate
    waiter = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    open_gate = lambda: (lock.release(), loop.call_soon_threadsafe(waiter.set_result, None))
    await waiter

logging.getLogger("lastly").addHandler(Log())
"""


@needs_threads_at_exit
@pytest.mark.parametrize("kind", ["async", "sync", "thread"])
def test_at_interpreter_exit(run_child, kind: str) -> None:
    """R16, R23: a slow callback, async, sync or in a thread, is logged there, too."""
    func = "wait" if kind == "async" else "block"
    line = "await waiter" if kind == "async" else "lock.acquire()"
    source = f"""
marker = "in {func}: {line}"
lastly.configure(slow_after=0.01)
lastly.defer(print, "bottom")
lastly.defer({func}, name="slow one", thread={kind == "thread"})
lastly.defer(int)
print("main")
"""
    ended = run_child(CHILD + source)
    assert ended.out[0] == "main"
    told = Log.pattern.fullmatch("\n".join(ended.out[1:-1]).removeprefix("WARNING "))
    assert told is not None, ended.out
    assert (told[1], told[3]) == ("slow one", "2 of 3")
    assert "program.py" in told[2]
    assert told[6].endswith(f"in {func}: {line}")
    assert ended.out[-1] == "bottom"
    assert ended.err == ""


@pytest.mark.parametrize("slow_after", ["0.001", "None"])
def test_exit_is_clean(run_child, slow_after: str) -> None:
    """R16, R23: with a watch or without, the exit is in the same order and as quiet."""
    ended = run_child(
        f"""
        import atexit, sys, threading, lastly

        lastly.configure(slow_after={slow_after})
        atexit.register(print, "atexit before")
        lastly.defer(print, "lastly")
        atexit.register(print, "atexit after")

        @lastly.register
        async def close():
            print("async")

        def work():
            threading.main_thread().join()
            print("thread")

        threading.Thread(target=work).start()
        print("main")
        sys.exit(3)
        """,
        expect=3,
    )
    assert ended.out == ["main", "thread", "atexit after", "async", "lastly", "atexit before"]
    # But for what a line of code says that the watch has told.
    assert not re.search(r"(?m)^(Traceback|Exception ignored|\w*(Error|Exception)\b)", ended.err)


THREAD = """
marker = "in block: lock.acquire()"

def work():
    block()
    print("thread")

other = lastly.ShutdownManager(slow_after=1000)
lastly.configure(slow_after={slow_after})
lastly.defer(print, "first", name="printer")
other.defer(print, "other", name="other's")
lastly.defer(print, "second", name="second printer")
threading.Thread(target=work, name="worker").start()
threading.Thread(target=threading.Event().wait, name="demon", daemon=True).start()
"""


@needs_threads_at_exit
def test_the_wait_for_threads_at_exit(run_child) -> None:
    """R16, R23: the log names the threads that hold the exit, their lines, and who waits."""
    source = THREAD.format(slow_after=0.05) + 'print("main")\nsys.exit(3)\n'
    ended = run_child(CHILD + source, expect=3)
    assert ended.out[0] == "main"
    end = ended.out.index("thread")
    head, worker, *stack = ended.out[1:end]
    wanted = r"WARNING the interpreter is still waiting for 1 thread to end, for \d+\.\d s"
    assert re.fullmatch(wanted, head)
    assert worker == "    worker, at"
    assert all(line.startswith("        ") for line in stack[:-3])
    assert stack[-4].endswith("in block: lock.acquire()")
    assert stack[-5].endswith("in work: block()")
    registered = [re.fullmatch(r"    (.*) \(.*program\.py:\d+\) has yet to run", s) for s in stack]
    assert [match and match[1] for match in registered[-3:]] == [
        "other's",
        "second printer",
        "printer",
    ]
    assert ended.out[end:] == ["thread", "other", "second", "first"]
    assert "demon" not in "".join(ended.out)
    assert ended.err == ""


@needs_threads_at_exit
def test_the_wait_for_several_threads_is_told_again(run_child) -> None:
    """R23: it is told at doubling intervals, and how many threads there are."""
    source = """
count = 0
def react(record):
    global count
    count += 1
    print(record.getMessage().splitlines()[0].split(", ")[0], flush=True)
    if count == 3:
        lock.release()

def work():
    with lock:
        pass

lastly.configure(slow_after=0.01)
lastly.defer(print, "end")
threading.Thread(target=work).start()
threading.Thread(target=work).start()
"""
    ended = run_child(CHILD + source)
    line = "the interpreter is still waiting for 2 threads to end"
    assert ended.out[:3] == [line] * 3
    assert ended.out[-1] == "end"
    assert ended.err == ""


@needs_threads_at_exit
def test_threads_are_watched_when_everything_has_run(run_child) -> None:
    """R23: a thread that holds the exit is told though no callback has yet to run."""
    source = """
def react(record):
    print(record.getMessage().splitlines()[0].split(", ")[0], flush=True)
    lock.release()

def work():
    with lock:
        pass

lastly.configure(slow_after=0.05)
lastly.defer(print, "closed")
lastly.close()
threading.Thread(target=work).start()
"""
    ended = run_child(CHILD + source)
    assert ended.out == ["closed", "the interpreter is still waiting for 1 thread to end"]
    assert ended.err == ""


def test_no_watch_over_threads(run_child) -> None:
    """R23: with slow_after=None nothing is said of them."""
    source = """
import atexit
lastly.configure(slow_after=0.01)
lastly.defer(lambda: print(lines))
atexit.register(lambda: print("atexit", lines))
def work():
    threading.main_thread().join()
    print("thread", [t.name for t in threading.enumerate() if t.name == "lastly: watch"])
threading.Thread(target=work).start()
lastly.configure(slow_after=None)
"""
    ended = run_child(CHILD + source)
    assert ended.out == ["thread []", "atexit []", "[]"]
    assert ended.err == ""


@needs_threads_at_exit
def test_a_slow_atexit_callback_is_no_thread(run_child) -> None:
    """R23: between the end of the threads and lastly's turn there is nothing to tell."""
    source = """
import atexit
from lastly import _interpreter
looked, told = threading.Event(), []
tell = _interpreter._ThreadsWait.tell

def spy(self, elapsed):
    told.append(tell(self, elapsed))
    looked.set()
    return told[-1]

_interpreter._ThreadsWait.tell = spy
lastly.configure(slow_after=0.01)
lastly.defer(lambda: print(lines, set(told)))
atexit.register(looked.wait)
"""
    ended = run_child(CHILD + source)
    assert (ended.out, ended.err) == (["[] {None}"], "")


@needs_threads_at_exit
def test_a_look_at_threads_that_takes_too_long(run_child) -> None:
    """R23: nothing is told of the threads when the unwind has begun by then."""
    source = """
from lastly import _interpreter
ended, spoke = threading.Event(), threading.Event()
tell, speak = _interpreter._ThreadsWait.tell, _interpreter._ThreadsWait._speak

def slow_tell(self, elapsed):
    text = tell(self, elapsed)
    lock.release()
    ended.wait()
    return text

def spy(self, *args):
    speak(self, *args)
    spoke.set()

_interpreter._ThreadsWait.tell, _interpreter._ThreadsWait._speak = slow_tell, spy
lastly.configure(slow_after=0.01)

@lastly.register
def last():
    ended.set()
    spoke.wait()
    print(lines)

threading.Thread(target=block).start()
"""
    ended = run_child(CHILD + "marker = 'never'\n" + source)
    assert (ended.out, ended.err) == (["[]"], "")


@pytest.mark.parametrize("what", ["del threading._register_atexit", "del os.register_at_fork"])
def test_without_the_hook(run_child, what: str) -> None:
    """R16, R23: where the interpreter lacks a hook, only what needs it is missing."""
    source = f"""
import asyncio, atexit, concurrent.futures.thread, os, random, sys, threading
{what}
{CHILD}
marker = "in block: lock.acquire()"
lastly.configure(slow_after=0.01)
lastly.defer(block, name="slow one")

@lastly.register
async def close():
    print(await asyncio.to_thread(int, "7"))

lastly.close()
lastly.defer(print, "at exit")
threading.Thread(target=lambda: (threading.main_thread().join(), print("thread"))).start()
sys.exit(3)
"""
    ended = run_child(source, expect=3)
    assert ended.out[0] == "7"
    assert ended.out[1].startswith("WARNING still waiting for slow one (")
    assert ended.out[-2:] == ["thread", "at exit"]
    assert ended.err == ""


def test_an_error_in_the_hook_does_not_cost_the_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R16, R23: nothing comes out of the hook: the interpreter would not wait for threads."""

    class Broken:
        @property
        def slow_after(self) -> float:
            raise RuntimeError

    manager = lastly.ShutdownManager()
    manager._settings = Broken()
    monkeypatch.setattr(_interpreter, "_managers", {manager: None})
    _interpreter._before_threads()


@pytest.mark.skipif(not hasattr(sys.modules["os"], "fork"), reason="needs os.fork")
def test_after_a_fork(run_child) -> None:
    """R23: a forked child has a watch of its own, and the parent's goes on."""
    source = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of fork beside threads
lastly._watch._LOOKS = 0.01
parent, first, forked = os.getpid(), threading.Event(), threading.Event()

def react(record):
    line = record.getMessage()
    if "in block: lock.acquire()" not in line:
        return
    who = "parent" if os.getpid() == parent else "child"
    if who == "parent" and not forked.is_set():
        first.set()
        return
    if lock.locked():
        print(who, line.partition(" (")[0], flush=True)
        lock.release()

lastly.configure(slow_after=0.01)
lastly.defer(block, name="the parent's")
unwind = threading.Thread(target=lastly.close)
unwind.start()
assert first.wait(20)
if os.fork() == 0:
    watching = [t.name for t in threading.enumerate() if t.name == "lastly: watch"]
    print("child", watching, list(lastly._watch.watchman.waits), flush=True)
    manager = lastly.ShutdownManager(slow_after=0.01)
    manager.defer(block, name="the child's")
    manager.close()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
forked.set()
unwind.join(20)
print("end")
"""
    ended = run_child(CHILD + source)
    assert ended.out == [
        "child [] []",
        "child still waiting for the child's",
        "7",
        "parent still waiting for the parent's",
        "end",
    ]
    assert ended.err == ""


@pytest.mark.parametrize("way", ["uvloop", "asyncio"])
def test_the_rest_of_a_teardown_is_watched(run_child, way: str) -> None:
    """R23: a thread of the loop's executor, which asyncio.run waits for, is told."""
    source = f"""
def react(record):
    line = record.getMessage()
    if "torn down" in line and lock.locked():
        print(line.split(", ")[0], "in hold:" in line, flush=True)
        lock.release()

def hold():
    with lock:
        pass

async def hangs():
    await asyncio.to_thread(hold)

async def main():
    lastly.defer(hangs, timeout=0.01)

lastly.configure(slow_after=0.05, errors="log")
logging.getLogger("lastly").addFilter(lambda record: record.levelno == logging.WARNING)
{"import uvloop; uvloop.run" if way == "uvloop" else "asyncio.run"}(main())
print("end")
"""
    ended = run_child(CHILD + source)
    assert ended.out == ["still waiting for the event loop to be torn down True", "end"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_a_fork_finds_no_lingering_thread(run_child) -> None:
    """R23: the watch that only lingers ends before a fork, which would warn of it."""
    source = """
import os, warnings
warnings.simplefilter("error")
lastly.defer(print, "closed")
lastly.close()
assert [t.name for t in threading.enumerate()] == ["MainThread", "lastly: watch"]
pid = os.fork()
if pid == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert [t.name for t in threading.enumerate()] == ["MainThread"]
"""
    ended = run_child(CHILD + source)
    assert (ended.out, ended.err) == (["closed"], "")


def test_a_watch_that_is_broken_off_at_its_start(
    manager: lastly.ShutdownManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23: a Ctrl-C while its thread starts leaves no trace; the next unwind has a watch."""
    end_watch(monkeypatch)
    calls: list[str] = []
    manager.defer(calls.append, "called")

    class Interrupted(threading.Thread):
        def start(self) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_watch, "Thread", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.close()
    assert not _watch.watchman.waits
    assert not _watch.watchman._thread
    manager.close()
    assert calls == ["called"]
    assert _watch.watchman._thread


def test_a_fork_while_another_thread_is_about_to_start_the_watch() -> None:
    """R19, R23: it is not waited for, and not a failure."""
    watchman = _watch._Watchman()
    watchman._thread[None] = threading.Thread()
    watchman.rest()
