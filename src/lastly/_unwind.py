"""The one loop that runs registrations newest first, for sync and async alike.

A generator pops, calls and keeps the books; it yields what needs awaiting and is thrown
what that raised. May import _registration and _outcome; it is told what to pop and call.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from contextlib import suppress
from threading import current_thread
from time import perf_counter

from ._outcome import Outcome, Report, Status, describe
from ._registration import finish, is_awaitable, postpone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, NoReturn, Protocol

    from ._outcome import Reason
    from ._registration import Registration

    Steps = Generator[tuple[Registration, Any], Any, None]

    class Guard(Protocol):
        """What the generator needs from the task that unwinds."""

        @property
        def scope(self) -> object | None: ...
        def unshield(self) -> None: ...
        def is_cancellation(self, exception: BaseException, /) -> bool: ...
        def interrupted(self, exception: BaseException, /) -> bool: ...
        def consumed(self, cancellation: BaseException, /) -> bool: ...

    class TaskGuard(Guard, Protocol):
        """What the async driver needs besides."""

        def shield(self) -> None: ...
        def is_here(self) -> bool: ...


logger = logging.getLogger("lastly")

_MACHINERY = (__package__, "asyncio")


class CannotAwaitError(RuntimeError):
    """Tell the generator that its driver cannot await what it was given."""


class _NoGuard:
    """Stand in where no task unwinds: there is no scope around it and no cancellation."""

    scope = None

    def unshield(self) -> None: ...
    def is_cancellation(self, _: BaseException, /) -> bool:
        return False

    interrupted = consumed = is_cancellation


class Unwind:
    """Hold the state of one unwind; `steps` is the loop, the drivers are below.

    `home` is None for an unwind of the whole manager. `leaving` is the exception that
    is on its way out of the scope around the unwind. `guard` is that of the async driver.
    `done` resolves, always to None, once the books are closed.
    """

    def __init__(
        self, reason: Reason, *, home: object | None = None, leaving: BaseException | None = None
    ) -> None:
        self.reason = reason
        self.home = home
        self.leaving = leaving
        self.guard: Guard = _NoGuard()
        self.error: BaseException | None = None
        self.report: Report | None = None
        self.postponed: Registration | None = None
        self.complete = False
        self.thread = current_thread()
        self.calling: object | None = None  # the home of the callback that runs
        self.done: Future[None] = Future()
        self._stopping = False
        self._instead: BaseException | None = None  # what an exit made of `leaving`
        self._outcomes: list[Outcome] = []
        self._failures: list[Outcome] = []
        self._started = perf_counter()

    def steps(
        self,
        pop: Callable[[], Registration | None],
        call: Callable[[Registration, BaseException | None], Any],
    ) -> Steps:
        """Run registrations until `pop` has no more, whatever they raise (R2, R9)."""
        guard = self.guard
        while (registration := pop()) is not None:
            registration._status = Status.RUNNING
            self.calling = registration._home
            told = self._instead if self.leaving is None else self.leaving
            start = perf_counter()
            result = exception = None
            try:
                # R8: cancel scopes nest, and a context manager that was entered before
                # the shield went up may hold one open around it.
                if registration._takes_exception and registration._shield is not guard.scope:
                    guard.unshield()
                result = call(registration, told)
                if result is not None and is_awaitable(result):
                    result = yield registration, result
            except CannotAwaitError:
                postpone(registration, result)
                self.postponed = registration
                return
            except BaseException as exc:
                exception = exc
            interrupted = exception is not None and (self._stopping or guard.interrupted(exception))
            if registration._takes_exception and told is not None:
                exception = self._after_exit(told, result, exception)
            self._record(registration, start, exception, interrupted)
            if self._stopping:
                return
        self.complete = True

    def stop(self) -> None:
        """Make the generator stop at the exception that it is thrown next."""
        self._stopping = True

    def _after_exit(
        self, told: BaseException, result: object, exception: BaseException | None
    ) -> BaseException | None:
        """Apply what a context manager's exit did with what it was told, as `with` does."""
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

    def close_books(self, errors: str) -> Report:
        """Settle the report and which exception comes out, under the manager's `errors`."""
        self.report = Report(self.reason, tuple(self._outcomes), perf_counter() - self._started)
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
                f"lastly: {_count(self._failures, 'callback')} failed", raised
            )
            earlier = []
        if self.error is not None and earlier:
            lead = f"{_count(earlier, 'earlier failure')} in this unwind"
            _add_note(self.error, f"{lead}: {_list(earlier)}")
        return self.report

    def verdict(self, leaving: BaseException | None) -> BaseException | None:
        """Return the exception that must come out of a scope that `leaving` leaves (R12)."""
        if leaving is not None and not isinstance(leaving, Exception):
            if self._failures:
                lead = f"{_count(self._failures, 'callback')} failed while this was on its way out"
                _add_note(leaving, f"{lead}: {_list(self._failures)}")
            elif self.error is not None:  # close() was refused
                _add_note(leaving, str(self.error))
            return leaving
        if self.error is None:
            return leaving
        if leaving is not None:
            _chain(self.error, leaving)
        return self.error

    def _record(
        self,
        registration: Registration,
        start: float,
        exception: BaseException | None,
        interrupted: bool,
    ) -> None:
        if exception is None:
            status = Status.OK
        else:
            status = Status.INTERRUPTED if interrupted else Status.FAILED
        finish(registration, status)
        outcome = Outcome(
            registration.name,
            registration._place,
            status,
            start - self._started,
            perf_counter() - start,
            exception,
        )
        self._outcomes.append(outcome)
        if exception is None:
            return
        if interrupted:
            self._let_go_on(exception)
        else:
            self._failures.append(outcome)
        try:
            _log(outcome, exception)
        except BaseException as exc:  # Ctrl-C inside a log handler, say
            self._let_go_on(exc)

    def _let_go_on(self, exception: BaseException) -> None:
        # R18: what comes from outside goes on when all have run, unless something of its
        # rank is on its way out already.
        if self.leaving is None or isinstance(self.leaving, Exception):
            self.leaving = exception


async def drive(
    unwind: Unwind,
    pop: Callable[[], Registration | None],
    call: Callable[[Registration, BaseException | None], Any],
    guard: TaskGuard,
) -> None:
    """Run the unwind in the current task of the running loop."""
    unwind.guard = guard
    steps = unwind.steps(pop, call)
    try:
        registration, awaitable = next(steps)
        while True:
            result, error = None, None
            try:
                if not registration._takes_exception:
                    guard.shield()
                result = await awaitable
            except BaseException as exc:
                error = exc
                if not guard.is_here():
                    # This coroutine is being closed from outside of its task, and may not
                    # await again. What has not run stays on the stack.
                    unwind.stop()
            registration, awaitable = _resume(steps, result, error)
    except StopIteration:
        pass
    finally:
        error = None  # or its traceback, which holds this frame, makes a cycle
        guard.unshield()


def drive_sync(
    unwind: Unwind,
    pop: Callable[[], Registration | None],
    call: Callable[[Registration, BaseException | None], Any],
    run: Callable[[Any, object | None], object],
) -> None:
    """Run the unwind with no loop running; `run` runs an awaitable on a loop of its home."""
    steps = unwind.steps(pop, call)
    try:
        registration, awaitable = next(steps)
        while True:
            result, error = None, None
            try:
                result = run(awaitable, registration.home)
            except BaseException as exc:
                error = exc
            registration, awaitable = _resume(steps, result, error)
    except StopIteration:
        pass
    finally:
        error = None  # see drive


def _resume(steps: Steps, result: object, error: BaseException | None) -> tuple[Registration, Any]:
    # Never inside the `except` block that caught the error: what the next callbacks
    # raise would take it for their context.
    try:
        return steps.send(result) if error is None else steps.throw(error)
    finally:
        del error


def reraise(exception: BaseException) -> NoReturn:
    """Raise the object as it is: a plain `raise` would overwrite its `__context__`."""
    context = exception.__context__
    try:
        raise exception
    finally:
        with suppress(Exception):  # a frozen dataclass keeps what it has
            exception.__context__ = context
        del exception, context  # the traceback holds this frame: make no cycle


def _chain(exception: BaseException, context: BaseException) -> None:
    """Put `context` at the end of the exception's chain, as `finally` would have."""
    chain = {id(context)}
    last = exception
    while id(last) not in chain:  # else it is linked already, or the chain is a ring
        chain.add(id(last))
        if last.__context__ is None:
            with suppress(Exception):  # see reraise
                last.__context__ = context
            return
        last = last.__context__


def _log(outcome: Outcome, exception: BaseException) -> None:
    # The traceback begins where the user's code does, if it comes to that at all.
    begin = exception.__traceback__
    while begin is not None and begin.tb_frame.f_globals.get("__package__") in _MACHINERY:
        begin = begin.tb_next
    told = f"callback {outcome.name} ({outcome.origin}) {outcome.status}"
    # R10: a handler that raises is not worth the callbacks that have yet to run, and the
    # failure itself is in the report.
    with suppress(Exception):
        exception.with_traceback(begin or exception.__traceback__)
        if isinstance(exception, SystemExit):
            # atexit's rule: it was asked for, and is no error to print.
            logger.info("%s: %s", told, describe(exception))
        else:
            logger.error("%s", told, exc_info=exception)


def _count(things: list[Outcome], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _list(failures: list[Outcome]) -> str:
    return "; ".join(map(str, failures))


def _add_note(exception: BaseException, text: str) -> None:
    # A frozen exception, or one whose __notes__ is no list, goes without; the log has all.
    with suppress(Exception):
        exception.add_note(f"lastly: {text}")
