"""The one loop that runs registrations newest first, for sync and async alike.

A coroutine pops, calls and keeps the books. A task awaits it; where no loop runs, it is told
how to wait, and is never suspended. May import what is below it; it is told what to pop and call.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from contextvars import ContextVar
from threading import current_thread, get_ident
from types import CoroutineType, FunctionType

from ._books import Books
from ._errors import chain, warn
from ._fork import in_child
from ._ladder import signals
from ._limits import Budget, Limit, bounded, cleanup_timeout
from ._outcome import Status, describe
from ._registration import (
    already_run,
    dispose,
    is_awaitable,
    postpone,
    qualified_name,
    replace,
    weakly,
)
from ._spot import Spot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Future
    from typing import Any, Protocol

    from ._ladder import Ladder
    from ._outcome import CleanupTimeout, Outcome, Reason
    from ._registration import Registration
    from ._settings import Settings

    Pop = Callable[[], tuple[Registration, None]]
    Call = Callable[[Registration, BaseException | None, Spot], Any]
    Ending = tuple[Status, BaseException | None]
    RunPlace = Callable[["Unwind", Registration, Call], Coroutine[Any, Any, None]]
    Run = Callable[[Any, object | None, Spot], object]

    class Guard(Protocol):
        """What an unwind needs from the task that it is in, to await shielded there."""

        @property
        def home(self) -> Any: ...
        @property
        def scope(self) -> object | None: ...
        @property
        def held(self) -> int: ...
        @property
        def is_spent(self) -> bool: ...
        @property
        def is_trio(self) -> bool: ...
        @property
        def task(self) -> Any: ...
        def is_here(self) -> bool: ...
        def shield(self) -> None: ...
        def unshield(self) -> None: ...
        def leave(self, error: BaseException | None, /) -> BaseException | None: ...
        def without_its_own(self, error: BaseException | None, /) -> BaseException | None: ...
        def make_way(self, shield: object | None, /) -> None: ...
        def is_cancelled(self) -> bool: ...
        def is_cancellation(self, exception: BaseException, /) -> bool: ...
        def interrupted(self, exception: BaseException, /) -> bool: ...
        def consumed(self, cancellation: BaseException, /) -> bool: ...
        def overlooked(self) -> BaseException | None: ...

    class Main(Protocol):
        """What the guard needs from the main of a run."""

        def step_out(self) -> None: ...


_RUNNING, _OK = Status.RUNNING, Status.OK

# Those that the current code runs inside of, as a callback or on behalf of one.
inside: ContextVar[tuple[Unwind, ...]] = ContextVar("lastly_inside", default=())

# The unwinds that are going on, in the order in which they were called for.
in_progress: dict[Unwind, None] = {}


def new_future() -> Future[None]:
    from concurrent.futures import Future  # lazy: it loads logging

    return Future()


def _keep_ones_own() -> None:
    for unwind in list(in_progress):
        if unwind.thread is current_thread():
            unwind.spot.begin()  # the watch has started anew
            unwind.done = new_future()  # a thread of the parent's may have held its lock
        else:
            del in_progress[unwind]


in_child(_keep_ones_own)


class CannotAwaitError(RuntimeError):
    """Tell an unwind that what it has to await cannot be waited for here."""

    def __init__(self, awaitable: object) -> None:
        super().__init__("close() cannot await what it returned inside a running event loop")
        self.awaitable = awaitable


class _NoGuard:
    """Stand in where no task unwinds: there is no scope around it and no cancellation."""

    home = task = scope = None
    held = 0
    is_spent = is_trio = False

    def make_way(self, _: object | None, /) -> None: ...
    def is_cancellation(self, _: BaseException, /) -> bool:
        return False

    interrupted = consumed = is_cancellation

    def overlooked(self) -> None: ...
    def is_here(self) -> bool:
        return True


_NO_GUARD: Any = _NoGuard()  # it does not have what only a task is asked for


class Unwind(Books):
    """Hold the state of one unwind; `steps` is the loop, the drivers are below.

    `whole` is whether it is one of the whole manager, and `outer` is the unwind in whose callback
    this one was called for, if any. `exiting` is whether the interpreter exits. `guard` is that
    of the async driver, and `main` is the main of a run that unwinds in its task. `done`
    resolves, always to None, once the books are closed.
    """

    is_member = False  # of a place: it unwinds one registration of those that share it

    def __init__(
        self,
        reason: Reason,
        settings: Settings,
        pending: Callable[[], int],
        *,
        whole: bool,
        leaving: BaseException | None = None,
        outer: Unwind | None = None,
        ladder: Ladder,
        exiting: bool = False,
        run_place: RunPlace | None = None,
    ) -> None:
        super().__init__(reason, settings, leaving)
        self.whole = whole
        self.exiting = exiting
        self.main: Main | None = None
        self.guard: Guard = _NO_GUARD
        self.complete = False
        self.thread = current_thread()
        self.done = new_future()
        self.spot = Spot(settings, self.ran.entries, pending, get_ident())
        self.ladder = ladder
        self._outer = outer
        self._stopping = False
        self.run_place: Any = run_place
        self.budget: Budget | None = None
        self.run: Run | None = None
        self.members: Sequence[Unwind] = ()  # of the place that is being run

    # In one piece, since a call for each of its parts would double what it takes.
    async def steps(  # noqa: C901, PLR0912, PLR0915
        self, pop: Pop, call: Call, run: Run | None = None
    ) -> None:
        """Run registrations until `pop` has no more, whatever they raise (R2, R9).

        In the current task; or with `run`, which waits where no loop runs: then nothing in here
        is ever suspended. What is simple passes through without calling anything of ours.
        """
        guard, spot, settings, ran = self.guard, self.spot, self.settings, self.ran
        now, place, here = settings.clock.now, spot.at, guard.home
        entries, ends, weak_here, modules = ran.entries, ran.ends, weakly(here), sys.modules
        start, self.run = now(), run
        coroutine: Any = CoroutineType  # not by name, which would narrow what is awaited
        if self.budget is None:
            ran.began = start
            around = None if self._outer is None else self._outer.spot
            self.budget = Budget(settings, self.ladder, start, around)
        self._outer, is_part = None, self.budget.is_part
        while not self._stopping:
            try:
                registration, _ = pop()
            except KeyError:
                break
            registration._status = _RUNNING
            options, home = registration._options, registration._home
            told: BaseException | None = None
            exception: BaseException | None = None
            result: Any = None
            simple = (
                options is None
                and (home is None or home is here)
                and settings.grace is settings.timeout is None
                and not (signals.heeded or guard.is_spent or is_part)
            )
            if options is not None and options.block is not None and not self.is_member:
                await self.run_place(self, registration, call)
                spot.step = None  # that of a member which was cut short is not the next one's
                start = now()
                continue
            spot.registration, spot.start, spot.awaitable = registration, start, None
            if not simple:
                spot.step = (registration, self._limit_for(registration, start))
            try:
                if simple:
                    result = registration._func(*registration._args)
                else:
                    if registration._exit is not None:
                        told = self.told
                        guard.make_way(registration._exit.shield)
                    result = call(registration, told, spot)
                if simple and type(result) is coroutine and run is None:
                    spot.awaitable = result
                    if guard.scope is None and (guard.is_trio or "anyio" in modules):
                        guard.shield()
                    await result
                elif result is not None:
                    if is_awaitable(result):
                        result = await self.result_of(result)
                    if told is not None:
                        result = bool(result)  # in here: it may have no truth value
            except CannotAwaitError as exc:
                postpone(registration, exc.awaitable)
                self.postponed = [registration]
                return
            except BaseException as exc:
                exception = exc
            if simple and exception is None:
                # What finish() does, without its calls.
                func = registration._func
                if registration._name is None:
                    name = func.__qualname__ if type(func) is FunctionType else None
                    registration._name = name if type(name) is str else qualified_name(func)
                registration._status = _OK
                registration._func = already_run
                registration._args = ()
                registration._owner = None
                if home is not None:
                    registration._home = weak_here
                entries.append(registration)
            else:
                await self._settle(told, result, exception, call)
                # The place of the next, not where a callback was that nobody waits for any more.
                spot.at, spot.step = place, None
                exception = None  # its traceback holds this frame: make no cycle
            start = now()
            ends.append(start)
        self.complete = not self._stopping

    async def result_of(self, awaitable: Any) -> Any:
        """Await it under the limit of its callback, and shielded unless it is an exit (R8)."""
        spot, guard = self.spot, self.guard
        spot.awaitable = awaitable
        registration, limit = spot.registration, spot.limit
        if self.run is not None:
            return self.run(awaitable, registration.home, spot)
        shields, result, error = registration._exit is None, None, None
        try:
            if shields:
                self.shield(limited=limit is not None)
            if limit is None or limit.elsewhere:
                return await awaitable
            result = await bounded(spot, awaitable, guard.scope if shields else None)
        except BaseException as exc:
            if limit is None:
                raise
            error = exc
        try:
            if limit.expired:
                error = guard.leave(error) if shields else guard.without_its_own(error)
                came = spot.interruption is not None or guard.is_cancelled()
                if came and error is not None and guard.is_cancellation(error):
                    # R18, R20: what is cut short lets a cancellation out if one from outside
                    # has come, too. On asyncio `overlooked` tells of that one.
                    if guard.is_trio:
                        self.let_go_on(error)
                    error = None
            if error is not None:
                raise error
        finally:
            error = None  # see steps
        return result

    def shield(self, *, limited: bool) -> None:
        """Put up a shield if there is to be one, also in the place of one that is spent."""
        guard = self.guard
        # Native asyncio has no scopes: where nobody has loaded anyio, none can be open.
        if (guard.scope is None or (guard.is_spent and not guard.held)) and (
            limited or guard.is_trio or "anyio" in sys.modules
        ):
            with self.spot.excused():
                guard.shield()

    async def _settle(
        self,
        told: BaseException | None,
        result: object,
        exception: BaseException | None,
        call: Call,
    ) -> None:
        """See to what is not simple: failures, limits, and exits of context managers."""
        spot, status = self.spot, Status.FAILED
        registration, start, limit = spot.registration, spot.start, spot.limit
        if exception is not None and (
            not self.guard.is_here() or (result is not None and _is_thrown_in(exception))
        ):
            # This coroutine is being closed, from outside of its task or within it, and may not
            # await again. What has not run stays on the stack.
            self._stopping = True
        if exception is not None and (self._stopping or self.guard.interrupted(exception)):
            status = Status.INTERRUPTED
        elif limit is not None:
            status, exception = await self._after_limit(limit, exception, call)
        if registration._exit is not None:
            registration._exit.ended()
            exception = self._after_exit(told, result, exception)
        # A cancellation that it has refused, or made another error of, is no other's.
        self.guard.overlooked()
        self.record(registration, start, exception, status)
        if spot.interruption is not None:
            # R18: it has come, whatever the callback made of it.
            self.guard.interrupted(spot.interruption)  # which counts the cancellations
            self.let_go_on(spot.interruption)
            spot.interruption = None

    def absorb(self, members: Sequence[Unwind], error: BaseException | None) -> None:
        """Enter in the books what came of the members of a place, and what came of waiting."""
        if error is not None:
            # First: those that were cut short with it have errors of their own, from inside.
            self.guard.interrupted(error)  # which counts the cancellations
            self.let_go_on(error)
        failures: list[Outcome] = []
        for member in members:
            self.ran.entries += member.ran
            failures += member._failures
            self._interrupted = self._interrupted or member._interrupted
            self.postponed += member.postponed
            if member.leaving is not None:
                self.let_go_on(member.leaving)
        # The place ends for all at once.
        self.ran.ends += [self.settings.clock.now()] * (len(self.ran.entries) - len(self.ran.ends))
        # The final one is that which came last.
        self._failures += sorted(failures, key=lambda outcome: outcome.start + outcome.duration)
        self._stopping = self._stopping or bool(self.postponed)
        self.members = ()

    def _limit_for(self, registration: Registration, start: float) -> Limit | None:
        exit_, guard = registration._exit, self.guard
        assert self.budget is not None
        if guard.is_spent and guard.held and (exit_ is None or exit_.shield is guard.scope):
            # It has to run inside of a shield that the limit of another callback has cancelled.
            return Limit(0.0, start, forced=True)
        return self.budget.limit_for(registration, start)

    def force(self) -> None:
        """Cut short the callback that runs, from any thread; who forces, forces the rest too."""
        limit = self.spot.limit
        if limit is not None:
            limit.force(self.settings.clock.now())
        for member in self.members:
            member.force()

    def calls(self, home: object) -> bool:
        """Tell whether the callback that runs is at home there."""
        registration = self.spot.registration
        return (registration is not None and registration._home is home) or any(
            member.calls(home) for member in self.members
        )

    async def _after_limit(
        self, limit: Limit, exception: BaseException | None, call: Call
    ) -> Ending:
        """Tell how a callback that has a limit ended (R20, R22)."""
        if limit.expired:
            return await self._past_limit(limit, exception, call)
        if exception is None and limit.is_idle():
            _explain(self.spot.registration)
        return Status.FAILED, exception

    async def _past_limit(
        self, limit: Limit, exception: BaseException | None, call: Call
    ) -> Ending:
        """Run `on_timeout` in the place of what was cut short, and tell how that ended."""
        registration = self.spot.registration
        options = registration._options
        self._let_overlooked_go_on()
        if limit.forced and limit.returned:
            return Status.FORCED, None  # it needed no time, and nothing was lost
        status = Status.FORCED if limit.forced else Status.TIMED_OUT
        error: BaseException = self._cleanup_timeout(registration.name, limit)
        if limit.forced and exception is not None:
            status, error = Status.FAILED, exception
        failed = None
        if options is not None and options.on_timeout is not None:
            failed = await self._in_its_place(options.on_timeout, call)
            if failed is not None and error is not exception:
                error.args = (f"{error}\non_timeout then failed: {describe(failed)}",)
        for raised in (exception, failed):
            if isinstance(raised, KeyboardInterrupt | SystemExit):
                error, raised = raised, error  # noqa: PLW2901 - nobody may miss that one
            if raised is not None:
                chain(error, raised)
        return (Status.ABANDONED if limit.abandoned else status), error

    async def _in_its_place(
        self, on_timeout: Callable[..., object], call: Call
    ) -> BaseException | None:
        spot, registration = self.spot, self.spot.registration
        replace(registration, on_timeout)
        start = self.settings.clock.now()
        limit = self._limit_for(registration, start)
        spot.start, spot.awaitable, spot.step = start, None, (registration, limit)
        failed = None
        try:
            result = call(registration, None, spot)
            if result is not None and is_awaitable(result):
                await self.result_of(result)
        except BaseException as exc:
            failed = exc
            if isinstance(exc, CannotAwaitError):
                dispose(exc.awaitable)
        if limit is not None and limit.expired:
            self._let_overlooked_go_on()
            if failed is None and not limit.returned:
                return self._cleanup_timeout(f"on_timeout of {registration.name}", limit)
        if failed is not None and (self._stopping or self.guard.interrupted(failed)):
            self.let_go_on(failed)
            return None
        return failed

    def _let_overlooked_go_on(self) -> None:
        cancellation = self.guard.overlooked()
        if cancellation is not None:
            self.let_go_on(cancellation)

    def _cleanup_timeout(self, name: str, limit: Limit) -> CleanupTimeout:
        if self.spot.in_thread() is not None:
            limit.abandoned = True
        return cleanup_timeout(name, self.spot.registration.origin, limit)

    def _after_exit(
        self, told: BaseException | None, result: object, exception: BaseException | None
    ) -> BaseException | None:
        """Apply what a context manager's exit did with what it was told, as `with` does."""
        leaving, is_cancellation = self.leaving, self.guard.is_cancellation
        is_leaving = told is leaving
        if told is not None:
            if exception is None and result:
                self.swallow(told)
            # Not handled, and perhaps raised instead of returning false: no failure.
            is_old = (
                exception is None
                or exception is told
                or (is_cancellation(told) and is_cancellation(exception))
            )
            consumed = self.guard.consumed(told if leaving is None else leaving)
            if consumed and not (is_old and is_leaving):
                # A cancellation of its own, which was its way to fail, or that of an exit above.
                self.leaving = None
            if is_old:
                return None
        if exception is not None:
            self.make(exception, told)
        return exception


def _is_thrown_in(exception: BaseException) -> bool:
    """Tell whether what has come of an await is the close of the coroutine that awaits."""
    # That closes what is awaited first, and then raises a new one where it is awaited.
    if not isinstance(exception, GeneratorExit):
        return False
    traceback = exception.__traceback__
    return traceback is not None and traceback.tb_next is None


def _explain(registration: Registration) -> None:
    options = registration._options
    if options is not None and options.timeout is not None and not options.thread:
        # Nobody could know, when it was registered, that there is nothing to cut short.
        warn(
            "callback %s (%s) has a timeout, which had no effect, for its call returned nothing "
            "to await; if it is sync, did you forget `thread=True`?",
            registration.name,
            registration.origin,
        )


async def drive(unwind: Unwind, pop: Pop, call: Call, guard: Guard) -> None:
    """Run the unwind in the current task of the running loop."""
    unwind.guard, spot = guard, unwind.spot
    spot.at = (get_ident(), guard.home, guard.task)
    try:
        spot.begin()
        await unwind.steps(pop, call)
    finally:
        guard.unshield()
        spot.end()


def drive_sync(unwind: Unwind, pop: Pop, call: Call, run: Run) -> None:
    """Run the unwind with no loop running; `run` runs an awaitable on a loop of its home."""
    try:
        unwind.spot.begin()
        with suppress(StopIteration):
            unwind.steps(pop, call, run).send(None)
    finally:
        unwind.spot.end()
