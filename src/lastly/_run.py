"""run: a program's whole life on one event loop, its signals and its exit status.

Stands on top of all but __init__.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial

from ._aside import aside, settle
from ._backends import current_home, nothing
from ._checks import check_main, checked_backend, checked_seconds, checked_status
from ._errors import is_success, reraise
from ._ladder import signals as process
from ._loops import LoopWait
from ._main import Main
from ._manager import default
from ._outcome import Reason
from ._registration import dispose, is_awaitable, qualified_name
from ._signals import DEFAULT, Handlers, checked_signals, is_main_thread
from ._unwind import Unwind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import Any, TypeVar, TypeVarTuple

    from ._ladder import Request

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")


def run(
    main: Callable[[*Ts], Awaitable[T]] | Coroutine[Any, Any, T],
    /,
    *args: *Ts,
    backend: str = "asyncio",
    backend_options: Mapping[str, Any] | None = None,
    grace: float | None = None,
    signals: Iterable[int] = DEFAULT,
    signal_exit_code: int | None = None,
) -> T | None:
    """Run a program's main on a fresh event loop, unwind the default manager, return the result.

    `main` is an async function, called with `args`, or a coroutine. `backend` ("asyncio" or
    "trio") and `backend_options` are those of `anyio.run`: `{"use_uvloop": True}`, say. When
    main ends, however it does, everything on the default manager unwinds in its task, before
    the loop is torn down (R24). `grace`, in seconds, is the manager's for this run.

    The first of `signals`, or `request_shutdown`, wakes whoever waits in `wait_requested` and
    leaves main to return; if nobody waits there, main is cancelled. With a grace its clock
    starts then, and a main that has not returned after half of it is cancelled. The second
    signal cancels main and forces the unwind (R22), and is logged with where that was. The
    third one kills (R25). Handlers are put back afterwards. Signals that are ignored stay so,
    and in a thread other than the main one there are none.

    After a signal it raises `SystemExit`, with `signal_exit_code` or 128 + the signal's number,
    so that the interpreter ends in the normal way (R26); after `request_shutdown` it returns
    what main did, or None if that was cancelled (R28). What main or a callback raises comes
    out. Where `errors="log"` keeps a failure back, SystemExit(1) is raised.

    Raises `TypeError` or `ValueError` for bad arguments, and `RuntimeError` where an event loop
    is running; and then main is not called.

    >>> import lastly
    >>> async def main(name):
    ...     lastly.defer(print, "closed")
    ...     return f"hello, {name}"
    >>> lastly.run(main, "world")
    closed
    'hello, world'
    """
    try:
        check_main(main, args)
        checked_backend(backend, backend_options)
        grace = checked_seconds("grace", grace)
        checked_status(signal_exit_code)
        signals = checked_signals(signals)
        if current_home() is not None:
            raise RuntimeError(
                "run() cannot run in a thread whose event loop is running; did you forget to "
                "write `await main()` there, in `async with lastly.lifespan():`?"
            )
        run = _Run(partial(_started, main, args), signal_exit_code)
        result: T | None = run.run(backend, backend_options, grace, signals)
        return result
    finally:
        dispose(main)  # a coroutine that has not begun; one that has ended does not mind


def _started(main: Any, args: tuple[Any, ...]) -> Any:
    awaitable: Any = main
    if not isinstance(main, Coroutine):
        awaitable = main(*args)
    if is_awaitable(awaitable):
        return awaitable
    raise TypeError(
        f"run() needs an async function, but {qualified_name(main)} returned "
        f"{'None' if awaitable is None else f'an object of type {type(awaitable).__qualname__}'}; "
        "did you forget `async def`?"
    )


def _run_on(
    backend: str, root: Callable[[], Coroutine[Any, Any, Any]], options: Mapping[str, Any] | None
) -> Any:
    if backend == "asyncio" and not options:
        # What anyio would do, too. It takes longer to load than a small program to run.
        import asyncio  # lazy: `import lastly` does not pay for it

        return asyncio.run(root())
    import anyio  # lazy: see above

    return anyio.run(root, backend=backend, backend_options=dict(options or {}))


class _Run:
    """One run: what has been asked of it, and what came of it."""

    def __init__(self, start: Callable[[], Any], signal_exit_code: int | None) -> None:
        self._start = start
        self._signal_exit_code = signal_exit_code
        self._handlers = Handlers(self._leave, self._forced)
        self._ladder = default._ladder
        self._request: Request | None = None
        self._main: Main | None = None
        self._rest: LoopWait | None = None
        self._stop_waking: Callable[[], object] = nothing
        self._heeds = False
        self._unseen_before = Unwind.unseen

    def run(
        self,
        backend: str,
        backend_options: Mapping[str, Any] | None,
        grace: float | None,
        signals: tuple[int, ...],
    ) -> Any:
        settings = default._settings
        grace_before = settings.grace
        if grace is not None:
            settings.grace = grace
        try:
            self._listen(signals)
            result = _run_on(backend, self._root, backend_options)
        except SystemExit as exc:
            if is_success(exc) and self._hides_failures():
                exc.code = 1  # R12: it is not replaced. R26: nor is it a success
            raise
        finally:
            if self._rest is not None:
                self._rest.end()
            self._stop_waking()
            settle()
            if grace is not None:
                settings.grace = grace_before
            self._stop_listening()
        return self._result(result)

    def _listen(self, signals: tuple[int, ...]) -> None:
        for ladder in self._ladder:
            ladder.listeners[self._heard] = None
        self._heard()  # what has come before that
        if is_main_thread():
            self._handlers.install(signals)
        self._heeds = bool(self._handlers.previous)
        process.heeded += self._heeds

    def _stop_listening(self) -> None:
        for ladder in self._ladder:
            ladder.listeners.pop(self._heard, None)
        process.heeded -= self._heeds
        # Last, for the handlers that were there may raise.
        try:
            self._handlers.put_back()
        finally:
            default._ladder.reset()
            if self._heeds:
                process.reset()

    async def _root(self) -> Any:
        main = self._main = Main()  # from here on it can be cancelled
        if self._handlers.previous:
            from ._wakeup import wake_on_signals  # lazy: it loads sockets, and asyncio

            self._stop_waking = wake_on_signals(main.home)
        result = error = leaving = None
        try:
            main.may_be_left = True  # by an exception, which is caught here and nowhere else
            if self._request is None:  # else it came before main could begin
                awaitable = main.awaitable = self._start()
                result = await awaitable
            main.may_be_left = False
        except BaseException as exc:
            main.may_be_left = False
            error = exc
        try:
            leaving = main.end(error)
            unwind = default._unwind(Reason("scope exit"), leaving=leaving)
            unwind.main = main
            if error is not None and leaving is None:
                unwind.tell_exits(error)  # as `async with` would, or a task group would wait
            if not await default._aclose(unwind) and leaving is not None:
                reraise(leaving)
        finally:
            main.step_out()
            main.awaitable = awaitable = error = leaving = None  # make no cycle of tracebacks
            self._rest = LoopWait(default._settings)  # of the loop, from here on
            self._rest.begin()
        return result

    def _heard(self) -> None:
        """Heed the first request, in whatever thread or signal handler it is made."""
        if self._request is not None:
            return
        # Before main is looked for: if that is only just beginning, it sees this, or is seen.
        request = self._request = self._ladder.request
        main, settings = self._main, default._settings
        if main is None or request is None:
            return
        if not request.awaited:
            main.call_soon(main.cancel_between)
        aside(partial(main.watch, settings))
        if settings.grace is not None:
            left = request.since + settings.grace / 2 - settings.clock.now()
            main.cancel_after(max(0.0, left), self._handlers.interrupt)

    def _leave(self, rung: int, *_: object) -> BaseException | None:
        # At the first signal a main that is busy just now may yet await.
        return None if rung == 1 or self._main is None else self._main.interrupt()

    def _forced(self) -> None:
        if self._main is not None:
            self._main.call_soon(self._main.cancel_between)

    def _hides_failures(self) -> bool:
        return Unwind.unseen > self._unseen_before

    def _result(self, result: Any) -> Any:
        if self._hides_failures():
            raise SystemExit(1)
        received, request = self._handlers.received, self._request
        signum = received[0] if received else None if request is None else request.signum
        if signum is not None:
            code = self._signal_exit_code
            raise SystemExit(128 + signum if code is None else code)
        return result
