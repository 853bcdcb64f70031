"""Loop teardown: unwind what belongs to a loop of asyncio's or uvloop's, or a trio run, as it ends.

Touches only the loop object or the run at hand. Is told what to call; may import _backends,
_books, _errors, _outcome, _runners and _watch.
"""

from __future__ import annotations

import sys
import threading
from contextvars import copy_context
from functools import partial
from operator import is_

from ._backends import current_home, is_trio
from ._books import Books
from ._errors import reraise, warn
from ._outcome import describe
from ._runners import go_on, run_to_end
from ._watch import OneWait, threads_that_hold, told_of_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any

    from ._unwind import Unwind

    Handled = tuple[BaseException, TracebackType | None] | None
    # Unwinds one manager's registrations of that loop, unless there are none.
    Hook = Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, Unwind | None]]


def tie(loop: Any, hook: Hook, forget: Callable[[], object]) -> Callable[[], object] | None:
    """Have `hook(loop)` awaited when the loop is torn down, before what it needs is gone.

    Calls `forget` when the loop has gone. Returns a function that takes the hook back; or None
    where it could not be tied, in another thread than that of a trio run.
    """
    teardown: Any
    if is_trio(loop):
        # Another thread may come here, too: when the run has a teardown, or is over.
        teardown = _of_runs.get(loop) or (current_home() is loop and _TrioTeardown(loop))
        if not teardown:
            return None
    else:
        teardown = getattr(loop.close, "__self__", None)
        if not isinstance(teardown, _Teardown):
            teardown = _LoopTeardown(loop)
    # A key of its own: who takes back an older hook of the same manager leaves this one.
    key = object()
    teardown.hooks[key] = (hook, forget)
    return partial(teardown.hooks.pop, key, None)


class _Teardown:
    """The hooks of one loop, and what has unwound because it ended."""

    def __init__(self, loop: Any) -> None:
        self.hooks: dict[object, tuple[Hook, Callable[[], object]]] = {}
        self._loop = loop
        self._unwinds: list[Unwind] = []

    async def _unwind(self) -> None:
        ran = True
        while ran:
            ran = False
            for hook, _ in reversed(list(self.hooks.values())):
                unwind = await hook(self._loop)
                if unwind is not None:
                    self._unwinds.append(unwind)
                    ran = True

    def _let_go(self) -> None:
        while self.hooks:
            _, (_, forget) = self.hooks.popitem()
            forget()


class _LoopTeardown(_Teardown):
    """Stand in for `shutdown_asyncgens` and `close` of one loop object.

    Runners call the first while everything still works; what was not unwound there,
    because nobody called it or because it was broken off, is unwound in `close`. There,
    too, the exception comes out: raised any earlier it would skip the rest of the
    runner's own teardown.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._task: asyncio.Task[Any] | None = None
        self._wait: LoopWait | None = None
        self._handled = _handled()
        self.owner = threading.current_thread()  # see owner_of
        self._shutdown_asyncgens = loop.shutdown_asyncgens
        self._close = loop.close
        loop.shutdown_asyncgens = self.shutdown_asyncgens  # type: ignore[method-assign]
        loop.close = self.close  # type: ignore[method-assign]

    async def shutdown_asyncgens(self) -> None:
        # Before the original, which marks the loop: async generators that start later,
        # and every @asynccontextmanager is one, draw a ResourceWarning.
        await self._unwind()
        if self._unwinds and self._wait is None:
            # What follows is not ours, but a callback that was cut short may have left there
            # what holds it up: a thread of the loop's executor, above all.
            self._wait = LoopWait(self._unwinds[-1].spot.settings)
            self._wait.begin()
        await self._shutdown_asyncgens()

    async def _unwind(self) -> None:
        self._task = sys.modules["asyncio"].current_task()
        await super()._unwind()

    def close(self) -> None:
        loop = self._loop
        if loop.is_running() or loop.is_closed():
            self._close()  # refuses the one, and takes the other in good part
            return
        # What was being handled when the loop was tied is not on its way out of this call:
        # think of `except KeyboardInterrupt: asyncio.run(clean_up())`. It has grown a
        # longer traceback if it was raised on from there.
        leaving = None if _is_same(_handled(), self._handled) else sys.exception()
        try:
            if self._task is not None and not self._task.done():
                # A KeyboardInterrupt, say, broke out of run_until_complete.
                _in_a_free_thread(partial(go_on, loop, self._task, leaving))
            if self.hooks:
                _in_a_free_thread(partial(run_to_end, loop, self._unwind()))
        finally:
            self._untie()
            self._close()
            if self._wait is not None:
                self._wait.end()
        error = leaving
        for unwind in self._unwinds:
            if unwind.leaving is not None and (error is None or isinstance(error, Exception)):
                error = unwind.leaving
            error = unwind.verdict(error)
        if error is not None and error is not leaving:
            reraise(error)

    def _untie(self) -> None:
        # Breaks the cycle with the loop; whatever somebody else has put on top stays.
        self._let_go()
        self._handled = None
        if self._loop.close == self.close:
            del self._loop.close
        if self._loop.shutdown_asyncgens == self.shutdown_asyncgens:
            del self._loop.shutdown_asyncgens


class _TrioTeardown(_Teardown):
    """Watch a trio run for the end of its main, and unwind before anything else ends.

    As a system task, which the run waits for. Not in the `finally` of an async generator that is
    left suspended: trio ends those later, in no order, when no system task can start, as its own
    wait for a subprocess may have to; and a limit of ours.
    """

    def __init__(self, token: Any) -> None:
        super().__init__(token)
        lowlevel = sys.modules["trio.lowlevel"]
        # The nurseries that hold a run together: the innermost is that of main. Without one
        # main has ended, and what is registered so late is left to the interpreter's exit.
        nurseries = lowlevel.current_root_task().child_nurseries
        self._main = next(iter(nurseries[-1].child_tasks), None) if len(nurseries) > 2 else None  # noqa: PLR2004
        if self._main is not None:
            lowlevel.add_instrument(self)
            _of_runs[token] = self

    def task_exited(self, task: Any) -> None:
        """Be told by trio that a task has ended."""
        if task is self._main:
            self._main = None
            sys.modules["trio.lowlevel"].spawn_system_task(self._run, name="lastly: teardown")

    async def _run(self) -> None:
        # Nothing may come out, or trio breaks down. The run is cancelling its system tasks.
        try:
            with sys.modules["trio"].CancelScope(shield=True):
                await self._unwind()
        except BaseException as exc:
            _tell(exc)
        for unwind in self._unwinds:
            if (error := unwind.verdict(unwind.leaving)) is not None:
                _tell(error)
        self._let_go()
        _of_runs.pop(self._loop, None)


def _tell(error: BaseException) -> None:
    Books.unseen += 1
    warn("trio.run cannot raise what has come out of its teardown: %s", describe(error))


_of_runs: dict[Any, _TrioTeardown] = {}


class LoopWait(OneWait):
    """The rest of a loop's teardown (R23)."""

    __slots__ = ()

    def tell(self, elapsed: float) -> str | None:
        threads = threads_that_hold()
        told = f"still waiting for the event loop to be torn down, for {elapsed:.1f} s"
        return "\n".join((told, *map(told_of_thread, threads)))


def _handled() -> Handled:
    exception = sys.exception()
    return None if exception is None else (exception, exception.__traceback__)


def _is_same(one: Handled, other: Handled) -> bool:
    # Not by `==`, which is the user's for an exception.
    return one is other or (one is not None and other is not None and all(map(is_, one, other)))


def _in_a_free_thread(work: Callable[[], None]) -> None:
    """Do what runs a loop in this thread, or if another loop runs here, in one of its own."""
    if current_home() is None:
        work()
        return
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            errors.append(exc)

    # With this context: a callback that closes a loop is still inside its unwind.
    thread = threading.Thread(target=copy_context().run, args=(run,))
    thread.start()
    thread.join()
    for error in errors:
        reraise(error)
