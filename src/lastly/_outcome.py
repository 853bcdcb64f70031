"""What happened: to one callback (Outcome), to a whole unwind (Report), and why (Reason).

Pure data: imports nothing of lastly's, and nothing that `logging` does not load.
"""

from __future__ import annotations

from enum import StrEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType
    from typing import Any, Protocol

    class Registration(Protocol):
        """One that has run, and ended `ok`."""

        @property
        def name(self) -> str: ...
        @property
        def _place(self) -> Place: ...

    Place = tuple[CodeType, int]  # and the instruction in it


class Status(StrEnum):
    """Say how far a registration has come; from `ok` on, how an outcome can end.

    A string, so that it compares with and prints as its value.

    >>> Status.OK == "ok"
    True
    """

    PENDING = "pending"
    RUNNING = "running"
    CANCELLED = "cancelled"
    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    FORCED = "forced"
    ABANDONED = "abandoned"
    INTERRUPTED = "interrupted"


class CleanupTimeout(TimeoutError):  # noqa: N818 - the contract names it
    """Say that a callback was cut short, why, and where it was waiting.

    `name` and `origin` are those of its registration; `where` holds the lines that it was
    waiting at, the innermost last, taken before it was cancelled.

    >>> import asyncio, lastly
    >>> async def hang():
    ...     await asyncio.Event().wait()
    >>> async def main():
    ...     manager = lastly.ShutdownManager()
    ...     manager.defer(hang, timeout=0.01)
    ...     await manager.aclose()
    >>> try:
    ...     asyncio.run(main())
    ... except lastly.CleanupTimeout as timeout:
    ...     print(timeout.name)
    hang
    """

    __module__ = "lastly"  # what tracebacks print

    name: str = ""
    origin: str = ""
    where: tuple[str, ...] = ()


class Reason:
    """Say what started an unwind: the trigger, and the caller's own words if it gave any.

    `trigger` is one of "close", "scope exit", "loop teardown", "interpreter exit", "signal",
    with the signal's name as the caller's words, and "request", for `request_shutdown`.

    >>> str(Reason("close", "deploy"))
    'close: deploy'
    """

    __slots__ = ("detail", "trigger")

    def __init__(self, trigger: str, detail: str | None = None) -> None:
        self.trigger: str = trigger
        self.detail: str | None = detail

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reason):
            return NotImplemented
        return (self.trigger, self.detail) == (other.trigger, other.detail)

    def __hash__(self) -> int:
        return hash((self.trigger, self.detail))

    def __str__(self) -> str:
        return self.trigger if self.detail is None else f"{self.trigger}: {self.detail}"

    def __repr__(self) -> str:
        return f"Reason({self.trigger!r}, {self.detail!r})"


class Outcome:
    """Hold what happened to one callback.

    `start` and `duration` are seconds; `start` counts from the start of the unwind.
    `exception` is the object that the callback raised, or None.
    """

    __slots__ = ("_place", "duration", "exception", "name", "start", "status")

    def __init__(
        self,
        name: str,
        place: Place,
        status: Status,
        start: float,
        duration: float,
        exception: BaseException | None = None,
    ) -> None:
        self.name: str = name
        self._place = place
        self.status: Status = status
        self.start: float = start
        self.duration: float = duration
        self.exception: BaseException | None = exception

    @property
    def origin(self) -> str:
        """Where the callback was registered, as "file:line"."""
        return origin(self._place)

    def __str__(self) -> str:
        told = f"{self.name} ({self.origin}) {self.status}"
        if self.exception is None:
            return told
        line, _, _ = describe(self.exception).partition("\n")
        # A CleanupTimeout says itself what, where and how.
        return line if isinstance(self.exception, CleanupTimeout) else f"{told}: {line}"

    def __repr__(self) -> str:
        return f"<Outcome {self}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as a dict that `json.dumps` takes; the exception becomes text."""
        return {
            "name": self.name,
            "origin": self.origin,
            "status": self.status.value,
            "start": self.start,
            "duration": self.duration,
            "exception": None if self.exception is None else describe(self.exception),
        }


class Ran:
    """Note what has run, at as little cost as can be: most reports are never read.

    `entries` holds registrations, of those that ended `ok`, and the outcomes of all others;
    `ends` tells for each when the next one could begin. Iterating makes outcomes of all.
    """

    __slots__ = ("began", "ends", "entries")

    def __init__(self, began: float) -> None:
        self.began = began
        self.entries: list[Outcome | Registration] = []
        self.ends: list[float] = []

    def __iter__(self) -> Iterator[Outcome]:
        start = self.began
        for entry, end in zip(self.entries, self.ends, strict=True):
            if isinstance(entry, Outcome):
                yield entry
            else:
                yield Outcome(entry.name, entry._place, Status.OK, start - self.began, end - start)
            start = end


class Report:
    """Hold what happened in one unwind: its reason, its duration in seconds, and its outcomes.

    `outcomes` are in the order in which the callbacks ran; `failures` are those among
    them that did not end `ok`; `ok` is whether there are none. `str(report)` is a summary
    to paste into an incident.

    >>> Report(Reason("close"), (), 0.0).ok
    True
    """

    __slots__ = ("_outcomes", "duration", "reason")

    def __init__(self, reason: Reason, outcomes: Iterable[Outcome], duration: float) -> None:
        self.reason: Reason = reason
        self._outcomes: Iterable[Outcome] = outcomes
        self.duration: float = duration

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What happened to each callback, in the order in which they ran."""
        made = tuple(self._outcomes)
        self._outcomes = made
        return made

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The outcomes that are not `ok`, in the order in which they ran."""
        return tuple(outcome for outcome in self.outcomes if outcome.status is not Status.OK)

    @property
    def ok(self) -> bool:
        """Whether every callback ended `ok`."""
        return not self.failures

    def __repr__(self) -> str:
        return (
            f"<Report of {self.reason}: {len(self.outcomes)} run, "
            f"{len(self.failures)} failed, {self.duration:.3f} s>"
        )

    # What draws is loaded when somebody looks: few reports are.

    def __str__(self) -> str:
        from . import _render

        return _render.summary(self)

    def blame(self) -> str:
        """Return a text that lists the callbacks, the slowest first (R30)."""
        from . import _render

        return _render.blame(self)

    def timeline(self, *, width: int | None = None, ascii_only: bool | None = None) -> str:
        """Return a text that draws when each callback ran, as bars (R30).

        `width` is in columns, that of the terminal unless given. `ascii_only` keeps to
        ASCII; unless given it is what the encoding of stdout asks for.
        """
        from . import _render

        return _render.timeline(self, width=width, ascii_only=ascii_only)

    def to_svg(self) -> str:
        """Return an SVG picture of the timeline, which needs nothing besides itself (R30)."""
        from . import _picture

        return _picture.to_svg(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict that `json.dumps` takes."""
        return {
            "reason": {"trigger": self.reason.trigger, "detail": self.reason.detail},
            "ok": self.ok,
            "duration": self.duration,
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
        }


def origin(place: Place) -> str:
    """Return "file:line" of a place in code."""
    code, instruction = place
    # An instruction of the compiler's own has no line; the function's is near enough.
    lines = (line for start, end, line in code.co_lines() if start <= instruction < end)
    return f"{code.co_filename}:{next(lines, None) or code.co_firstlineno}"


def kind_of(given: object) -> str:
    """Return the name of an object's type, whatever its metaclass makes of that."""
    return plain(type.__getattribute__(type(given), "__qualname__"))


def plain(text: str) -> str:
    """Return a text that runs no code of the user's when it is printed, as a subclass may."""
    return text if type(text) is str else str.__str__(text)


def one_line(text: str) -> str:
    """Return the text of a name, without what would break a line or steer a terminal."""
    text = plain(text)
    if text.isprintable():
        return text
    from ._render import clean  # lazy: it loads what draws

    return clean(text)


def describe(exception: BaseException) -> str:
    """Return "Type: text" for an exception, also where its `__str__` raises."""
    kind = kind_of(exception)
    try:
        text = plain(str(exception))
    except Exception:
        text = "<its text cannot be shown>"
    return f"{kind}: {text}" if text else kind
