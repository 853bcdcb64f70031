"""The one loop that runs registrations newest first, for sync and async alike.

A generator pops, calls and keeps the books; it yields what needs awaiting and is thrown
what that raised. May import what is below it; it is told what to pop and call.
"""

from __future__ import annotations

from concurrent.futures import Future
from threading import current_thread, get_ident

from ._errors import add_note, chain, count, listed, log, warn
from ._fork import in_child
from ._limits import Budget, Limit, bounded, cleanup_timeout
from ._outcome import Outcome, Report, Status, describe
from ._registration import dispose, finish, is_awaitable, postpone, replace
from ._spot import Spot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, Protocol

    from ._ladder import Ladder
    from ._outcome import CleanupTimeout, Reason
    from ._registration import Registration
    from ._settings import Settings

    Pop = Callable[[], Registration | None]
    Call = Callable[[Registration, BaseException | None, Spot], Any]
    Ending = Generator[tuple[Registration, Any], Any, tuple[Status, BaseException | None]]
    Steps = Generator[tuple[Registration, Any], Any, None]

    class Guard(Protocol):
        """What the generator needs from the task that unwinds."""

        @property
        def scope(self) -> object | None: ...
        @property
        def held(self) -> int: ...
        @property
        def is_spent(self) -> bool: ...
        def make_way(self, shield: object | None, /) -> None: ...
        def is_cancellation(self, exception: BaseException, /) -> bool: ...
        def interrupted(self, exception: BaseException, /) -> bool: ...
        def consumed(self, cancellation: BaseException, /) -> bool: ...
        def overlooked(self) -> BaseException | None: ...

    class Main(Protocol):
        """What the guard needs from the main of a run."""

        def step_out(self) -> None: ...

    class TaskGuard(Guard, Protocol):
        """What the async driver needs besides."""

        @property
        def home(self) -> Any: ...
        @property
        def task(self) -> Any: ...
        def needs_shield(self, *, limited: bool) -> bool: ...
        def shield(self) -> None: ...
        def unshield(self) -> None: ...
        def without_its_own(self, error: BaseException | None, /) -> BaseException | None: ...
        def leave(self, error: BaseException | None, /) -> BaseException | None: ...
        def is_here(self) -> bool: ...


# The unwinds that are going on, in the order in which they were called for.
in_progress: dict[Unwind, None] = {}


def _keep_ones_own() -> None:
    for unwind in list(in_progress):
        if unwind.thread is current_thread():
            unwind.spot.begin()  # the watch has started anew
            unwind.done = Future()  # a thread of the parent's may have held its lock
        else:
            del in_progress[unwind]


in_child(_keep_ones_own)


class CannotAwaitError(RuntimeError):
    """Tell the generator that its driver cannot await what it was given."""

    def __init__(self, awaitable: object) -> None:
        super().__init__("close() cannot await what it returned inside a running event loop")
        self.awaitable = awaitable


class _NoGuard:
    """Stand in where no task unwinds: there is no scope around it and no cancellation."""

    scope = None
    held = 0
    is_spent = False

    def make_way(self, _: object | None, /) -> None: ...
    def is_cancellation(self, _: BaseException, /) -> bool:
        return False

    interrupted = consumed = is_cancellation

    def overlooked(self) -> None: ...


class Unwind:
    """Hold the state of one unwind; `steps` is the loop, the drivers are below.

    `whole` is whether it is one of the whole manager, and `outer` is the unwind in whose callback
    this one was called for, if any. `leaving` is the exception that is on its way out of the
    scope around the unwind; `outside` is what a signal handler would
    have raised in the middle of it (R9), and goes on when it is done. `exiting` is whether the
    interpreter exits. `guard` is that of the async driver, and `main` is the main of a run that
    unwinds in its task. `done` resolves, always to None, once the books are closed. `unseen`
    counts, in the whole process, whose failures came out nowhere: R26 asks for it.
    """

    unseen = 0  # += may lose one of two at once, but not that there was one

    def __init__(
        self,
        reason: Reason,
        settings: Settings,
        pending: Callable[[], int],
        *,
        whole: bool = True,
        leaving: BaseException | None = None,
        outer: Unwind | None = None,
        ladder: Ladder,
        exiting: bool = False,
    ) -> None:
        self.reason = reason
        self.whole = whole
        self.leaving = leaving
        self.exiting = exiting
        self.outside: BaseException | None = None
        self.main: Main | None = None
        self.guard: Guard = _NoGuard()
        self.error: BaseException | None = None
        self.report: Report | None = None
        self.postponed: Registration | None = None
        self.complete = False
        self.thread = current_thread()
        self.calling: object | None = None  # the home of the callback that runs
        self.done: Future[None] = Future()
        self.spot = Spot(settings, pending, get_ident())
        self._settings = settings
        self._ladder = ladder
        self._outer = outer
        self._stopping = False
        self._instead: BaseException | None = None  # what an exit made of `leaving`
        self._outcomes: list[Outcome] = []
        self._failures: list[Outcome] = []
        self._interrupted = False
        self._began = settings.clock.now()
        self._budget: Budget

    def steps(self, pop: Pop, call: Call) -> Steps:
        """Run registrations until `pop` has no more, whatever they raise (R2, R9)."""
        guard, spot, settings = self.guard, self.spot, self._settings
        now, place = settings.clock.now, spot.at
        self._began = now()
        outer, self._outer = self._outer, None
        around = None if outer is None else outer.spot
        self._budget = Budget(settings, self._ladder, self._began, around)
        while (registration := pop()) is not None:
            registration._status = Status.RUNNING
            self.calling = registration._home
            told = self._instead if self.leaving is None else self.leaving
            start = now()
            limit = self._limit_for(registration, start)
            # Here, and not where a callback was that nobody waits for any more.
            spot.at, spot.awaitable = place, None
            spot.current = (len(self._outcomes) + 1, registration, start, limit)
            result = exception = None
            try:
                if registration._exit is not None:
                    guard.make_way(registration._exit.shield)
                result = call(registration, told, spot)
                if result is not None and is_awaitable(result):
                    spot.awaitable = result
                    result = yield registration, result
            except CannotAwaitError as exc:
                postpone(registration, exc.awaitable)
                self.postponed = registration
                return
            except BaseException as exc:
                exception = exc
            status = Status.FAILED
            if exception is not None and (self._stopping or guard.interrupted(exception)):
                status = Status.INTERRUPTED
            elif limit is not None:
                status, exception = yield from self._after_limit(limit, exception, call)
            if registration._exit is not None:
                registration._exit.ended()
                exception = self._after_exit(told, result, exception)
            self._record(registration, start, exception, status)
            if self._stopping:
                return
        self.complete = True

    def _limit_for(self, registration: Registration, start: float) -> Limit | None:
        exit_, guard = registration._exit, self.guard
        if guard.is_spent and (guard.held if exit_ is None else exit_.shield is guard.scope):
            # It has to run inside of a shield that the limit of another callback has cancelled.
            return Limit(0.0, start, shared=True, forced=True)
        return self._budget.limit_for(registration, start)

    def tell_exits(self, exception: BaseException) -> None:
        """Tell exits of an exception that they are to see, though it leaves no scope."""
        self._instead = exception

    def force(self) -> None:
        """Cut short the callback that runs, from any thread; who forces, forces the rest too."""
        current = self.spot.current
        if current is not None and current[3] is not None:
            current[3].force(self._settings.clock.now())

    def stop(self) -> None:
        """Make the generator stop at the exception that it is thrown next."""
        self._stopping = True

    def _after_limit(self, limit: Limit, exception: BaseException | None, call: Call) -> Ending:
        """Tell how a callback that has a limit ended (R20, R22)."""
        if limit.expired:
            return (yield from self._past_limit(limit, exception, call))
        if exception is None and limit.is_idle():
            _explain(self.spot.registration)
        return Status.FAILED, exception

    def _past_limit(self, limit: Limit, exception: BaseException | None, call: Call) -> Ending:
        """Run `on_timeout` in the place of what was cut short, and tell how that ended."""
        registration = self.spot.registration
        options = registration._options
        cancellation = self.guard.overlooked()
        if cancellation is not None:
            self._let_go_on(cancellation)
        if limit.forced and limit.returned:
            return Status.FORCED, None  # it needed no time, and nothing was lost
        status = Status.FORCED if limit.forced else Status.TIMED_OUT
        error: BaseException = self._cleanup_timeout(registration.name, limit)
        if limit.forced and exception is not None:
            status, error = Status.FAILED, exception
        failed = None
        if options is not None and options.on_timeout is not None:
            failed = yield from self._in_its_place(options.on_timeout, call)
            if failed is not None and error is not exception:
                error.args = (f"{error}\non_timeout then failed: {describe(failed)}",)
        for raised in (exception, failed):
            if isinstance(raised, KeyboardInterrupt | SystemExit):
                error, raised = raised, error  # noqa: PLW2901 - nobody may miss that one
            if raised is not None and raised is not error:
                chain(error, raised)
        return (Status.ABANDONED if limit.abandoned else status), error

    def _in_its_place(
        self, on_timeout: Callable[..., object], call: Call
    ) -> Generator[tuple[Registration, Any], Any, BaseException | None]:
        spot, registration = self.spot, self.spot.registration
        replace(registration, on_timeout)
        start = self._settings.clock.now()
        limit = self._budget.limit_for(registration, start)
        spot.awaitable = None
        spot.current = (len(self._outcomes) + 1, registration, start, limit)
        failed = None
        try:
            result = call(registration, None, spot)
            if result is not None and is_awaitable(result):
                spot.awaitable = result
                yield registration, result
        except BaseException as exc:
            failed = exc
            if isinstance(exc, CannotAwaitError):
                dispose(exc.awaitable)
        if failed is None and limit is not None and limit.expired and not limit.returned:
            return self._cleanup_timeout(f"on_timeout of {registration.name}", limit)
        if failed is not None and (self._stopping or self.guard.interrupted(failed)):
            self._let_go_on(failed)
            return None
        return failed

    def _cleanup_timeout(self, name: str, limit: Limit) -> CleanupTimeout:
        if self.spot.in_thread() is not None:
            limit.abandoned = True
        return cleanup_timeout(name, self.spot.registration.origin, limit)

    def _after_exit(
        self, told: BaseException | None, result: object, exception: BaseException | None
    ) -> BaseException | None:
        """Apply what a context manager's exit did with what it was told, as `with` does."""
        if told is None:
            return exception
        is_cancellation = self.guard.is_cancellation
        consumed = self.guard.consumed(told)
        if exception is None:
            if result:
                # Swallowed; if that was the failure of an exit above, it does not come out.
                self.leaving = self._instead = None
                self._failures = [o for o in self._failures if o.exception is not told]
            return None
        if exception is told or (is_cancellation(told) and is_cancellation(exception)):
            return None  # not handled, and raised instead of returning false: no failure
        if consumed:
            # A cancellation of its own, which was its way to fail: those below are told of
            # the failure, as in nested `with`.
            self.leaving, self._instead = None, exception
        return exception

    def close_books(self) -> Report:
        """Settle the report and which exception comes out, under the manager's `errors`."""
        errors = self._settings.errors
        self.report = Report(
            self.reason, tuple(self._outcomes), self._settings.clock.now() - self._began
        )
        raised = [o.exception for o in self._failures if o.exception is not None]
        earlier = self._failures
        if self.postponed is not None:
            name, origin = self.postponed.name, self.postponed.origin
            self.error = RuntimeError(
                f"callback {name} ({origin}) returned an awaitable, which close() cannot await "
                "inside a running event loop; it and what is below it are still registered: "
                "did you forget `await aclose()`?"
            )
        elif raised and errors == "last":
            self.error = raised[-1]
            earlier = self._failures[:-1]
        elif raised and errors == "group":
            self.error = BaseExceptionGroup(
                f"lastly: {count(self._failures, 'callback')} failed", raised
            )
            earlier = []
        if self.error is not None and earlier:
            lead = f"{count(earlier, 'earlier failure')} in this unwind"
            add_note(self.error, f"{lead}: {listed(earlier)}")
        return self.report

    def verdict(self, leaving: BaseException | None) -> BaseException | None:
        """Return the exception that must come out of a scope that `leaving` leaves (R12)."""
        if leaving is not None and not isinstance(leaving, Exception):
            if self._lost:
                Unwind.unseen += 1
            if self._failures:
                lead = f"{count(self._failures, 'callback')} failed while this was on its way out"
                add_note(leaving, f"{lead}: {listed(self._failures)}")
            elif self.error is not None:  # close() was refused
                add_note(leaving, str(self.error))
            return leaving
        if self.error is None:
            if self._lost:
                Unwind.unseen += 1  # errors="log"
            return leaving
        if leaving is not None:
            chain(self.error, leaving)
        return self.error

    def _record(
        self,
        registration: Registration,
        start: float,
        exception: BaseException | None,
        status: Status,
    ) -> None:
        if exception is None and status is not Status.FORCED:
            status = Status.OK
        finish(registration, status)
        outcome = Outcome(
            registration.name,
            registration._place,
            status,
            start - self._began,
            self._settings.clock.now() - start,
            exception,
        )
        self._outcomes.append(outcome)
        if exception is None:
            return
        if status is Status.INTERRUPTED:
            self._interrupted = True
            self._let_go_on(exception)
        else:
            self._failures.append(outcome)
        try:
            log(outcome, exception)
        except BaseException as exc:  # Ctrl-C inside a log handler, say
            self._let_go_on(exc)

    @property
    def _lost(self) -> bool:
        """Whether a callback has not done all that it should have."""
        return self._interrupted or bool(self._failures)

    def let_outside_go_on(self) -> None:
        if self.outside is not None:
            self._let_go_on(self.outside)

    def _let_go_on(self, exception: BaseException) -> None:
        # R18: what comes from outside goes on when all have run, unless something of its
        # rank is on its way out already.
        if self.leaving is None or isinstance(self.leaving, Exception):
            self.leaving = exception


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


async def drive(
    unwind: Unwind,
    pop: Pop,
    call: Call,
    guard: TaskGuard,
) -> None:
    """Run the unwind in the current task of the running loop."""
    unwind.guard = guard
    spot = unwind.spot
    spot.at = (get_ident(), guard.home, guard.task)
    steps = unwind.steps(pop, call)
    try:
        spot.begin()
        registration, awaitable = next(steps)
        while True:
            result, error = None, None
            limit, shields = spot.limit, registration._exit is None
            try:
                if shields and guard.needs_shield(limited=limit is not None):
                    with spot.excused():
                        guard.shield()
                if limit is None or limit.elsewhere:
                    result = await awaitable
                else:
                    result = await bounded(spot, awaitable, guard.scope if shields else None)
            except BaseException as exc:
                error = exc
                if not guard.is_here():
                    # This coroutine is being closed from outside of its task, and may not
                    # await again. What has not run stays on the stack.
                    unwind.stop()
            if limit is not None and limit.expired:
                error = guard.leave(error) if shields else guard.without_its_own(error)
            registration, awaitable = _resume(steps, result, error)
    except StopIteration:
        pass
    finally:
        # Or its traceback, which holds this frame, makes a cycle, and keeps all of them.
        error = result = awaitable = None
        guard.unshield()
        spot.end()


def drive_sync(
    unwind: Unwind,
    pop: Pop,
    call: Call,
    run: Callable[[Any, object | None, Spot], object],
) -> None:
    """Run the unwind with no loop running; `run` runs an awaitable on a loop of its home."""
    spot = unwind.spot
    steps = unwind.steps(pop, call)
    try:
        spot.begin()
        registration, awaitable = next(steps)
        while True:
            result, error = None, None
            try:
                result = run(awaitable, registration.home, spot)
            except BaseException as exc:
                error = exc
            registration, awaitable = _resume(steps, result, error)
    except StopIteration:
        pass
    finally:
        error = result = awaitable = None  # see drive
        spot.end()


def _resume(steps: Steps, result: object, error: BaseException | None) -> tuple[Registration, Any]:
    # Never inside the `except` block that caught the error: what the next callbacks
    # raise would take it for their context.
    try:
        return steps.send(result) if error is None else steps.throw(error)
    finally:
        del error
