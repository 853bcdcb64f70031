"""A state machine drives a manager beside a plain list, which says what must have happened.

Each callback tells the list when it runs, and what has to come of it. Some thousand steps by
default; `LASTLY_STEPS=100000` makes it so many, at random.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import math
import os
import queue
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import anyio
import anyio.lowlevel
import hypothesis
import pytest
import trio
from conftest import FakeClock
from hypothesis import configuration
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import lastly
from lastly._clock import Clock as RealClock

# Where it keeps what it knows of Unicode, say; by default it would be in the project's tree.
configuration.set_hypothesis_home_dir(os.path.join(tempfile.gettempdir(), "lastly-hypothesis"))

TOGETHER = hasattr(lastly.ShutdownManager, "together")


# -- what callbacks are and do --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    number: int


class NoText(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "error": lambda: ValueError("its own"),
    "cancelled": lambda: asyncio.CancelledError("its own"),
    "interrupt": KeyboardInterrupt,
    "exit": lambda: SystemExit(3),
    "generator exit": GeneratorExit,
    "stop": lambda: StopIteration("its own"),
    "group": lambda: ExceptionGroup("its own", [ValueError(1), OSError(2)]),
    "base group": lambda: BaseExceptionGroup("its own", [KeyboardInterrupt(), ValueError(1)]),
    "cancelled group": lambda: BaseExceptionGroup("its own", [asyncio.CancelledError()]),
    "memory": MemoryError,
    "frozen": lambda: Frozen(1),
    "no text": NoText,
}
BODIES = [
    None,
    None,
    ValueError,
    ValueError,
    asyncio.CancelledError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
]

# Seconds, so that no sum of some comes close to a sum of others.
TAKES = [None, None, 0, 0, 2.7519, 7.7391]
TIMEOUTS = [None, None, None, 0.4, 5.0, math.inf]
GRACES = [None, None, 0.0, 3.1, 3.1, 8.9, 20.3]
ERRORS = ["last", "last", "group", "log"]

VERBS = [
    "register",
    "defer",
    "register at home",
    "enter",
    "cancel newest",
    "cancel oldest",
    "cancel itself",
    "unregister oldest",
    "close",
    "aclose",
    "request",
    "cancel the scope",
    "cancel the task",
    "cancel the task",
]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a callback will do when it is called."""

    kind: str
    takes: float | None
    raises: str | None
    does: tuple[str, ...]
    bitter: bool
    timeout: float | None = None
    on_timeout: str | None = None
    named: bool = False

    @property
    def is_async(self) -> bool:
        return self.kind in ("async", "lambda", "awaitable", "partial")


def plans(*kinds: str, limits: bool = True) -> st.SearchStrategy[Plan]:
    unlimited = st.none()
    return st.builds(
        Plan,
        kind=st.sampled_from(kinds),
        takes=st.sampled_from(TAKES),
        raises=st.sampled_from([None] * len(EXCEPTIONS) + list(EXCEPTIONS)),
        does=st.lists(st.sampled_from(VERBS), max_size=2).map(tuple),
        bitter=st.booleans(),
        timeout=st.sampled_from(TIMEOUTS) if limits else unlimited,
        on_timeout=st.sampled_from([None, "returns", "raises", "exits", "awaits", "hangs"])
        if limits
        else unlimited,
        named=st.booleans(),
    )


ASYNC = ("async", "lambda", "awaitable", "partial")


def slow(plan: Plan, takes: float, raises: str | None = None) -> Plan:
    return dataclasses.replace(plan, takes=takes, raises=raises, does=(), bitter=False)


class Alike:
    """Callables that are equal if they were made with the same key; each in its own odd way."""

    def __init__(self, key: int, call: Callable[..., Any]) -> None:
        self.key = key
        self.call = call

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.call(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike) and self.key == other.key

    __hash__ = None  # type: ignore[assignment]


class Unlike(Alike):
    """Equal, and yet of another hash each time that it is asked for."""

    hashes = iter(range(1 << 60))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike) and self.key == other.key

    def __hash__(self) -> int:
        return next(self.hashes)


class Method(Alike):
    """One whose bound methods are equal, but no two of them the same object."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def method(self, *args: object, **kwargs: object) -> Any:
        return self.call(*args, **kwargs)


class Jealous(Alike):
    """Equal to nothing, not even to itself."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__


class Everything:
    """Equal to everything."""

    def __init__(self, *_: object) -> None: ...

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__

    def __call__(self) -> None:
        raise AssertionError("it is only asked about")


class Undecided(Everything):
    """One that cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("not comparable")

    __hash__ = object.__hash__


SHAPES: dict[str, Callable[[int, Callable[..., Any]], Callable[..., Any]]] = {
    "function": lambda key, call: call,
    "alike": Alike,
    "unlike": Unlike,
    "method": lambda key, call: Method(key, call).method,
    "jealous": Jealous,
}


# -- the plain list -------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class Entry:
    """A registration as the list knows it."""

    plan: Plan
    name: str
    func: Callable[..., Any] | None = None
    home: object = None
    handle: lastly.Registration | None = None
    status: str = "pending"
    calls: int = 0
    runs: int = 0
    ended: bool = False
    end: float = 0.0
    swallows: bool = False
    given: tuple[tuple[object, ...], dict[str, object]] = ((), {})
    mates: list[Entry] = dataclasses.field(default_factory=list)
    told: list[object] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Expected:
    """What has to be in the report of a callback that was run."""

    entry: Entry
    start: float
    statuses: set[str]
    # One object, or a kind, or None for no exception.
    exception: BaseException | type[BaseException] | None = None
    place: list[Entry] = dataclasses.field(default_factory=list)


class ending:
    """Note when a callback has ended; no @contextmanager, which frozen exceptions would break."""

    def __init__(self, entry: Entry, clock: Clock) -> None:
        self.entry = entry
        self.clock = clock

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None:
        self.entry.ended, self.entry.end = True, self.clock.time


class Clock(FakeClock):
    def wait(self, future: Future[object], seconds: float | None) -> bool:
        """Only look: who waits like this asks again, and a thread of his moves the time."""
        return bool(concurrent.futures.wait([future], timeout=0.01).done)

    def tick(self) -> None:
        """Let time pass until something falls due."""
        if self._timers:
            key = min(self._timers, key=lambda key: self._timers[key][0])
            when, callback = self._timers.pop(key)
            self.time = max(self.time, when)
            callback()


def home_here() -> object:
    if trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_trio_token()
    return asyncio._get_running_loop()


def soon(home: Any, callback: Callable[[], object], rounds: int = 6) -> None:
    """Call back when the loop has done what it has to do, and now waits."""
    if rounds:
        callback = functools.partial(soon, home, callback, rounds - 1)
    is_trio = isinstance(home, trio.lowlevel.TrioToken)
    with contextlib.suppress(RuntimeError):  # it has ended meanwhile
        (home.run_sync_soon if is_trio else home.call_soon_threadsafe)(callback)


class AsyncioLoop:
    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.home: object = self.runner.get_loop()

    def run(self, function: Callable[[], Awaitable[None]]) -> None:
        self.runner.run(function())  # type: ignore[arg-type]

    def end(self) -> BaseException | None:
        try:
            self.runner.close()
        except BaseException as exc:
            return exc
        return None


class TrioLoop:
    """A trio run as a guest, so that it goes on step by step."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], Awaitable[None]]] = []
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.is_over = self.is_busy = False
        trio.lowlevel.start_guest_run(
            self.main,
            run_sync_soon_threadsafe=self.calls.put,
            done_callback=self.over,
        )
        self.run(self.begin)

    async def begin(self) -> None:
        self.home = trio.lowlevel.current_trio_token()

    async def main(self) -> None:
        self.more = trio.Event()
        while True:
            if self.jobs:
                job = self.jobs.pop()
                if job is None:
                    return
                await job()
                self.is_busy = False
            self.more = trio.Event()
            if not self.jobs:
                await self.more.wait()

    def over(self, outcome: Any) -> None:
        self.outcome = outcome
        self.is_over = True

    def run(self, function: Any) -> None:
        self.jobs.append(function)
        self.is_busy = True
        if hasattr(self, "home"):
            self.home.run_sync_soon(lambda: self.more.set())
        while self.is_busy and not self.is_over:
            self.calls.get(timeout=60)()

    def end(self) -> BaseException | None:
        self.run(None)
        self.outcome.unwrap()
        return None


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.failures: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("callback ") and " has a timeout, which had no effect" not in text:
            self.failures.append(text)


# -- the machine ----------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Register, cancel, unregister and unwind in every way, on the manager and on the list."""

    new_loop: Callable[[], AsyncioLoop | TrioLoop]
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.manager = lastly.ShutdownManager("machine", slow_after=None)
        self.clock = self.manager._settings.clock = Clock()
        self.stack: list[list[Entry]] = []  # places, the newest last; `together` shares one
        self.entries: list[Entry] = []
        self.loop: AsyncioLoop | TrioLoop | None = None
        self.other: AsyncioLoop | None = None  # another one, that is open and stands still
        self.grace: float | None = None
        self.timeout: float | None = None
        self.errors = "last"
        self.requested: float | None = None
        self.problems: list[str] = []
        self.log = Log()
        self.logger = logging.getLogger("lastly")
        self.level = self.logger.level
        self.logger.addHandler(self.log)
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        # Of the unwind that is going on:
        self.began: float | None = None
        self.expected: list[Expected] = []
        self.leaving: Any = None
        self.made: list[BaseException] = []  # by exits, of that
        self.swallowed: list[BaseException] = []
        self.pops: Callable[[Entry], bool] = lambda entry: True
        self.scope: anyio.CancelScope | None = None
        self.is_closing_task = False
        self.stuck: list[threading.Event] = []
        self.is_broken = False
        self.waiting = 0
        self.passing: object = None

    # -- registering

    def make(self, plan: Plan, shape: str = "function", key: int = 0) -> Entry:
        """Make a callback that does as planned, and tells the list so."""
        if plan.kind in ("sync", "exit", "aexit") or (
            plan.kind == "thread" and self.grace is not None
        ):
            # A thread that is left behind at the end of a grace would overtake others.
            plan = dataclasses.replace(plan, kind=plan.kind.replace("thread", "sync"))
            plan = dataclasses.replace(plan, timeout=None, on_timeout=None)
        if plan.kind == "stuck" and plan.timeout in (None, math.inf):
            plan = dataclasses.replace(plan, timeout=5.0)
        if plan.raises == "stop" and plan.kind not in ("sync", "exit"):
            plan = dataclasses.replace(plan, raises="error")  # no coroutine can raise it
        if plan.bitter and plan.raises in ("cancelled", "cancelled group"):
            plan = dataclasses.replace(plan, bitter=False)  # nobody could tell the two apart
        entry = Entry(plan, f"callback {len(self.entries)}")
        self.entries.append(entry)

        async def body() -> None:
            with ending(entry, self.clock):
                await self.body_async(entry)

        def call(*args: object, **kwargs: object) -> Any:
            entry.calls += 1
            self.is_given(entry, args, kwargs)
            if plan.kind in ("sync", "thread"):
                with ending(entry, self.clock):
                    return self.body(entry)
            if plan.kind == "stuck":
                entry.ended = True  # it never does, and nobody waits for it
                return self.body_stuck(entry)
            return Await(body) if plan.kind == "awaitable" else body()

        async def call_async(*args: object, **kwargs: object) -> Any:
            entry.calls += 1
            self.is_given(entry, args, kwargs)
            return await body()

        entry.func = SHAPES[shape](key, call)
        if plan.kind == "async":
            entry.func = call_async
        elif plan.kind == "partial":
            entry.func = functools.partial(call_async)
        return entry

    def is_given(self, entry: Entry, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if (args, kwargs) != entry.given:
            self.problems.append(f"{entry.name} was given {args} {kwargs}, not {entry.given}")

    def push(self, entry: Entry, how: str = "defer") -> None:
        """Put it on the manager's stack, and on the list."""
        plan, manager = entry.plan, self.manager
        on_timeout = None
        if plan.on_timeout is not None:
            on_timeout = functools.partial(self.on_timeout, entry)
            if plan.on_timeout in ("awaits", "hangs"):
                on_timeout = functools.partial(self.on_timeout_async, entry)
        options: dict[str, Any] = {"timeout": plan.timeout, "on_timeout": on_timeout}
        if plan.kind in ("thread", "stuck"):
            options["thread"] = True
        if plan.bitter:
            options["before_threads"] = True  # which is nothing to any other trigger
        args = (entry.name, 1)[: len(self.entries) % 3]
        entry.given = args, {}
        if plan.named or how == "defer":
            options["name"] = entry.name
        if how == "register" and plan.kind not in ("thread", "stuck"):
            entry.plan = dataclasses.replace(plan, timeout=None, on_timeout=None)
            entry.given = args, {"named": 1} if plan.named else {}
            assert manager.register(entry.func, *args, **entry.given[1]) is entry.func
            entry.handle = manager.pending()[0]
        elif how == "decorate":
            entry.given = (), {}
            assert manager.defer(**options)(entry.func) is entry.func
            entry.handle = manager.pending()[0]
        else:
            entry.handle = manager.defer(entry.func, *args, **options)
        entry.name = entry.handle.name
        entry.home = home_here()
        self.stack.append([entry])

    def add(self, plan: Plan, how: str, shape: str, key: int) -> Entry:
        entry = self.make(plan, shape, key)
        self.push(entry, how)
        return entry

    def inside(self, function: Callable[[], object]) -> None:
        """Call it in a task of the loop that is open, or right here."""
        if self.loop is None:
            function()
            return
        raised: list[BaseException] = []

        async def job() -> None:
            try:
                function()
            except BaseException as exc:
                raised.append(exc)

        self.loop.run(job)
        if raised:
            raise raised[0]

    def pending(self) -> list[Entry]:
        return [entry for place in reversed(self.stack) for entry in reversed(place)]

    def take(self, entry: Entry) -> None:
        for place in self.stack:
            if entry in place:
                place.remove(entry)
        self.stack[:] = [place for place in self.stack if place]

    # -- running, as the list sees it

    def begin(self, entry: Entry) -> Expected:
        """Note that a callback runs, and what is to be expected of it unless it says more."""
        entry.runs += 1
        if self.began is None:
            self.problems.append(f"{entry.name} ran, and nothing unwinds")
        if entry.status != "pending":
            self.problems.append(f"{entry.name} ran when it was {entry.status}")
        mine = [place for place in self.stack if any(map(self.pops, place))]
        place = mine[-1] if mine else []
        if entry not in place:
            self.problems.append(f"{entry.name} ran before {[e.name for e in place]}")
        for other in self.expected:
            if not other.entry.ended and other.entry not in entry.mates:
                self.problems.append(f"{entry.name} ran while {other.entry.name} did")
        expected = Expected(entry, self.clock.time, {"ok"}, place=place)
        self.take(entry)
        entry.status = "running"
        self.expected.append(expected)
        if entry.handle.status != "running":
            self.problems.append(f"{entry.name} ran and was {entry.handle.status}")
        return expected

    def limit(self, plan: Plan) -> float:
        """Return the seconds that a callback which begins now may take; less than 0 if forced."""
        default = math.inf if self.timeout is None else self.timeout
        own = default if plan.timeout is None else plan.timeout
        if self.grace is None or self.began is None:
            return own
        since = self.began if self.requested is None else min(self.began, self.requested)
        left = since + self.grace - self.clock.time
        return -1 if left <= 0 else min(own, 0.8 * left)

    def fails(self, expected: Expected, raised: BaseException | type, *statuses: str) -> None:
        expected.statuses = set(statuses) or {"failed"}
        expected.exception = raised

    def raised_by(self, entry: Entry) -> BaseException | None:
        if entry.plan.raises is None:
            return None
        return EXCEPTIONS[entry.plan.raises]()

    def body(self, entry: Entry) -> None:
        expected = self.begin(entry)
        self.do(entry)
        if entry.plan.kind == "sync":
            self.clock.advance(entry.plan.takes or 0)
        exception = self.raised_by(entry)
        if exception is not None:
            self.fails(expected, exception)
            raise exception

    def body_stuck(self, entry: Entry) -> None:
        """Hold on to a thread until the unwind is over; it has to be abandoned."""
        expected = self.begin(entry)
        exits = entry.plan.on_timeout == "exits"
        self.fails(expected, SystemExit if exits else lastly.CleanupTimeout, "abandoned")
        seconds = self.limit(entry.plan)
        event = threading.Event()
        self.stuck.append(event)
        if self.home is None:
            self.clock.advance(seconds + 0.001)
        else:
            soon(self.home, self.clock.tick)
        event.wait(60)

    async def body_async(self, entry: Entry) -> None:
        plan = entry.plan
        expected = self.begin(entry)
        limit = self.limit(plan)
        forced = limit < 0
        exception = self.raised_by(entry)
        cancelled = self.do(entry, cancel=plan.takes is not None and not forced and not plan.bitter)
        if entry.mates and not forced:
            await self.meets(entry)
        if plan.takes is None:
            if exception is not None:
                exits = forced and plan.on_timeout == "exits"
                self.fails(expected, SystemExit if exits else exception)
                raise exception
            expected.statuses = {"forced"} if forced else {"ok"}
            return
        cut_short = forced or plan.takes > limit
        if cancelled:
            self.fails(expected, asyncio.CancelledError, "interrupted")
            self.goes_on(asyncio.CancelledError)
        elif cut_short:
            self.fails(expected, lastly.CleanupTimeout, "forced" if forced else "timed_out")
            bitter = exception if plan.bitter else None
            if bitter is not None and forced:
                self.fails(expected, bitter)
            if isinstance(bitter, KeyboardInterrupt | SystemExit):
                expected.exception = bitter
            if plan.on_timeout == "exits":
                expected.exception = SystemExit
        elif exception is not None:
            self.fails(expected, exception)
        try:
            await self.passes(plan.takes)
        except BaseException:
            if plan.bitter and exception is not None:
                raise exception from None
            raise
        if cut_short or cancelled:
            self.problems.append(f"{entry.name} was not cut short")
        if exception is not None:
            raise exception

    async def meets(self, entry: Entry) -> None:
        """Wait until all that share the place have begun, which they do if they run at once."""
        mates = [mate for mate in entry.mates if mate.plan.is_async]
        for _ in range(100):
            if not any(mate.status == "pending" for mate in mates):
                return
            await anyio.lowlevel.checkpoint()
        self.problems.append(f"{entry.name} ran without those that it shares its place with")

    async def passes(self, seconds: float) -> None:
        if seconds == 0:
            await anyio.lowlevel.checkpoint()
            return
        done = anyio.Event()
        stop = self.clock.call_later(seconds, done.set)
        self.waiting += 1
        if self.waiting == 1:
            self.let_time_pass()
        try:
            await done.wait()
        finally:
            self.waiting -= 1
            stop()

    def let_time_pass(self) -> None:
        """Tick for as long as somebody waits; once for all, so that each ends in a time of its."""
        home = home_here()
        self.passing = mine = object()

        def tick() -> None:
            if self.waiting and self.passing is mine:
                self.clock.tick()
                soon(home, tick)

        soon(home, tick)

    def on_timeout(self, entry: Entry) -> None:
        self.in_its_place(entry)
        if entry.plan.on_timeout == "raises":
            raise OSError("on_timeout")
        if entry.plan.on_timeout == "exits":
            raise SystemExit(4)

    async def on_timeout_async(self, entry: Entry) -> None:
        self.in_its_place(entry)
        await self.passes(0 if entry.plan.on_timeout == "awaits" else 7.7391)

    def in_its_place(self, entry: Entry) -> None:
        entry.told.append("on_timeout")
        if self.expected[-1].entry is not entry:
            self.problems.append(f"on_timeout of {entry.name} ran late")

    def goes_on(self, leaving: Any) -> None:
        if self.leaving is None or isinstance(self.leaving, Exception):
            self.leaving, self.made = leaving, []

    def exit(self, entry: Entry, exc: BaseException | None) -> bool:
        """Leave a context manager, as `with` would."""
        with ending(entry, self.clock):
            return self.exit_it(entry, exc)

    def exit_it(self, entry: Entry, exc: BaseException | None) -> bool:
        expected = self.begin(entry)
        entry.calls += 1
        told = self.made[-1] if self.made else self.leaving
        if told is None or isinstance(told, BaseException):
            if not self.is_same(exc, told):
                self.problems.append(f"{entry.name} was told {exc!r} instead of {told!r}")
            elif self.made:
                self.made[-1] = told = exc
        elif type(exc) is not told:
            self.problems.append(f"{entry.name} was told {exc!r} instead of {told!r}")
        self.do(entry)
        forced = entry.plan.kind == "aexit" and self.limit(entry.plan) < 0
        exception = self.raised_by(entry)
        consumed = exception is not None and entry.plan.bitter and self.consume(exc)
        if exception is not None:
            self.fails(expected, exception)
            if told is not None and self.is_cancellation(told, exc, exception):
                expected.statuses, expected.exception = {"forced" if forced else "ok"}, None
            else:
                cancelled = self.leaving is asyncio.CancelledError  # which stands for any of them
                if consumed and (cancelled or self.only_cancellations(self.leaving)):
                    self.leaving = None
                self.made.append(exception)
            raise exception
        if forced:
            expected.statuses = {"forced"}
        if entry.swallows and told is not None:
            if told is self.leaving or isinstance(self.leaving, Exception):
                self.leaving = None
            self.swallowed += self.made
            self.made = []
        return entry.swallows

    def consume(self, exc: BaseException | None) -> bool:
        """Take a cancellation of the closing task for one's own, as a timeout does."""
        if not (self.is_closing_task and self.only_cancellations(exc)):
            return False
        task = asyncio.current_task()
        return task.cancelling() > 0 and task.uncancel() >= 0

    def is_cancellation(self, told: object, exc: object, exception: BaseException) -> bool:
        """Tell whether an exit has raised the cancellation that it was told anew."""
        if self.began is None or isinstance(self.home, trio.lowlevel.TrioToken) or not self.home:
            return False
        only = self.only_cancellations
        return only(exc) and only(exception)

    def only_cancellations(self, exception: object) -> bool:
        if isinstance(exception, BaseExceptionGroup):
            return all(map(self.only_cancellations, exception.exceptions))
        return isinstance(exception, asyncio.CancelledError)

    # -- what callbacks do meanwhile

    def do(self, entry: Entry, *, cancel: bool = False) -> bool:
        """Do what is planned; return whether the closing task was cancelled by it."""
        cancelled = False
        for verb in entry.plan.does:
            try:
                cancelled |= bool(self.do_one(entry, verb, cancel))
            except BaseException as exc:
                self.problems.append(f"{verb} in {entry.name} raised {exc!r}")
        return cancelled

    def do_one(self, entry: Entry, verb: str, cancel: bool) -> bool | None:
        pending = self.pending()
        match verb:
            case "register" | "defer":
                plan = Plan("sync", None, "error" if verb == "defer" else None, (), bitter=False)
                self.push(self.make(plan), verb)
            case "register at home" if entry.plan.kind not in ("thread", "stuck"):
                # Without an await if close() calls it in a loop: it would refuse.
                kind = "sync" if self.home == "refuses" else "async"
                self.push(self.make(Plan(kind, 2.7519, None, (), bitter=False)), "register")
            # Nobody can tell a cancellation of its own in a shield that is held and spent (R8): not
            # from what awaits, nor below what else it registers.
            case "enter" if not entry.plan.is_async and entry.plan.does[-1] == "enter":
                entered = self.make(Plan("exit", None, None, (), bitter=False))
                self.entered(entered)
            case "cancel newest" | "cancel oldest" if pending:
                self.cancel(pending[0 if verb == "cancel newest" else -1])
            case "cancel itself":
                if entry.handle.cancel():
                    self.problems.append("what runs was cancelled")
            case "unregister oldest" if pending:
                self.unregister_it(pending[-1])
            case "close":
                self.manager.close()
            case "aclose" if home_here() is not None:
                with contextlib.suppress(StopIteration):  # it returns without an await
                    self.manager.aclose().send(None)
                    self.problems.append("a nested aclose() has waited")
            case "request":
                self.request()
            case "cancel the scope" if self.scope is not None:
                if entry.plan.kind not in ("thread", "stuck", "exit", "aexit"):
                    self.scope.cancel()
            case "cancel the task" if cancel and self.is_closing_task:
                asyncio.current_task().cancel()
                return True
        return None

    def cancel(self, entry: Entry) -> None:
        if entry.status == "pending":
            self.take(entry)
            entry.status = "cancelled"
        if entry.handle.cancel() is not (entry.status == "cancelled"):
            self.problems.append(f"cancel() of {entry.name}, which is {entry.status}")

    def unregister_it(self, entry: Entry) -> None:
        if entry.plan.kind not in ("exit", "aexit"):
            self.unregister(entry.func)

    def unregister(self, func: Any) -> None:
        try:
            equal = [e for e in self.pending() if e.func is func or e.func == func]
        except ZeroDivisionError:
            with pytest.raises(ZeroDivisionError):
                self.manager.unregister(func)
            return
        for entry in equal:
            self.take(entry)
            entry.status = "cancelled"
        assert self.manager.unregister(func) is None

    def request(self) -> None:
        self.manager.request_shutdown("machine")
        if self.requested is None:
            self.requested = self.clock.time

    # -- unwinding

    def unwind(self, how: Callable[[], None], home: object, body: BaseException | None) -> None:
        """Unwind, and hold what has happened against what had to."""
        self.began, self.expected, self.leaving = self.clock.time, [], body
        self.made, self.swallowed = [], []
        self.home = home
        self.is_broken = True  # unless it gets to the end of this
        before = self.manager.last_report()
        self.log.failures.clear()
        try:
            how()
        finally:
            for event in self.stuck:
                event.set()
            self.stuck.clear()
            self.scope = None
            self.is_closing_task = False
        assert not self.problems, self.problems
        self.check_report(before, self.began)
        self.began, self.is_broken = None, False

    def check_report(self, before: lastly.Report | None, began: float) -> None:
        report = self.manager.last_report()
        if not self.expected:
            assert report is before, "a report of nothing"
            return
        assert report is not before, "no report"
        outcomes = list(report.outcomes)
        expected = self.in_the_order_of(outcomes)
        assert [o.name for o in outcomes] == [e.entry.name for e in expected], (outcomes, expected)
        for outcome, wanted in zip(outcomes, expected, strict=True):
            entry = wanted.entry
            assert outcome.status in wanted.statuses, (outcome, wanted)
            assert outcome.origin == entry.handle.origin
            kind = wanted.exception
            if isinstance(kind, type):
                assert type(outcome.exception) is kind, (outcome, wanted)
            else:
                assert self.is_same(outcome.exception, kind), (outcome, wanted)
            assert math.isclose(outcome.start, wanted.start - began, abs_tol=1e-6), wanted
            if entry.mates:
                end = outcome.start + outcome.duration
                assert math.isclose(end, entry.end - began, abs_tol=1e-6), (outcome, wanted)
            entry.status = outcome.status.value
            cut_short = kind is lastly.CleanupTimeout or outcome.status in ("timed_out", "forced")
            if entry.plan.on_timeout is None or (outcome.status == "forced" and kind is None):
                assert entry.told == []
            elif cut_short:
                assert entry.told == ["on_timeout"], entry
        assert math.isclose(report.duration, self.clock.time - began, abs_tol=1e-6)
        assert report.failures == tuple(o for o in outcomes if o.status != "ok")
        assert report.ok is (not report.failures)
        assert report.to_dict()["outcomes"] == [o.to_dict() for o in outcomes]
        logged = [o.name for o in outcomes if o.exception is not None]
        assert len(self.log.failures) == len(logged), (self.log.failures, logged)
        told = [text.removeprefix("callback ").partition(" (/")[0] for text in self.log.failures]
        if len({id(e.place) for e in expected}) < len(expected):
            told, logged = sorted(told), sorted(logged)  # those of a place are logged as they fail
        assert told == logged

    def is_same(self, found: BaseException | None, wanted: BaseException | None) -> bool:
        if isinstance(wanted, BaseExceptionGroup) and self.grace is not None:
            # A scope of trio's that is cancelled lets out a copy.
            return getattr(found, "exceptions", None) == wanted.exceptions
        return found is wanted

    def in_the_order_of(self, outcomes: list[lastly.Outcome]) -> list[Expected]:
        """Sort what shared a place as it came out: the order in there is nobody's business."""
        names = [outcome.name for outcome in outcomes]
        order: list[Expected] = []
        for expected in self.expected:
            if expected in order:
                continue
            mates = [e for e in self.expected if e.place is expected.place]
            if len(mates) > 1:
                mates.sort(key=lambda e: names.index(e.entry.name) if e.entry.name in names else -1)
            order += mates
        return order

    def as_they_ended(self, outcomes: list[lastly.Outcome]) -> list[lastly.Outcome]:
        """Sort the outcomes by when the list saw them end, which differs in a place."""
        places: dict[int, int] = {}
        keys: dict[int, tuple[int, float]] = {}
        for outcome, wanted in zip(outcomes, self.in_the_order_of(outcomes), strict=True):
            place = places.setdefault(id(wanted.place), len(places))
            keys[id(outcome)] = place, wanted.entry.end if wanted.entry.mates else 0.0
        return sorted(outcomes, key=lambda outcome: keys[id(outcome)])

    def check_raised(self, raised: BaseException | None, *, in_task: bool = False) -> None:
        """Hold what came out of a scope or a close against R11 and R12."""
        report = self.manager.last_report() if self.expected else None
        outcomes = () if report is None else report.outcomes
        failures = [
            outcome
            for outcome in self.as_they_ended(list(outcomes))
            if outcome.exception is not None and outcome.status != "interrupted"
            if not any(outcome.exception is exception for exception in self.swallowed)
        ]
        leaving = self.leaving
        note = None
        if leaving is not None and (
            isinstance(leaving, type) or not isinstance(leaving, Exception)
        ):
            if isinstance(leaving, type):
                assert type(raised) is leaving, (raised, leaving)
            else:
                assert raised is leaving, (raised, leaving)
            if failures:
                note = f"{counted(failures, 'callback')} failed while this was on its way out"
        elif failures and self.errors == "last":
            final = failures[-1].exception
            if isinstance(final, StopIteration) and in_task:
                assert type(raised) is RuntimeError, raised  # no coroutine can raise it
                raised = raised.__cause__
            assert raised is final, (raised, final)
            if len(failures) > 1:
                note = f"{counted(failures[:-1], 'earlier failure')} in this unwind"
            if leaving is not None and not isinstance(final, Frozen):
                assert leaving in chain_of(final), (final, leaving, chain_of(final))
        elif failures and self.errors == "group":
            assert isinstance(raised, BaseExceptionGroup)
            assert list(raised.exceptions) == [o.exception for o in failures]
        else:
            assert raised is leaving, (raised, leaving)
        if note is not None and not isinstance(raised, Frozen):
            (own,) = [n for n in raised.__notes__ if n.startswith(f"lastly: {note}")]
            named = failures if "callback" in note else failures[:-1]
            assert all(o.name in own for o in named if o.status != "timed_out")
        elif raised is not None and not isinstance(raised, Frozen):
            assert not any(n.startswith("lastly: ") for n in getattr(raised, "__notes__", []))
        if self.expected:
            self.requested = None

    # -- the rules

    @initialize(errors=st.sampled_from(ERRORS))
    def start(self, errors: str) -> None:
        self.errors = errors
        self.manager.configure(errors=errors)

    @rule(
        grace=st.sampled_from(GRACES),
        timeout=st.sampled_from(TIMEOUTS),
        errors=st.sampled_from(ERRORS),
    )
    def configure(self, grace: float | None, timeout: float | None, errors: str) -> None:
        """R21, R20, R11: settings may change at any time."""
        self.grace = None if self.has_threads() else grace
        self.timeout, self.errors = timeout, errors
        self.manager.configure(grace=self.grace, timeout=timeout, errors=errors)

    @rule(
        plans=st.lists(plans("sync", *ASYNC, "thread"), min_size=1, max_size=3),
        how=st.sampled_from(["register", "defer", "decorate"]),
        shape=st.sampled_from(list(SHAPES)),
        key=st.integers(0, 2),
        inside=st.booleans(),
    )
    def register(self, plans: list[Plan], how: str, shape: str, key: int, inside: bool) -> None:
        def register() -> None:
            for plan in plans:
                self.add(plan, how, shape, key)

        if inside:
            self.inside(register)
        else:
            register()

    @precondition(lambda self: self.grace is None)
    @rule(plan=plans("stuck"))
    def defer_what_sticks(self, plan: Plan) -> None:
        plan = dataclasses.replace(plan, does=(), takes=None)
        self.add(plan, "defer", "function", 0)

    @rule(plan=plans("exit"), swallows=st.booleans())
    def enter(self, plan: Plan, swallows: bool) -> None:
        """R8: a context manager's exit is on the stack, too."""
        entry = self.make(plan)
        entry.swallows = swallows
        self.inside(functools.partial(self.entered, entry))

    def entered(self, entry: Entry) -> None:
        assert self.manager.enter_context(Manager(self, entry)) is entry
        self.is_entered(entry)

    def is_entered(self, entry: Entry) -> None:
        entry.handle = self.manager.pending()[0]
        entry.name, entry.func = entry.handle.name, object()  # nothing that one could name
        entry.home = home_here()
        self.stack.append([entry])

    @precondition(lambda self: self.loop is not None)
    @rule(plan=plans("aexit"), swallows=st.booleans())
    def enter_async(self, plan: Plan, swallows: bool) -> None:
        entry = self.make(plan)
        entry.swallows = swallows

        async def enter() -> None:
            assert await self.manager.enter_async_context(AsyncManager(self, entry)) is entry
            self.is_entered(entry)

        self.loop.run(enter)

    if TOGETHER:

        @rule(
            plans=st.lists(
                plans("sync", *ASYNC, *ASYNC, "thread", limits=False), min_size=1, max_size=4
            ),
            inside=st.booleans(),
        )
        def together(self, plans: list[Plan], inside: bool) -> None:
            """R4: what is registered inside shares one place on the stack."""

            def register() -> None:
                with self.manager.together():
                    threads = any(plan.kind == "thread" for plan in plans)
                    for plan in plans:
                        takes = plan.takes
                        if takes and (threads or not plan.is_async):
                            takes = 0  # or the others would begin at they do not know what time
                        calm = dataclasses.replace(plan, takes=takes, does=(), bitter=False)
                        self.add(calm, "defer", "function", 0)
                places = [self.stack.pop() for _ in plans]
                mates = [entry for place in reversed(places) for entry in place]
                self.stack.append(mates)
                for entry in mates:
                    entry.mates = mates.copy()

            if inside:
                self.inside(register)
            else:
                register()

    @rule(number=st.integers(0, 100))
    def cancel_a_handle(self, number: int) -> None:
        """R7: whatever has become of it meanwhile."""
        if self.entries:
            self.cancel(self.entries[-1 - number % len(self.entries)])

    @precondition(lambda self: self.stack)
    @rule(
        number=st.integers(0, 100),
        kind=st.sampled_from([None, None, Alike, Unlike, Jealous, Everything, Undecided]),
    )
    def unregister_some(self, number: int, kind: Any) -> None:
        """R6: what is equal goes, whatever its hash is, and if it has one at all."""
        pending = self.pending()
        if kind is None:
            self.unregister_it(pending[number % len(pending)])
        else:
            self.unregister(kind(number % 3, print))

    @rule(what=st.sampled_from(["time", "request", "nothing", "failing", "refused", "unknown"]))
    def else_happens(self, what: str) -> None:
        """R8, R28, R32: a request counts until it is done; what is refused leaves nothing."""
        match what:
            case "time":
                self.clock.advance(2.7519)
            case "request":
                self.request()  # for whoever unwinds next; its grace begins here
            case "nothing" if not self.stack:
                report = self.manager.last_report()
                self.manager.close()
                assert self.manager.last_report() is report
            case "failing":
                with pytest.raises(ZeroDivisionError):
                    self.manager.enter_context(contextlib.contextmanager(divides)())
            case "refused":
                for refused in (None, 1, divides):
                    with pytest.raises(TypeError):
                        self.manager.register(refused)
                with pytest.raises(ValueError, match="no duration"):
                    self.manager.defer(print, timeout=-1.0)
            case "unknown":
                self.unregister(len)

    @precondition(lambda self: self.loop is None)
    @rule()
    def open_a_loop(self) -> None:
        self.loop = type(self).new_loop()

    @precondition(lambda self: isinstance(self.loop, AsyncioLoop))
    @rule()
    def go_to_another_loop(self) -> None:
        """R14, R17: two are open at once, and each has callbacks at home in it."""
        self.loop, self.other = self.other or AsyncioLoop(), self.loop

    def is_anybody_at_home_in_the_other(self) -> bool:
        return any(self.other is not None and e.home is self.other.home for e in self.pending())

    @precondition(lambda self: self.loop is not None)
    @rule()
    def end_the_loop(self) -> None:
        """R14, R15: what is at home there unwinds, and nothing else."""
        loop, self.loop, self.other = self.loop, self.other, None
        raised: list[BaseException | None] = []
        self.pops = lambda entry: entry.home is loop.home
        self.unwind(lambda: raised.append(loop.end()), loop.home, None)
        self.pops = lambda entry: True
        assert not any(entry.home is loop.home for entry in self.pending())
        if isinstance(loop, AsyncioLoop):
            requested = self.requested
            self.check_raised(raised[0])
            self.requested = requested  # others have yet to run for that
        else:
            assert raised == [None]

    @precondition(lambda self: self.stack)
    @precondition(lambda self: self.loop is None or isinstance(self.loop, AsyncioLoop))
    @rule(body=st.sampled_from(BODIES), scope=st.booleans())
    def close(self, body: type[BaseException] | None, scope: bool) -> None:
        """R13, R18: from outside of any loop; what is at home in one is run there."""
        exception = body() if body is not None and scope else None
        raised: list[BaseException | None] = []

        def how() -> None:
            try:
                if not scope:
                    self.manager.close()
                else:
                    with self.manager:
                        if exception is not None:
                            raise exception
            except BaseException as exc:
                raised.append(exc)

        self.unwind(how, None, exception)
        assert self.stack == []
        self.check_raised(raised[0] if raised else None)

    @precondition(lambda self: self.stack and not self.is_anybody_at_home_in_the_other())
    @rule(
        how=st.sampled_from(["aclose", "scope", "lifespan"]),
        body=st.sampled_from(BODIES),
        twice=st.booleans(),
        scope=st.booleans(),
    )
    def close_inside(
        self, how: str, body: type[BaseException] | None, twice: bool, scope: bool
    ) -> None:
        """R13, R18: from inside a loop, in a scope or not, and from two tasks at once."""
        exception = body() if body is not None and how != "aclose" else None
        loop = type(self).new_loop() if self.loop is None else self.loop
        raised: list[BaseException | None] = []
        joined: list[BaseException | None] = []

        async def closes() -> None:
            self.is_closing_task = isinstance(loop, AsyncioLoop)
            with anyio.CancelScope() as around:
                self.scope = around if scope else None
                try:
                    if how == "aclose":
                        await self.manager.aclose()
                    else:
                        async with self.manager if how == "scope" else self.manager.lifespan():
                            if exception is not None:
                                raise exception
                    raised.append(None)
                except BaseException as exc:
                    raised.append(exc)

        async def joins() -> None:
            if raised:
                return
            try:
                await self.manager.aclose()
                joined.append(None)
            except BaseException as exc:
                joined.append(exc)

        async def job() -> None:
            if not twice:
                await closes()
                return
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(closes)
                await anyio.lowlevel.checkpoint()
                tasks.start_soon(joins)

        try:
            self.unwind(lambda: loop.run(job), loop.home, exception)
        finally:
            if self.loop is None:
                assert loop.end() is None
        assert self.stack == []
        assert len(raised) == 1
        self.check_raised(raised[0], in_task=True)
        if joined and self.leaving is None:
            assert joined[0] is raised[0] or isinstance(raised[0], RuntimeError)

    def unwind_all(self, body: type[BaseException] | None = None) -> None:
        """Unwind in a scope, by whichever way is open."""
        if isinstance(self.loop, TrioLoop):
            self.close_inside("scope", body, twice=False, scope=False)
        else:
            self.close(body, scope=True)

    def has_threads(self) -> bool:
        return any(e.plan.kind in ("stuck", "thread") for e in self.pending())

    @precondition(lambda self: not self.has_threads())
    @rule(
        plan=plans(*ASYNC),
        takes=st.sampled_from([0, 2.7519, 2.7519, 7.7391]),
        grace=st.sampled_from([3.1, 8.9, 20.3]),
        requested=st.booleans(),
        passes=st.sampled_from([0.0, 4.0, 13.0]),
    )
    def hurry(self, plan: Plan, takes: float, grace: float, requested: bool, passes: float) -> None:
        """R21, R25, R28: of a grace that began with a request, if there was one; and again."""
        for asked in (requested, False):
            self.configure(grace, None, "log" if requested else "last")
            self.add(slow(plan, takes), "defer", "function", 0)
            if asked:
                self.request()
            self.clock.advance(passes)
            self.unwind_all()

    @rule(plan=plans("thread", *ASYNC), late=st.booleans(), below=plans("sync"))
    def fail_in_a_scope(self, plan: Plan, late: bool, below: Plan) -> None:
        """R12: also what Python itself would not chain: of a thread, or a timeout."""
        if self.stack:
            self.unwind_all()
        self.configure(None, None, "last")
        self.add(slow(below, 0), "defer", "function", 0)
        plan = dataclasses.replace(slow(plan, 2.7519, "error"), timeout=0.4 if late else None)
        self.add(plan, "defer", "function", 0)
        self.unwind_all(ValueError)

    @precondition(lambda self: not self.is_anybody_at_home_in_the_other())
    @rule(
        plan=plans("async"),
        raises=st.sampled_from(["error", "interrupt", "frozen", "cancelled"]),
        swallows=st.booleans(),
        errors=st.sampled_from(ERRORS),
        body=st.sampled_from([None, ValueError, SystemExit]),
    )
    def take_a_cancellation_for_ones_own(
        self,
        plan: Plan,
        raises: str,
        swallows: bool,
        errors: str,
        body: type[BaseException] | None,
    ) -> None:
        """R8, R12, R18: what an exit makes of a cancellation, which an error gives way to."""
        self.configure(None, None, errors)
        calm = Plan("exit", None, None, (), bitter=False)
        self.enter(calm, swallows)
        self.enter(dataclasses.replace(calm, raises=raises, bitter=raises != "cancelled"), False)
        canceller = dataclasses.replace(slow(plan, 0), does=("cancel the task",), timeout=None)
        self.add(canceller, "defer", "function", 0)
        self.close_inside("scope", body, twice=False, scope=False)

    @precondition(
        lambda self: (
            self.stack and self.loop is not None and not self.is_anybody_at_home_in_the_other()
        )
    )
    @rule()
    def close_where_it_cannot_await(self) -> None:
        """R13: close() inside a loop runs what is sync, and stops where it would await."""
        foreseen = any(e.plan.kind in ("async", "partial", "aexit") for e in self.pending())
        surprises = any(
            e.plan.kind in ("lambda", "awaitable") or e.plan.does for e in self.pending()
        )
        if self.has_threads() or (surprises and not foreseen):
            return
        raised: list[BaseException] = []

        async def job() -> None:
            try:
                self.manager.close()
            except BaseException as exc:
                raised.append(exc)

        self.unwind(lambda: self.loop.run(job), "refuses" if not foreseen else None, None)
        if foreseen:
            assert self.expected == []
            (error,) = raised
            assert type(error) is RuntimeError
            assert "did you forget `await aclose()`" in str(error)
        else:
            self.check_raised(raised[0] if raised else None)

    # -- what always holds

    @invariant()
    def they_agree(self) -> None:
        """R1, R3, R7: the same are pending, in the same order, and their handles say so."""
        type(self).steps += 1
        assert not self.problems, self.problems
        pending = self.pending()
        told = self.manager.pending()
        assert len(told) == len(pending)
        if all(len(place) == 1 for place in self.stack):
            assert list(told) == [entry.handle for entry in pending]
        assert set(told) == {entry.handle for entry in pending}
        for entry in self.entries:
            assert entry.handle is not None
            assert entry.handle.status == entry.status, (entry.handle, entry)
            assert entry.runs <= 1, entry
            assert entry.calls == entry.runs, entry
            assert (entry.runs == 1) is (entry.status not in ("pending", "cancelled")), entry
        assert f"{len(pending)} pending" in repr(self.manager)

    def teardown(self) -> None:
        try:
            if not self.is_broken:
                while self.loop is not None:
                    self.end_the_loop()
                if self.stack:
                    self.close(None, scope=False)
                self.they_agree()
        finally:
            # A machine that broke leaves nothing to the interpreter's exit, which would wait for
            # a time that nobody moves any more.
            for registration in self.manager.pending():
                registration.cancel()
            self.manager._settings.clock = RealClock()
            for loop in (self.loop, self.other):
                if loop is not None:
                    loop.end()
            self.logger.removeHandler(self.log)
            self.logger.setLevel(self.level)
            self.logger.propagate = True


class Await:
    """An awaitable that is no coroutine."""

    def __init__(self, body: Callable[[], Awaitable[None]]) -> None:
        self.body = body

    def __await__(self) -> Iterator[Any]:
        return self.body().__await__()  # type: ignore[return-value]


class Manager:
    def __init__(self, machine: Machine, entry: Entry) -> None:
        self.machine = machine
        self.entry = entry

    def __enter__(self) -> Entry:
        return self.entry

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> bool:
        return self.machine.exit(self.entry, exc)


class AsyncManager(Manager):
    async def __aenter__(self) -> Entry:
        return self.entry

    async def __aexit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> bool:
        return self.machine.exit(self.entry, exc)


def divides() -> Iterator[None]:
    yield 1 / 0


def counted(things: list[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def chain_of(exception: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while exception is not None:
        assert exception not in chain, "a cycle"
        chain.append(exception)
        exception = exception.__context__
    return chain


class AsyncioMachine(Machine):
    new_loop = AsyncioLoop


class TrioMachine(Machine):
    new_loop = TrioLoop


@pytest.mark.slow
@pytest.mark.parametrize("machine", [AsyncioMachine, TrioMachine])
def test_the_manager_agrees_with_a_plain_list(machine: type[Machine]) -> None:
    """R1 to R15, R18, R20 to R22, R25, R28, R29: whatever is done to it, and in what order."""
    steps = int(os.environ.get("LASTLY_STEPS", "0"))
    machine.steps = 0
    settings = hypothesis.settings(
        max_examples=max(1, steps // 80) if steps else 80,
        stateful_step_count=40,
        derandomize=not steps,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    while machine.steps <= steps // 2:
        run_state_machine_as_test(machine, settings=settings)
    print(f"{machine.__name__}: {machine.steps} steps")
