"""Signals: count them up the ladder, install handlers and put back what was there (R25, R27).

A handler takes no lock and logs nothing, for it may have interrupted whoever holds one; and it
raises nothing into an unwind. Is told what to call; may import what is below _manager.
"""

from __future__ import annotations

import os
import signal
import threading
from _thread import allocate_lock
from contextlib import suppress
from functools import partial
from itertools import count
from time import perf_counter, sleep

from ._aside import aside
from ._backends import nothing
from ._delivery import delivered
from ._errors import inform, logger, warn
from ._fork import in_child
from ._ladder import signals as ladder
from ._outcome import Reason
from ._unwind import in_progress
from ._watch import at, watchman
from ._where import stack_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Any

    # Is told the rung and the signal; returns what to raise where the signal came in, if
    # anything, and may raise it itself.
    Leave = Callable[[int, int, FrameType | None], BaseException | None]

_AGAIN = 0.05  # seconds

DEFAULT = (signal.SIGINT, signal.SIGTERM)


class Handlers:
    """Handle signals, and keep the handlers that stood there before.

    `leave` says in which way main is to be left. `forced` is called when the second signal has
    forced the unwinds.
    """

    def __init__(self, leave: Leave, forced: Callable[[], object]) -> None:
        self.previous: dict[int, Any] = {}
        self._leave = leave
        self._forced = forced
        self.start_anew()

    def start_anew(self) -> None:
        self.received: list[int] = []
        self._rungs = count(1)
        # For `interrupt`, whose own signals do not count.
        self._sending = allocate_lock()
        self._sent = self._ends = False

    def install(self, signums: Iterable[int]) -> None:
        for signum in signums:
            previous: Any = signal.getsignal(signum)
            if previous is _default_of_process_1:
                previous = signal.SIG_DFL
            # None is a handler that Python cannot put back. What is ignored stays so: nohup
            # asks for that, and so does a shell for what it starts in the background.
            if previous in (None, signal.SIG_IGN) or signum in self.previous:
                continue
            self.previous[signum] = previous
            signal.signal(signum, self.handle)
        _handling[self] = None

    def put_back(self) -> None:
        _handling.pop(self, None)
        with self._sending:
            self._ends = True
            # Python's own for SIGINT comes last, for it may raise in the middle of this.
            for signum in sorted(self.previous, key=signal.SIGINT.__eq__):
                previous = self.previous[signum]
                if previous is signal.SIG_DFL and os.getpid() == 1:
                    previous = _default_of_process_1
                signal.signal(signum, previous)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Climb one rung (R25)."""
        if self._sent:
            self._sent, self._ends = False, True
            self._interrupt(frame)
            return
        rung = next(self._rungs)  # at once: another signal may come in here
        self.received.append(signum)
        name = _name(signum)
        if rung > 2:  # noqa: PLR2004 - the ladder's last rung
            die(signum)
        if rung == 2:  # noqa: PLR2004
            ladder.forced = True
            self._step_aside()
        ladder.ask(Reason("signal", name), perf_counter(), signum)
        exception = self._leave(rung, signum, frame)
        if rung == 1:
            aside(partial(inform, "%s: shutting down", name))
        else:
            where = () if exception is None else stack_of(frame)
            aside(partial(self._force, name, where))
        if exception is not None:
            raise exception

    def interrupt(self) -> None:
        """Have the main thread leave what it is busy with, from another thread."""
        while self._send():
            sleep(_AGAIN)  # one that comes just before a call blocks does not interrupt that

    def _send(self) -> bool:
        with self._sending:  # it would kill, if the handler were gone
            if self._ends or len(self.received) > 1 or not self.previous or os.name == "nt":
                return False
            self._sent = True
            signal.pthread_kill(threading.main_thread().ident or 0, next(iter(self.previous)))
        return True

    def _interrupt(self, frame: FrameType | None) -> None:
        exception = self._leave(2, 0, frame)
        if exception is not None:
            where = stack_of(frame)
            aside(partial(warn, "half of the grace is over: main is left%s", at(where)))
            raise exception

    def _step_aside(self) -> None:
        # The third signal is the kernel's then, so that it ends a main thread that never comes
        # back from a function of C. But for process 1 the default is to do nothing.
        if os.getpid() != 1 and self._sending.acquire(blocking=False):
            for signum in self.previous:
                signal.signal(signum, signal.SIG_DFL)
            self._sending.release()

    def _force(self, name: str, where: tuple[str, ...]) -> None:
        """Cut it short, and log where it was, as a watch over it would have (R22)."""
        try:
            told = [f"main is left{at(where)}"]
            if not where:
                told = [text for wait in list(watchman.waits) if (text := wait.tell_now())]
        finally:
            for unwind in list(in_progress):
                unwind.force()
            self._forced()
        # At last, for a log handler may hang.
        logger().warning("%s, the second signal: forcing the shutdown\n%s", name, "\n".join(told))


def _name(signum: int) -> str:
    with suppress(ValueError):  # a real-time signal has none
        return signal.Signals(signum).name
    return f"signal {signum}"


def is_ours(handler: object) -> bool:
    return isinstance(getattr(handler, "__self__", None), Handlers)


def die(signum: int) -> None:
    """End the process by this signal, here and now."""
    signal.signal(signum, signal.SIG_DFL)
    with suppress(AttributeError):  # Windows knows no masks
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    signal.raise_signal(signum)
    os._exit(128 + signum)  # process 1 has survived that


def _default_of_process_1(signum: int, _: FrameType | None) -> None:
    # The kernel's would be to do nothing: what hangs after a run could not be ended any more.
    die(signum)


def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def checked_signals(signums: Iterable[Any]) -> tuple[int, ...]:
    """Return the signals as numbers, or refuse what is none or cannot be handled."""
    try:
        checked = tuple(signums)
    except TypeError:
        raise TypeError(f"signals={signums!r} are no signals; write several, or a tuple") from None
    for signum in checked:
        if isinstance(signum, bool) or not isinstance(signum, int):
            raise TypeError(f"{signum!r} is no signal; write one like signal.SIGTERM")
        fixed = {getattr(signal, "SIGKILL", None), getattr(signal, "SIGSTOP", None)}
        if signum not in signal.valid_signals() or signum in fixed:
            raise ValueError(f"{signum!r} is no signal that a process can handle")
    return checked


def install_signal_handlers(*signums: int) -> None:
    """Make signals that would kill the process end it in the normal way, in any program.

    For what does not use `run`: a sync program, `asyncio.run`, or `uvicorn.run`, before which it
    is to be called. SIGINT and SIGTERM unless others are given. On the first one, SystemExit(128
    + its number) is raised in the main thread, also out of `time.sleep` and other waits; where
    an event loop runs there, it is raised by that, out of `asyncio.run`. So each `finally` runs,
    and then all that is registered. In an unwind nothing is raised before that is done, and
    whoever waits in `wait_requested` is left to return by itself. The second signal raises it
    again, and forces the unwind (R22); the third one kills.

    A handler that was there is called instead of that, `KeyboardInterrupt` for SIGINT included.
    A signal that is ignored stays so. To call it again changes nothing.

    Raises `RuntimeError` in any other thread than the main one, `TypeError` and `ValueError` for
    what is no signal or cannot be handled.

    >>> import lastly
    >>> lastly.install_signal_handlers()  # doctest: +SKIP
    """
    if not is_main_thread():
        raise RuntimeError(
            "install_signal_handlers() has to be called in the main thread, where Python runs them"
        )
    signums = checked_signals(signums) or DEFAULT
    if not _installed.previous:
        ladder.heeded += 1
    _installed.install(s for s in signums if not is_ours(signal.getsignal(s)))


def _leave_program(rung: int, signum: int, frame: FrameType | None) -> BaseException | None:
    previous = _installed.previous[signum]
    request = ladder.request
    is_default = previous in (signal.SIG_DFL, signal.default_int_handler)
    if is_default and rung == 1 and request is not None and request.awaited:
        return None
    if previous is signal.SIG_DFL:
        return delivered(SystemExit(128 + signum), rung)
    try:
        previous(signum, frame)
    except BaseException as exc:
        return delivered(exc, rung)
    return None


_installed = Handlers(_leave_program, nothing)
_handling: dict[Handlers, None] = {}


def _start_anew() -> None:
    # What a run has installed goes: it is the parent's, and a worker process that is told to
    # terminate has to. What handles signals in any program does so in the child, too.
    for handlers in reversed(list(_handling)):
        handlers.start_anew()
        if handlers is not _installed:
            handlers.put_back()


in_child(_start_anew)
