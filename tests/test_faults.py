"""Faults at every step of a small program, and surroundings that are broken."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

import lastly

FAULTS = {
    "error": lambda: ValueError("fault"),
    "cancelled": lambda: asyncio.CancelledError("fault"),
    "interrupt": lambda: KeyboardInterrupt("fault"),
    "exit": lambda: SystemExit("fault"),
    "generator exit": lambda: GeneratorExit("fault"),
    "group": lambda: BaseExceptionGroup("fault", [KeyboardInterrupt(), ValueError()]),
}


class Steps:
    """Await a coroutine, and do something each time that it yields to the event loop.

    Where `fault` returns an exception, that is what comes of the await.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        act: Callable[[int], object],
        fault: Callable[[int], BaseException | None] = lambda _: None,
    ) -> None:
        self.coroutine = coroutine
        self.act = act
        self.fault = fault
        self.count = 0

    def __await__(self) -> Generator[Any, Any, None]:
        value = error = None
        while True:
            try:
                if error is None:
                    yielded = self.coroutine.send(value)
                else:
                    yielded = self.coroutine.throw(error)
            except StopIteration:
                return
            self.count += 1
            self.act(self.count)
            value = error = None
            try:
                value = yield yielded
            except BaseException as exc:
                error = exc
            error = self.fault(self.count) or error


class Program:
    """A small program: a scope with callbacks of each kind, and a body that waits."""

    def __init__(self, manager: Any, point: Callable[[int], object] = lambda _: None) -> None:
        self.manager = manager
        self.registered: list[str] = []
        self.ran: list[str] = []
        self.ended: list[str] = []
        self.points = 0
        self.act = point
        self.raised: BaseException | None = None
        self.threads = True

    async def point(self) -> None:
        self.point_sync()
        await anyio.lowlevel.checkpoint()

    def point_sync(self) -> None:
        self.points += 1
        self.act(self.points)

    def sync(self, name: str) -> None:
        self.ran.append(name)
        self.point_sync()
        self.ended.append(name)

    async def asynchronous(self, name: str) -> None:
        self.ran.append(name)
        await self.point()
        await self.point()
        self.ended.append(name)

    async def __aenter__(self) -> None:
        await self.point()

    async def __aexit__(self, *exc: object) -> None:
        await self.asynchronous("exit")

    def defer(self, func: Callable[..., object], name: str, **options: Any) -> None:
        self.manager.defer(func, name, name=name, **options)
        self.registered.append(name)

    async def register(self) -> None:
        self.defer(self.sync, "sync")
        self.defer(self.asynchronous, "async")
        await self.manager.enter_async_context(self)
        self.registered.append("exit")
        self.defer(self.sync, "thread", thread=self.threads)
        self.defer(self.asynchronous, "limited", timeout=600)
        await self.point()
        self.defer(lambda name: self.asynchronous(name), "lambda")
        await self.point()

    async def main(self) -> None:
        try:
            async with self.manager:
                await self.register()
        except BaseException as exc:
            self.raised = exc

    def check(self) -> dict[str, str]:
        """Each has run once, in order, and is in the report; return how they ended."""
        assert self.ran == self.registered[::-1]
        assert self.manager.pending() == ()
        if not self.registered:
            return {}
        outcomes = self.manager.last_report().outcomes
        assert [o.name.rpartition(".")[2] for o in outcomes] == [
            "Program" if name == "exit" else name for name in self.ran
        ]
        return {
            name: outcome.status.value for name, outcome in zip(self.ran, outcomes, strict=True)
        }


def run(backend: Any, function: Callable[[], Any]) -> Any:
    name, options = backend
    return anyio.run(function, backend=name, backend_options=options)


def steps_of(backend: Any, act: Callable[[int], object], program: Program) -> int:
    async def main() -> int:
        steps = Steps(program.main(), act)
        await steps
        return steps.count

    return run(backend, main)


@pytest.mark.parametrize("fault", FAULTS)
def test_raise_at_every_point(manager: lastly.ShutdownManager, anyio_backend, fault: str) -> None:
    """R3, R9, R11, R12: whatever is raised wherever, all run, and that object comes out."""
    program = Program(manager)
    run(anyio_backend, program.main)
    assert set(program.check().values()) == {"ok"}
    assert program.points > 10
    for number in range(1, program.points + 1):
        exception = FAULTS[fault]()

        def raises(count: int, number: int = number, exception: BaseException = exception) -> None:
            if count == number:
                raise exception

        again = Program(manager, raises)
        run(anyio_backend, again.main)
        statuses = again.check()
        assert again.raised is exception, number
        unended = [name for name in again.ran if name not in again.ended]
        assert [name for name in statuses if statuses[name] != "ok"] == unended
        assert len(unended) <= 1
        assert {statuses[name] for name in unended} <= {"failed"}


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "generator exit"])
def test_every_await_can_fail(manager: lastly.ShutdownManager, anyio_backend, fault: str) -> None:
    """R3, R9, R11, R12: whatever comes of an await, lastly's own included, all run, and it goes on.

    Not with GeneratorExit, after which a coroutine may not await at all.
    """
    count = steps_of(anyio_backend, lambda _: None, Program(manager))
    for number in range(1, count + 1):
        again, exception = Program(manager), FAULTS[fault]()

        async def main(
            number: int = number, again: Program = again, exception: BaseException = exception
        ) -> None:
            await Steps(
                again.main(), lambda _: None, lambda step: exception if step == number else None
            )

        run(anyio_backend, main)
        statuses = again.check()
        assert again.raised is exception, number
        assert set(statuses.values()) <= {"ok", "failed"}
        assert list(statuses.values()).count("failed") <= 1
    assert count > 10


def test_cancel_at_every_step(manager: lastly.ShutdownManager, anyio_backend) -> None:
    """R3, R18: a scope that is cancelled at any step of its task spares all callbacks."""
    program = Program(manager)
    count = steps_of(anyio_backend, lambda _: None, program)
    for number in range(1, count + 1):
        again = Program(manager)

        async def main(number: int = number, again: Program = again) -> bool:
            with anyio.CancelScope() as scope:
                await Steps(again.main(), lambda n: n == number and scope.cancel())
                if again.raised is not None:
                    raise again.raised
            return scope.cancelled_caught

        caught = run(anyio_backend, main)
        statuses = again.check()
        # An exit is not shielded (R8), and it may come too late for all.
        assert {statuses[name] for name in statuses if name != "exit"} <= {"ok"}
        assert statuses.get("exit", "ok") in ("ok", "interrupted")
        assert caught is (again.raised is not None)
        assert caught or again.registered[-1] == "lambda"


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_cancel_the_task_at_every_step(manager: lastly.ShutdownManager, use_uvloop: bool) -> None:
    """R3, R18: task.cancel() interrupts one callback at most, and goes on afterwards."""
    backend = ("asyncio", {"use_uvloop": use_uvloop})
    count = steps_of(backend, lambda _: None, Program(manager))
    interrupted = 0
    for number in range(1, count + 1):
        again = Program(manager)

        def cancel(step: int, number: int = number) -> None:
            if step == number:
                asyncio.current_task().cancel("fault")

        async def main(again: Program = again, cancel: Any = cancel) -> None:
            await Steps(again.main(), cancel)

        run(backend, main)
        statuses = list(again.check().values())
        assert type(again.raised) is asyncio.CancelledError, number
        assert set(statuses) <= {"ok", "interrupted"}
        assert statuses.count("interrupted") <= 1
        interrupted += statuses.count("interrupted")
    assert interrupted


@pytest.mark.parametrize("twice", [False, True])
def test_a_signal_at_every_point(
    anyio_backend, twice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3, R22, R25, R26: whenever it comes, all run once, in order, and the status tells of it."""
    name, options = anyio_backend
    number = points = 1
    while number <= points:

        def kill(count: int, number: int = number) -> None:
            if count == number or (twice and count == number + 1):
                signal.raise_signal(signal.SIGTERM)

        program = Program(lastly, kill)
        program.threads = not twice  # one that is left behind may begin after the next
        with pytest.raises((SystemExit, lastly.CleanupTimeout)) as caught:
            lastly.run(program.register, backend=name, backend_options=options)
        statuses = program.check()
        if isinstance(caught.value, SystemExit):
            assert caught.value.code == 143
            assert set(statuses.values()) <= ({"ok", "forced"} if twice else {"ok"})
        else:
            assert twice
            assert set(statuses.values()) <= {"ok", "forced"}
        points = max(points, program.points)
        number += 1
    assert number > 10


class Turns(asyncio.SelectorEventLoop):
    """A loop that does something each time that it turns."""

    act: Callable[[], object]

    def _run_once(self) -> None:
        self.act()
        super()._run_once()  # type: ignore[misc]


class TrioTurns(trio.abc.Instrument):
    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.act()


def turns_of(backend: str, act: Callable[[], object]) -> dict[str, Any]:
    """Return the options of a backend with which it does this at every turn, or task's step."""
    if backend == "trio":
        return {"instruments": [TrioTurns(act)]}
    return {"loop_factory": type("Loop", (Turns,), {"act": staticmethod(act)})}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("again", [None, 1, 4])
def test_a_signal_at_every_turn_of_the_loop(backend: str, again: int | None) -> None:
    """R3, R22, R25, R26: the same in the middle of lastly's own awaits, and of the backend's."""
    number, most = 1, 1
    while number <= most:
        count = sent = 0

        def act(number: int = number) -> None:
            nonlocal count, sent
            count += 1
            if count == number or (again is not None and count == number + again):
                sent += 1
                signal.raise_signal(signal.SIGTERM)

        program = Program(lastly)
        program.threads = again is None
        ended: BaseException | None = None
        try:
            lastly.run(program.register, backend=backend, backend_options=turns_of(backend, act))
        except (SystemExit, lastly.CleanupTimeout) as exc:
            ended = exc
        statuses = set(program.check().values())
        assert (ended is not None) is (sent > 0), (number, ended)
        assert not isinstance(ended, SystemExit) or ended.code == 143
        assert statuses <= ({"ok"} if sent < 2 else {"ok", "forced"}), number
        assert sent == 2 or not isinstance(ended, lastly.CleanupTimeout)
        most = max(most, count)
        number += 1
    assert number > 15


def test_collecting_garbage_changes_nothing(manager: lastly.ShutdownManager, anyio_backend) -> None:
    """R3: neither at every step and point, nor at every allocation."""
    program = Program(manager, lambda _: gc.collect())
    threshold = gc.get_threshold()
    gc.freeze()  # what is older than the program is none of its business
    gc.set_threshold(1)
    try:
        steps_of(anyio_backend, lambda _: gc.collect(), program)
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()
    assert set(program.check().values()) == {"ok"}
    assert program.raised is None
    assert program.ended == program.ran


# -- surroundings that are broken -----------------------------------------------------------

BREAK = {
    "closed": "sys.stderr.close()",
    "gone": "os.close(2)",
    "None": "sys.stderr = None",
    "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
    "raises": "sys.stderr = type('Odd', (), {'write': lambda self, text: 1 / 0})()",
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("end", ["asyncio.run(main())", ""])
def test_a_stderr_that_takes_nothing(run_child, tmp_path: Path, how: str, end: str) -> None:
    """R9, R10, R31: what cannot be logged is no reason to stop; nor is a disk full for the report."""
    target = tmp_path / "target"
    target.mkdir()
    ended = run_child(
        f"""
        import asyncio, os, resource, sys, time, lastly
        {BREAK[how]}
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))

        def fails():
            time.sleep(0.02)
            raise ValueError("its own")

        async def waits():
            await asyncio.sleep(0.02)
            fails()

        def register():
            lastly.configure(slow_after=0.005)
            lastly.defer(print, "bottom")
            lastly.register(fails)
            lastly.register(waits)
            lastly.defer(print, "top")

        async def main():
            register()

        if not {end!r}.startswith("asyncio"):
            register()
        {end}
        """,
        LASTLY_REPORT=str(target / "report.json"),
        COVERAGE_PROCESS_CONFIG="",  # its file would be cut off as well
        expect=None,
    )
    assert ended.out == ["top", "bottom"]
    assert os.listdir(target) == []
    # 120 is Python's own, for a stderr that cannot be flushed.
    assert ended.returncode in ((1, 120) if end else (0, 120))


class Stubborn(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise ZeroDivisionError
        return super().__getattribute__(name)


class Unreadable:
    """A callable that raises whatever is asked of it, but when it is called."""

    def __init__(self, calls: list[str]) -> None:
        object.__setattr__(self, "calls", calls)

    def __getattribute__(self, name: str) -> object:
        if name == "__class__":  # without which it is refused when it is registered
            return Unreadable
        raise ZeroDivisionError

    def __call__(self) -> None:
        object.__getattribute__(self, "calls").append("called")
        raise Mute

    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


class UnreadableKind(metaclass=Stubborn):
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def __call__(self) -> None:
        self.calls.append("called")


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__

    def add_note(self, note: str) -> None:
        raise ZeroDivisionError


class OddName(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise ZeroDivisionError

    def __format__(self, spec: str) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


@pytest.mark.parametrize("suffix", ["jsonl", "json", "svg", "txt"])
async def test_callbacks_that_cannot_be_read(
    manager: lastly.ShutdownManager, tmp_path: Path, suffix: str
) -> None:
    """R7, R9, R29: no name, no repr, no text: they run, and are told of as well as it goes."""
    calls: list[str] = []
    manager.defer(calls.append, "bottom")
    handles = [
        manager.defer(Unreadable(calls)),
        manager.defer(Unreadable(calls)),
        manager.defer(UnreadableKind(calls)),
        manager.defer(calls.append, "called", name=OddName("odd")),
    ]
    assert all(map(repr, handles))
    path = tmp_path / f"report.{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTLY_REPORT", str(path))
        with pytest.raises(Mute):
            await manager.aclose()
    assert calls == ["called"] * 4 + ["bottom"]
    assert [o.status for o in manager.last_report().outcomes] == [
        "ok",
        "ok",
        "failed",
        "failed",
        "ok",
    ]
    assert path.exists()
    assert str(manager.last_report())


class Broken(logging.Handler):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        raise self.error("the handler's")


@pytest.mark.parametrize("error", [ValueError, RecursionError, MemoryError])
async def test_a_handler_that_always_raises(
    manager: lastly.ShutdownManager, error: type[Exception]
) -> None:
    """R10, R11, R23: neither the failures' nor the watch's lines need to arrive."""
    manager.configure(slow_after=0.001)
    calls: list[str] = []
    handler = Broken(error)
    logging.getLogger("lastly").addHandler(handler)

    async def fails() -> None:
        while not handler.count:
            await anyio.sleep(0.001)
        raise KeyError("its own")

    try:
        manager.defer(calls.append, "bottom")
        manager.register(fails)
        with pytest.raises(KeyError):
            await manager.aclose()
    finally:
        logging.getLogger("lastly").removeHandler(handler)
    assert handler.count >= 2
    assert calls == ["bottom"]


def test_a_home_that_cannot_be_shown(manager: lastly.ShutdownManager) -> None:
    """R7: a loop whose repr raises is named by its type."""

    class Loop(asyncio.SelectorEventLoop):
        def __repr__(self) -> str:
            raise ZeroDivisionError

    async def main() -> None:
        handle = manager.defer(int)
        assert "Loop object at" in repr(handle)
        with pytest.raises(ZeroDivisionError):
            repr(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    assert manager.last_report().ok
