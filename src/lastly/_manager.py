"""ShutdownManager: one stack and its settings, its triggers, one unwind at a time.

Joins the modules below it; nothing but _run and __init__ may import it.
"""

from __future__ import annotations

import os
import sys
from contextlib import AsyncContextDecorator, ContextDecorator
from functools import partial
from threading import current_thread
from types import MethodType

from . import _homes, _interpreter, _loops, _together
from ._aside import aside
from ._backends import cancel_status, current_home, current_task, wait
from ._checks import (
    check_callback,
    checked_errors,
    checked_options,
    checked_seconds,
    checked_text,
    context_methods,
    refuse_options,
)
from ._errors import inform, reraise, warn
from ._guard import Guard
from ._ladder import Ladder, signals
from ._outcome import Reason, Status
from ._place import run_place
from ._registration import Exit, Options, Registration, looks_async, qualified_name
from ._runners import HomeRunner
from ._settings import Settings
from ._stack import Stack
from ._unwind import Unwind, drive, drive_sync, in_progress, inside
from ._watch import watchman

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import FrameType, TracebackType
    from typing import Any, ParamSpec, Self, TypeVar, TypeVarTuple, overload

    from ._outcome import Report
    from ._settings import Errors
    from ._stack import Wanted
    from ._unwind import Pop

    P = ParamSpec("P")
    T = TypeVar("T")
    F = TypeVar("F", bound=Callable[[], object])
    Ts = TypeVarTuple("Ts")
else:
    overload = staticmethod  # what it decorates is discarded, and typing stays unloaded

_PENDING = Status.PENDING


class _Nothing:
    # None is a thing that people pass, by mistake or to say "none".
    def __repr__(self) -> str:
        return "<not given>"


_NOTHING: Any = _Nothing()

# In a forked child: not to be finalised, either, for what they own is still the parent's.
_of_the_parent: list[Registration] = []


class ShutdownManager:
    """Keep cleanup callbacks, sync and async, on one stack and run them newest first.

    It unwinds when it is closed, when a `with` or `async with` block of it ends, when an
    event loop that something was registered in is torn down (that loop's registrations),
    and when the interpreter exits. Each registration runs exactly once or was cancelled
    (R3), and nothing that a callback raises stops the others (R9). Afterwards the manager
    is open again.

    `name` is for its repr. `grace` is the seconds that one unwind may take in all, of which
    no callback gets more than four fifths of what is left (R21); when it is used up, the rest
    is forced (R22). `timeout` is the default for callbacks that were given none. What takes
    longer than `slow_after` seconds is logged with where it is, and again at doubling
    intervals (R23). None stands for no limit, and for no such log.

    `errors` says what comes out when callbacks have failed; each failure is logged in any
    case, at ERROR on the logger "lastly". "last" raises the final exception, with a note on
    the earlier ones; "group" raises a `BaseExceptionGroup` of them all; "log" raises
    nothing.

    Raises `TypeError` or `ValueError` for options of a wrong type or value.

    >>> with ShutdownManager("greetings") as manager:
    ...     handle = manager.defer(print, "goodbye")
    ...     print("hello")
    hello
    goodbye
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        grace: float | None = None,
        timeout: float | None = None,
        slow_after: float | None = 5.0,
        errors: Errors = "last",
    ) -> None:
        self.name: str | None = checked_text("name", name)
        self._settings = Settings()
        self.configure(grace=grace, timeout=timeout, slow_after=slow_after, errors=errors)
        self._stack = Stack()
        self._tied: dict[object, Callable[[], object]] = {}  # and how to untie
        self._last_report: Report | None = None
        self._blocks: dict[_together.Block, None] = {}  # that are open
        self._ladder = Ladder(around=signals)
        # Holds the unwind in progress. dict.setdefault is atomic (see Stack): no lock.
        self._current: dict[None, Unwind] = {}

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name!r}"
        return f"<ShutdownManager{name}, {len(self.pending())} pending>"

    # -- registering ------------------------------------------------------------------

    def register(
        self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Callable[P, T]:
        """Register a callback as `atexit.register` does, sync or async; return it.

        The arguments are the callback's own. It is async if its call returns an
        awaitable, whatever kind of callable it is (R5), and belongs to the event loop
        that is running in this thread now, or else to the interpreter. Works as a
        decorator. For a name, or a handle that cancels, use `defer`.

        Raises `TypeError` if `func` cannot be called, or is a generator function, which
        does nothing when it is; and then registers nothing.

        >>> manager = ShutdownManager()
        >>> @manager.register
        ... async def close_pool():
        ...     print("pool closed")
        >>> manager.close()
        pool closed
        """
        check_callback("register", func)
        options = Options(kwargs=kwargs) if kwargs else None
        self._push(_caller(), func, args, options=options)
        return func

    def unregister(self, func: Callable[..., object], /) -> None:
        """Take off every registration whose callback equals `func`, as `atexit.unregister`.

        It does not matter by which verb they were made, nor whether there are any. May be
        called from inside a callback.

        >>> manager = ShutdownManager()
        >>> _ = manager.register(print)
        >>> manager.unregister(print)
        >>> manager.pending()
        ()
        """
        for registration in self._stack.find(func):
            registration.cancel()

    @overload
    def defer(
        self,
        func: Callable[[*Ts], object],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        on_timeout: Callable[[], object] | None = None,
        thread: bool = False,
        before_threads: bool = False,
    ) -> Registration: ...
    @overload
    def defer(
        self,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        on_timeout: Callable[[], object] | None = None,
        thread: bool = False,
        before_threads: bool = False,
    ) -> Callable[[F], F]: ...
    # mypy 2 finds no implementation that takes every TypeVarTuple.
    def defer(  # type: ignore[misc]
        self,
        func: Any = _NOTHING,
        /,
        *args: Any,
        name: str | None = None,
        timeout: float | None = None,
        on_timeout: Callable[[], object] | None = None,
        thread: bool = False,
        before_threads: bool = False,
        **unknown: object,
    ) -> Any:
        """Register a callback with options; return its handle.

        `defer(func, *args, ...)`, or `@defer(...)` above the function, which it returns.
        Positional arguments are the callback's, keywords are options, as in
        `loop.call_soon`; `functools.partial` carries keyword arguments.

        `name` is what logs and reports call it, instead of the function's qualified name.

        `timeout`, in seconds, overrides the manager's. Past it an async callback is
        cancelled, and its outcome is a `CleanupTimeout` that says where it was waiting.
        Then `on_timeout()`, sync or async, runs in its place under the same limit (R20).
        `math.inf` is no limit. A callback that refuses to be cancelled is still waited for,
        and logged.

        `thread=True` calls a sync callback in a daemon thread of its own: the event loop
        goes on meanwhile, and past its timeout the callback is abandoned there, since no
        sync call can be ended from outside.

        `before_threads=True` is for a callback that ends a thread which is no daemon: at
        interpreter exit it runs before the interpreter waits for such threads, and so before
        callbacks without it (R16). In other unwinds it changes nothing.

        Raises `TypeError` as `register` does, `TypeError` or `ValueError` for an unknown option
        or one of a wrong type or value, and `TypeError` for a timeout on a callback that is
        known to be sync and has no `thread=True`; and then registers nothing.

        >>> manager = ShutdownManager()
        >>> handle = manager.defer(print, "bye", name="greeting")
        >>> handle.name
        'greeting'
        >>> handle.cancel()
        True
        """
        if unknown:
            refuse_options(unknown)
        name = checked_text("name", name)
        if func is not _NOTHING:
            check_callback("defer", func)
            checked = checked_options(func, timeout, on_timeout, thread, before_threads)
            return self._push(_caller(), func, args, name=name, options=checked)
        options = timeout, on_timeout, thread, before_threads
        checked_options(None, *options)  # where they were written

        def decorator(func: F) -> F:
            check_callback("defer", func)
            self._push(_caller(), func, name=name, options=checked_options(func, *options))
            return func

        return decorator

    def enter_context(self, cm: AbstractContextManager[T], /) -> T:
        """Enter a context manager now, put its exit on the stack, and return its value.

        The exit is told of the exception that leaves the manager's own `with` block, or of
        what an exit that ran before it has raised, as in nested `with`; of the failures of
        callbacks it is not. It may swallow what it is told. If it raises another exception,
        both are failures, unless they share one, as a task group's does that is made of what
        it was told: then the first is a part of the second. If entering fails, nothing is
        registered (R8).

        Raises `TypeError` for anything but a context manager.

        >>> manager = ShutdownManager()
        >>> import contextlib
        >>> manager.enter_context(contextlib.nullcontext(7))
        7
        >>> manager.close()
        """
        enter, exit_ = context_methods(cm, "enter_context", "__enter__", "__exit__")
        self._refuse_together("enter_context")
        frame, name = _caller(), _name_of(cm)
        value: T = enter(cm)
        self._push_exit(MethodType(exit_, cm), name, frame)
        return value

    async def enter_async_context(self, acm: AbstractAsyncContextManager[T], /) -> T:
        """Enter an async context manager now, put its exit on the stack, return its value.

        The exit runs as `async with` would run it: in the task that unwinds, under no
        cancel scope of lastly's, so that an anyio task group works. `enter_context` says
        what it is told. If entering fails, nothing is registered (R8).

        Raises `TypeError` for anything but an async context manager.

        >>> import asyncio, contextlib
        >>> async def main():
        ...     async with ShutdownManager() as manager:
        ...         print(await manager.enter_async_context(contextlib.nullcontext(7)))
        >>> asyncio.run(main())
        7
        """
        enter, exit_ = context_methods(acm, "enter_async_context", "__aenter__", "__aexit__")
        self._refuse_together("enter_async_context")
        around_it = inside.get()
        if around_it and around_it[-1].is_member and around_it[-1].guard.task is current_task():
            raise RuntimeError(
                "enter_async_context() was called by a callback of together(), whose task ends "
                "before the exit of what it enters would run; write `async with` there"
            )
        frame, name = _caller(), _name_of(acm)
        around = cancel_status()
        value: T = await enter(acm)
        holds_scope = cancel_status() is not around
        self._push_exit(MethodType(exit_, acm), name, frame, around if holds_scope else None)
        return value

    def together(self) -> AbstractContextManager[None]:
        """Let what is registered inside the block share one place on the stack (R4).

        When it is the turn of that place, its members run side by side: all are called, the
        newest first, and what they return is awaited concurrently, each in a task of its own;
        those with `thread=True` run in their threads meanwhile. The place is done when all of
        them are, and one's failure does not cancel the others. Once its turn has come none of
        them can be taken back, whether it was called yet or not. Each keeps its own timeout,
        and each has its own outcome in the report.

        A block inside of another one adds to the place of that, and an empty one is nothing.
        It holds for the code in the block and the tasks that it starts, while it is open.
        Context managers cannot be entered in it: `enter_context` and `enter_async_context`
        raise `RuntimeError`, as the latter does in a member's own task.

        Members run side by side on the loops that run already, and on one that does not. If
        they belong to more loops that nobody runs, these are run one after the other.

        >>> import asyncio
        >>> async def close(name):
        ...     await asyncio.sleep(0)
        ...     print(name, "closed")
        >>> async def main():
        ...     async with ShutdownManager() as manager:
        ...         manager.defer(print, "all closed")
        ...         with manager.together():
        ...             manager.defer(close, "cache")
        ...             manager.defer(close, "queue")
        >>> asyncio.run(main())
        queue closed
        cache closed
        all closed
        """
        return _together.opened(self, self._blocks)

    def pending(self) -> tuple[Registration, ...]:
        """Return the registrations that have yet to run, newest first.

        >>> ShutdownManager().pending()
        ()
        """
        return self._stack.newest_first()

    def _refuse_together(self, verb: str) -> None:
        if self._blocks and _together.open_block(self) is not None:
            raise RuntimeError(
                f"{verb}() was called inside of together(), but the exit of a context manager runs "
                "alone, in the task that unwinds; write it before or after that block"
            )

    def _push_exit(
        self, func: Callable[..., object], name: str, frame: FrameType, around: object = None
    ) -> None:
        around_it = inside.get()
        guard = around_it[-1].guard if around_it else None
        shielding = guard if isinstance(guard, Guard) and guard.scope is not None else None
        exit_ = Exit(shielding, around=around)
        self._push(frame, func, name=name, options=Options(exit_=exit_))

    def _push(
        self,
        frame: FrameType,
        func: Any,
        args: tuple[object, ...] = (),
        name: str | None = None,
        options: Options | None = None,
    ) -> Registration:
        registration = Registration()
        registration._func = func
        registration._args = args
        registration._code = frame.f_code
        registration._lasti = frame.f_lasti
        registration._home = home = current_home()
        registration._owner = self
        registration._name = name
        registration._options = options
        registration._status = _PENDING
        if (
            options is not None
            and options.before_threads
            and not _interpreter.runs_before_threads()
        ):
            warn(
                "callback %s (%s) cannot run before the interpreter waits for its threads, since "
                "this one has no hook there; before_threads=True has no effect",
                registration.name,
                registration.origin,
            )
        if self._blocks and (block := _together.open_block(self)) is not None:
            registration._options = options = options or Options()
            options.block = block
            block.members[registration] = None
        self._stack.push(registration)
        # After the push, so that whoever finds the stack empty and lets go meanwhile either
        # does so before this, or sees the registration and comes here himself.
        if home not in self._tied:
            self._tie(home)
        return registration

    def _tie(self, home: Any) -> None:
        if None not in self._tied:
            _interpreter.hold(self)
            self._tied[None] = partial(_interpreter.forget, self)
        if home not in self._tied:
            forget = partial(self._tied.pop, home, None)
            untie = _loops.tie(home, self._tear_down, forget)
            if untie is not None:
                self._tied[home] = untie

    def _discard(self, registration: Registration, /) -> bool:
        if not self._stack.discard(registration):
            return False
        registration._status = Status.CANCELLED
        if registration._block is not None:
            registration._block.members.pop(registration, None)
        self._let_go_if_empty()
        return True

    def _let_go_if_empty(self) -> None:
        # An empty manager must not be kept alive by the hook at interpreter exit or by the
        # loops that it was tied to, nor keep them alive.
        if self._stack or self._current:
            return
        while self._tied:
            _, untie = self._tied.popitem()
            untie()
        self._stack.forget_index()
        for registration in self.pending():  # another thread has registered meanwhile
            self._tie(registration._home)

    # -- settings ---------------------------------------------------------------------

    def configure(
        self,
        *,
        grace: float | None = _NOTHING,
        timeout: float | None = _NOTHING,
        slow_after: float | None = _NOTHING,
        errors: Errors = _NOTHING,
    ) -> None:
        """Change settings; what is not given stays as it is.

        Times are in seconds; None takes a limit away, or turns the log off. See
        `ShutdownManager` for what they mean. An unwind in progress heeds the change.

        Raises `TypeError` or `ValueError` for a wrong type or value, and then changes
        nothing.

        >>> ShutdownManager().configure(grace=25, timeout=10)
        """
        checked: dict[str, object] = {}
        if grace is not _NOTHING:
            checked["grace"] = checked_seconds("grace", grace)
        if timeout is not _NOTHING:
            checked["timeout"] = checked_seconds("timeout", timeout)
        if slow_after is not _NOTHING:
            checked["slow_after"] = checked_seconds("slow_after", slow_after, zero=False)
        if errors is not _NOTHING:
            checked["errors"] = checked_errors(errors)
        for setting, value in checked.items():
            setattr(self._settings, setting, value)
        watchman.heed(self._settings.slow_after)

    def last_report(self) -> Report | None:
        """Return the report of the last unwind that ran anything, or None before the first.

        >>> manager = ShutdownManager()
        >>> _ = manager.register(int)
        >>> manager.close("done")
        >>> str(manager.last_report().reason), manager.last_report().ok
        ('close: done', True)
        """
        return self._last_report

    # -- triggers ---------------------------------------------------------------------

    def close(self, reason: str | None = None) -> None:
        """Unwind the whole manager and wait for it, from code that runs no event loop.

        Async callbacks run on their home loop if it is open, or else on a fresh one. May
        be called from any thread and any number of times: who comes during an unwind
        waits for it and gets its result; a call from inside a callback returns at once.
        `reason` is for the report.

        Raises what the failures of callbacks call for (see `ShutdownManager`), and
        `RuntimeError` where it would have to wait inside a running loop: use `await
        aclose()` there. It does so before it runs anything, or else at a callback that
        nobody could know to be async before it was called; what has not run stays.

        >>> ShutdownManager().close()
        """
        self._close(self._unwind(Reason("close", checked_text("reason", reason))))

    async def aclose(self, reason: str | None = None) -> None:
        """Unwind the whole manager in the running loop and in this task.

        As `close`, but inside an event loop, of asyncio or trio. Callbacks are shielded
        from the cancel scopes around it; a native `task.cancel()` interrupts at most the
        callback that is being awaited, and goes on when the rest have run (R18).

        >>> import asyncio
        >>> asyncio.run(ShutdownManager().aclose())
        """
        await self._aclose(self._unwind(Reason("close", checked_text("reason", reason))))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._close(self._unwind(Reason("scope exit"), leaving=exc))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._aclose(self._unwind(Reason("scope exit"), leaving=exc))

    def request_shutdown(self, reason: str | None = None) -> None:
        """Ask for a shutdown; who waits in `wait_requested` is woken.

        Under `run` it is what a first signal is: if nobody waits, main is cancelled (R25,
        R28). Elsewhere it is for those who wait. May be called from any thread, and from a
        signal handler. The first request counts until the manager has unwound; `reason` is
        for the report.

        Raises `TypeError` for a reason that is not a string.

        >>> import asyncio
        >>> async def main():
        ...     async with ShutdownManager() as manager:
        ...         manager.request_shutdown("deploy")
        ...         print(await manager.wait_requested())
        >>> asyncio.run(main())
        request: deploy
        """
        why = Reason("request", checked_text("reason", reason))
        if self._ladder.ask(why, self._settings.clock.now()):
            aside(partial(inform, "shutdown was requested: %s", why))

    async def wait_requested(self) -> Reason:
        """Wait until a shutdown is requested, by a signal or from code; return the reason.

        Whoever waits here tells `run` to leave main alone: to answer what is in flight, and
        to return by itself (R25). Signals are noticed under `run` and after
        `install_signal_handlers`. Returns at once if the request has come before.

        >>> import asyncio
        >>> async def main():
        ...     manager = ShutdownManager()
        ...     asyncio.get_running_loop().call_soon(manager.request_shutdown)
        ...     return (await manager.wait_requested()).trigger
        >>> asyncio.run(main())
        'request'
        """
        return await self._ladder.wait()

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:  # noqa: ARG002
        """Return an async context manager that unwinds the whole manager when it ends.

        Its shape is that of an ASGI framework's lifespan, hence the argument, which is
        not used: `Starlette(lifespan=lastly.lifespan)`.

        >>> import asyncio
        >>> async def main():
        ...     async with ShutdownManager().lifespan():
        ...         print("serving")
        >>> asyncio.run(main())
        serving
        """
        return _Lifespan(self)

    def _unwind(self, reason: Reason, wanted: Wanted | None = None, **what: Any) -> Unwind:
        stack = self._stack
        pending = stack.__len__ if wanted is None else partial(stack.count, wanted)
        outer = next(reversed(inside.get()), None)
        request = self._ladder.request
        if request is not None and reason.trigger != "close":
            reason = request.reason  # what has begun it all says more
        return Unwind(
            reason,
            self._settings,
            pending,
            outer=outer,
            ladder=self._ladder,
            whole=wanted is None,
            run_place=partial(run_place, stack.taker(wanted)),
            **what,
        )

    def _close(self, unwind: Unwind, pop: Pop | None = None) -> bool | None:
        """Unwind, or join the unwind in progress; return what `__exit__` returns."""
        leaving = unwind.leaving
        with (turn := _Turn(self, unwind)), turn:
            whose = self._run_or_join(unwind, pop or self._stack.pop)
        return _come_out(whose, unwind.leaving, leaving)

    async def _aclose(self, unwind: Unwind) -> bool | None:
        leaving = unwind.leaving
        if current_home() is None:
            # A child that was forked in this task: no loop runs in it. Its exit will unwind.
            return _come_out(unwind, leaving, leaving)
        with (turn := _Turn(self, unwind)), turn:
            whose = await self._run_or_join_async(unwind)
        return _come_out(whose, unwind.leaving, leaving)

    async def _tear_down(self, loop: Any) -> Unwind | None:
        def is_its_own(registration: Registration) -> bool:
            return registration._home is loop

        if not self._stack.count(is_its_own) and not self._is_called_from_elsewhere(loop):
            return None
        unwind = self._unwind(Reason("loop teardown"), is_its_own)
        with (turn := _Turn(self, unwind)), turn:
            # Inside an unwind of this manager it does not wait for that one to end, nor can
            # it leave the loop's registrations to it: the loop will be closed by then.
            while (current := self._begin(unwind)) is not None and current is not unwind:
                await _wait(current)
            await drive(unwind, self._stack.popper(is_its_own), _homes.call_at_home, Guard())
        return unwind

    def _is_called_from_elsewhere(self, loop: object) -> bool:
        """Tell whether another thread's unwind waits for a callback of this loop's."""
        current = self._current.get(None)
        return (
            current is not None
            and current.calls(loop)
            and current.thread is not current_thread()
            and current not in inside.get()
        )

    def _exit_interpreter(self) -> None:
        self._close(self._unwind(Reason("interpreter exit"), exiting=True))

    def _exit_before_threads(self) -> BaseException | None:
        """Run what asks for it, and return what has come out."""
        unwind = self._unwind(Reason("interpreter exit"), _is_before_threads)
        try:
            self._close(unwind, self._stack.popper(_is_before_threads))
        except BaseException as exc:
            if exc is not unwind.outside:
                return exc
            raise
        return None

    def _pending_before_threads(self) -> tuple[Registration, ...]:
        return tuple(filter(_is_before_threads, self.pending()))

    def _in_child(self) -> None:
        """Start anew in a forked child: keep what is at home in the interpreter (R19)."""
        for registration in self.pending():
            if registration._home is not None and self._stack.discard(registration):
                registration._status = Status.CANCELLED
                _of_the_parent.append(registration)
        current = self._current.get(None)
        if current is not None and current.thread is not current_thread():
            self._current.clear()
        self._let_go_if_empty()

    def _run_or_join(self, unwind: Unwind, pop: Pop) -> Unwind:
        """Return the unwind whose result is the caller's."""
        while (current := self._begin(unwind)) is not None:
            if current is unwind:
                unwind.error = self._refusal()
                if unwind.error is None:
                    with HomeRunner(self._settings, exiting=unwind.exiting) as runner:
                        call = partial(_homes.call_from_outside, runner.prepare)
                        drive_sync(unwind, pop, call, runner.run)
                return unwind
            if current_home() is not None:
                unwind.error = _use_aclose("wait for the unwind that is in progress")
                return unwind
            _end_if_suspended(current)
            current.done.result()
            if current.complete and current.whole:
                return current
        return unwind

    async def _run_or_join_async(self, unwind: Unwind) -> Unwind:
        while (current := self._begin(unwind)) is not None:
            if current is unwind:
                guard = Guard(unwind.main)
                await drive(unwind, self._stack.pop, _homes.call_at_home, guard)
                return unwind
            await _wait(current)
            if current.complete and current.whole:
                return current
        return unwind

    def _begin(self, unwind: Unwind) -> Unwind | None:
        """Return this unwind if it may run now, or else the one in progress to wait for.

        Returns None for nothing to do: the stack is empty, or this is called from inside
        the unwind in progress, which would wait for itself.
        """
        current = self._current.get(None)
        if current is None:
            if not self._stack:
                return None
            current = self._current.setdefault(None, unwind)
            self._stack.forget_index()
        if current is not unwind and current in inside.get():
            return None
        return current

    def _end(self, unwind: Unwind) -> None:
        try:
            report = unwind.close_books()
            if unwind.ran.entries:
                self._last_report = report
            while unwind.postponed:
                self._stack.push(unwind.postponed.pop())
        finally:
            if self._current.get(None) is unwind:
                del self._current[None]
            if unwind.complete and unwind.whole:
                self._ladder.reset()
            self._let_go_if_empty()
            unwind.done.set_result(None)
        path = os.environ.get("LASTLY_REPORT")
        if path and unwind.ran.entries:
            from ._record import record  # lazy: it loads json and more, and is rarely asked for

            record(report, path)

    def _refusal(self) -> RuntimeError | None:
        if current_home() is not None:
            for registration in self.pending():
                if looks_async(registration._func):
                    return _use_aclose(f"await {registration.name} ({registration.origin})")
        return None


class _Turn:
    """Mark what runs inside of an unwind, and end the unwind whatever happens.

    Entered before the manager is asked for its turn: a Ctrl-C between the two must not leave the
    manager waiting for an unwind that nobody drives. And entered twice, `with turn, turn`: one
    that comes just as the inner `__enter__` or `__exit__` is called leaves it to the outer one.
    """

    __slots__ = ("_is_sure", "_manager", "_unwind")

    def __init__(self, manager: ShutdownManager, unwind: Unwind) -> None:
        self._manager = manager
        self._unwind = unwind
        self._is_sure = False

    def __enter__(self) -> None:
        if not self._is_sure:
            self._is_sure = True
            return
        in_progress[self._unwind] = None
        inside.set((*inside.get(), self._unwind))

    def __exit__(self, *exc: object) -> None:
        try:
            if not self._unwind.done.done():
                self._manager._end(self._unwind)
            # No token of the variable's own: a Ctrl-C can come before that is kept.
            inside.set(tuple(unwind for unwind in inside.get() if unwind is not self._unwind))
        finally:
            # From here on a signal handler raises again where it is called.
            in_progress.pop(self._unwind, None)
            self._unwind.let_outside_go_on()


def _is_before_threads(registration: Registration) -> bool:
    return registration._options is not None and registration._options.before_threads


def _end_if_suspended(current: Unwind) -> None:
    """End an unwind whose loop has stopped under it."""
    guard = current.guard
    if isinstance(guard, Guard) and guard.is_suspended(current.thread):
        guard.go_on(current.done)


async def _wait(current: Unwind) -> None:
    _end_if_suspended(current)
    if not current.done.done():
        await wait(current.done)


class _Lifespan:
    # A class, and not @asynccontextmanager: no async generator that a server can leave
    # suspended, for the loop to finalise when it likes.
    __slots__ = ("_manager",)

    def __init__(self, manager: ShutdownManager) -> None:
        self._manager = manager

    if not TYPE_CHECKING:  # pragma: no branch - for `with` it is none, also to type checkers

        def __enter__(self) -> None:
            raise TypeError(
                "lifespan() is an async context manager; write `async with lifespan()`, or "
                "`await enter_async_context(lifespan())`"
            )

        def __exit__(self, *exc: object) -> None: ...  # looked for before it enters

    async def __aenter__(self) -> None:
        await self._manager.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(exc_type, exc, traceback)


def _caller() -> FrameType:
    try:
        return sys._getframe(2)
    except ValueError:  # atexit, say, has called the method straight from C
        return sys._getframe()


def _name_of(cm: object) -> str:
    # @contextmanager hides the function that the user wrote behind its generator.
    hides = isinstance(cm, ContextDecorator | AsyncContextDecorator)
    return qualified_name(getattr(cm, "gen", type(cm)) if hides else type(cm))


def _come_out(
    unwind: Unwind, leaving: BaseException | None, entered_with: BaseException | None
) -> bool | None:
    error = unwind.verdict(leaving)
    if error is None:
        return entered_with is not None  # a context manager's exit has swallowed it
    if error is entered_with:
        return False
    return reraise(error)


def _use_aclose(what: str) -> RuntimeError:
    return RuntimeError(
        f"close() would have to {what}, and cannot inside a running event loop; "
        "did you forget `await aclose()`, or `async with` for `with`? "
        "What has not run is still registered"
    )


default = ShutdownManager("default")
