"""The books of an unwind: what ran, what failed, and what comes out of it (R10, R11, R12).

May import _errors, _outcome and _registration.
"""

from __future__ import annotations

from ._errors import add_note, chain, count, is_success, leaves, listed, log
from ._outcome import Outcome, Ran, Report, Status
from ._registration import finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._outcome import Reason
    from ._registration import Registration
    from ._settings import Settings


class Books:
    """Keep the books of one unwind.

    `leaving` is the exception that is on its way out of the scope around the unwind; `outside`
    is what a signal handler would have raised in the middle of it (R9), and goes on when it is
    done. `error` is what comes out. `postponed` are those whose callback was called, and whose
    awaitable could not be awaited. `unseen` counts, in the whole process, whose failures came
    out nowhere: R26 asks for it.
    """

    unseen = 0  # += may lose one of two at once, but not that there was one

    def __init__(self, reason: Reason, settings: Settings, leaving: BaseException | None) -> None:
        self.reason = reason
        self.settings = settings
        self.leaving = leaving
        self.outside: BaseException | None = None
        self.error: BaseException | None = None
        self.postponed: list[Registration] = []
        self.ran = Ran(settings.clock.now())
        self._made: list[BaseException] = []  # of `leaving`, by one exit after the other
        self._failures: list[Outcome] = []
        self._interrupted = False

    def tell_exits(self, exception: BaseException) -> None:
        """Tell exits of an exception that they are to see, though it leaves no scope."""
        self._made = [exception]

    @property
    def told(self) -> BaseException | None:
        """What the next exit is told: what the one above it has made of `leaving`, if it has."""
        return self._made[-1] if self._made else self.leaving

    def make(self, exception: BaseException, told: BaseException | None) -> None:
        """Have the exits below told what an exit has raised that was told of another, or none."""
        # R11: what is in it, as in a task group's, or what it is left of, has not failed twice.
        parts = [] if told is None else leaves(told)
        if any(leaf is part for leaf in leaves(exception) for part in parts):
            self._failures = [o for o in self._failures if o.exception is not told]
        self._made.append(exception)

    def swallow(self, told: BaseException) -> None:
        """Have nothing come out of what an exit has swallowed, or of what that was made of."""
        # R12: except for control flow, of which it was not told.
        if told is self.leaving or isinstance(self.leaving, Exception):
            self.leaving = None
        made, self._made = self._made, []
        self._failures = [o for o in self._failures if not any(o.exception is m for m in made)]

    def record(
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
            start - self.ran.began,
            self.settings.clock.now() - start,
            exception,
        )
        self.ran.entries.append(outcome)
        if exception is None:
            return
        if status is Status.INTERRUPTED:
            self._interrupted = True
            self.let_go_on(exception)
        else:
            self._failures.append(outcome)
        try:
            log(outcome, exception)
        except BaseException as exc:  # Ctrl-C inside a log handler, say
            self.let_go_on(exc)

    def close_books(self) -> Report:
        """Settle which exception comes out, under the manager's `errors`; return the report."""
        errors = self.settings.errors
        report = Report(self.reason, self.ran, self.settings.clock.now() - self.ran.began)
        raised = [o.exception for o in self._failures if o.exception is not None]
        earlier = self._failures
        if self.postponed:
            name, origin = self.postponed[0].name, self.postponed[0].origin
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
        return report

    def verdict(self, leaving: BaseException | None) -> BaseException | None:
        """Return the exception that must come out of a scope that `leaving` leaves (R12)."""
        if leaving is not None and not isinstance(leaving, Exception):
            if self._lost:
                Books.unseen += 1
            if self._failures:
                lead = f"{count(self._failures, 'callback')} failed while this was on its way out"
                add_note(leaving, f"{lead}: {listed(self._failures)}")
            elif self.error is not None:  # close() was refused
                add_note(leaving, str(self.error))
            return leaving
        if self.error is None:
            if self._lost:
                Books.unseen += 1  # errors="log"
            return leaving
        if leaving is not None:
            chain(self.error, leaving)
        is_alone = not self._interrupted and len(self._failures) <= 1 and leaving is None
        if is_success(self.error) and not is_alone:
            Books.unseen += 1  # whatever reads the exit status
        return self.error

    @property
    def _lost(self) -> bool:
        """Whether a callback has not done all that it should have."""
        return self._interrupted or bool(self._failures)

    def let_outside_go_on(self) -> None:
        if self.outside is not None:
            self.let_go_on(self.outside)

    def let_go_on(self, exception: BaseException) -> None:
        # R18: what comes from outside goes on when all have run, unless something of its
        # rank is on its way out already.
        if self.leaving is None or isinstance(self.leaving, Exception):
            self.leaving = exception
            self._made = []  # that was before
