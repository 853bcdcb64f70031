"""Homes: how to run callbacks, and what they return, on the loop that they belong to.

May import what is below _runners, and that.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from contextvars import copy_context
from functools import partial

from ._backends import (
    call_soon,
    cancellations,
    current_home,
    current_task,
    is_closed,
    is_elsewhere,
    is_trio,
    load_anyio,
    thread_of,
    wait,
)
from ._errors import chain, consists_of, reraise, warn
from ._limits import in_time
from ._registration import call, is_awaitable
from ._runners import CLOSED, refuse_to_await, run_on, run_to_end, runner_of
from ._threads import InThread
from ._where import thread_stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

    from ._registration import Registration
    from ._spot import Spot, Step


_LOOKS, _STANDS_STILL = 0.05, 10  # seconds between looks, and so many looks
_LEEWAY = 0.5  # seconds


def call_at_home(registration: Registration, leaving: BaseException | None, spot: Spot) -> Any:
    """Call the callback from inside a loop; return its result, or what to await for it.

    A home that is another loop gets the call in a worker thread that waits for it (R17).
    """
    home: Any = registration.home
    if home is None or home is current_home() or _wants_thread(registration):
        return _call_here(registration, leaving, spot)
    if is_closed(home):
        return refuse_to_await(call(registration, leaving))
    if spot.limit is not None:
        spot.limit.elsewhere = True
    return _in_worker_thread(registration, leaving, spot, is_elsewhere(home))


def call_from_outside(
    prepare: Callable[[Any], object],
    registration: Registration,
    leaving: BaseException | None,
    spot: Spot,
) -> Any:
    """Call the callback from a thread that runs no loop; wait if its home runs elsewhere.

    That is prepared first, since the interpreter may be exiting.
    """
    home: Any = registration.home
    if home is None or home is current_home() or _wants_thread(registration) or is_closed(home):
        hand_over = False
    else:
        hand_over = is_elsewhere(home)
    if hand_over:
        if spot.limit is not None:
            spot.limit.elsewhere = True
        prepare(home)
        if registration._block is not None:
            # R4: those that share its place are awaited meanwhile.
            return _in_worker_thread(registration, leaving, spot, hand_over)
        interruption = _Interruption(home)
        ended = _call_there(registration, leaving, spot, spot.step, hand_over, interruption)
        return interruption.come_out(spot, *ended)
    return _call_here(registration, leaving, spot)


async def _in_worker_thread(
    registration: Registration, leaving: BaseException | None, spot: Spot, hand_over: bool
) -> Any:
    with spot.excused():
        load_anyio()
        from anyio import CancelScope  # lazy: only another loop's comes here
    interruption = _Interruption(registration.home)
    step = spot.step
    # Not anyio's own worker threads, of which it lets few run at once, and whose end nobody
    # waits for after a native cancellation.
    call = InThread(
        partial(_call_there, registration, leaving, spot, step, hand_over, interruption),
        registration.name,
        spot,
    )
    shield: CancelScope | None = None
    while not call.future.done():
        try:
            await wait(call.future)
        except BaseException as exc:
            interruption.pass_on(exc)
            if isinstance(exc, GeneratorExit):
                raise
            if shield is None:  # against a scope around it, which cancels each wait anew
                shield = CancelScope(shield=True).__enter__()
    if shield is not None:
        shield.__exit__(None, None, None)
    ended = call.future.result()
    del call  # it holds the exception, whose traceback holds this frame: make no cycle
    return interruption.come_out(spot, *ended)


class _Interruption:
    """What interrupts the wait for a call at another home: it is to cancel that (R18).

    The wait goes on until the call has ended (R1).
    """

    def __init__(self, home: Any) -> None:
        self._home = home
        self._first: BaseException | None = None
        self._cancel: Callable[[], object] | None = None
        self._is_early = False  # the call had not begun

    def pass_on(self, exception: BaseException) -> None:
        if self._first is None:
            self._first = exception
        with suppress(RuntimeError):  # its loop has gone
            call_soon(self._home, self._arrive)

    def _arrive(self) -> None:
        if self._cancel is None:
            self._is_early = True
        else:
            self._cancel()

    def begin(self, cancel: Callable[[], object]) -> None:
        """Have this called, at the home, for each that arrives while the call runs."""
        self._cancel = cancel
        if self._is_early:
            call_soon(self._home, cancel)  # R3: when it has been called, and awaits

    def come_out(self, spot: Spot, result: object, exception: BaseException | None) -> Any:
        """Return or raise what the call has ended with, or raise what has interrupted it."""
        try:
            if self._first is not None:
                if exception is None or not consists_of(exception, cancellations()):
                    spot.interrupt(self._first)
                elif spot.limit is not None and spot.limit.expired:
                    spot.interrupt(self._first)
                    return None  # that has cancelled it, too
                else:
                    chain(self._first, exception)
                    reraise(self._first)
            if exception is not None:
                reraise(exception)
            return result
        finally:
            self._first = None
            del exception  # see _in_worker_thread


def _wants_thread(registration: Registration) -> bool:
    return registration._options is not None and registration._options.thread


def _call_here(registration: Registration, leaving: BaseException | None, spot: Spot) -> Any:
    if _wants_thread(registration):
        try:
            return InThread(partial(call, registration, leaving), registration.name, spot)
        except RuntimeError:
            # None can start while 3.12.0 and 3.12.1 exit; to be called matters more.
            warn(
                "callback %s (%s) runs without the thread that it asked for, and without a time "
                "limit: this interpreter starts no thread now",
                registration.name,
                registration.origin,
            )
    return call(registration, leaving)


def _call_there(
    registration: Registration,
    leaving: BaseException | None,
    spot: Spot,
    step: Step | None,
    hand_over: bool,
    interruption: _Interruption,
) -> tuple[object, BaseException | None]:
    # The step is that of this call: an unwind that is interrupted goes on to others.
    home: Any = registration.home
    invoke = partial(_invoke, registration, leaving, spot, step, interruption)
    ended: tuple[object, BaseException | None]
    try:
        if not hand_over:
            ended = run_on(runner_of(home), invoke())
        else:
            # Until it begins there, what holds it up is whatever that thread does.
            run = _run_on_trio if is_trio(home) else _run_on_asyncio
            with spot.moved(thread_of(home), None, None):
                ended = run(invoke, home, partial(_gives_up, spot, step), interruption)
    except RuntimeError as exc:
        return None, exc
    return ended


def _run_on_trio(
    invoke: Callable[[], Any], home: Any, gives_up: Callable[[], bool], interruption: _Interruption
) -> Any:
    # Not trio.from_thread.run, which waits without a limit.
    from concurrent.futures import Future  # lazy: loaded wherever trio is

    future: Future[Any] = Future()
    trio = sys.modules["trio"]

    async def run() -> None:
        if future.set_running_or_notify_cancel():
            # Shielded, for the run may be cancelling its system tasks.
            with trio.CancelScope(shield=True) as scope:
                interruption.begin(scope.cancel)
                future.set_result(await invoke())

    def begin() -> None:
        try:
            trio.lowlevel.spawn_system_task(run, context=context)
        except RuntimeError:  # they have ended, and this must not break trio down
            future.set_result((None, RuntimeError(CLOSED)))

    context = copy_context()
    home.run_sync_soon(begin)
    return _result_of(future, home, gives_up, interruption)


def _run_on_asyncio(
    invoke: Callable[[], Any],
    home: asyncio.AbstractEventLoop,
    gives_up: Callable[[], bool],
    interruption: _Interruption,
) -> Any:
    # Not run_coroutine_threadsafe: asyncio.run cancels every task before it tears its loop down,
    # and one that has not begun would never be.
    from concurrent.futures import Future  # lazy: loaded wherever asyncio is

    future: Future[Any] = Future()

    async def run() -> None:
        future.set_result(await invoke())

    def begin() -> None:
        call = run()
        try:
            task = home.create_task(call, context=context)
        except BaseException as exc:  # a task factory of the user's that knows no context, say
            call.close()
            future.set_result((None, exc))
        else:
            task.add_done_callback(ended)

    def ended(_: asyncio.Task[None]) -> None:
        if not future.done():
            begin()  # it had not begun, for _invoke lets nothing out

    def begin_unless_too_late() -> None:
        if future.set_running_or_notify_cancel():
            begin()

    context = copy_context()
    home.call_soon_threadsafe(begin_unless_too_late)
    return _result_of(future, home, gives_up, interruption)


def _gives_up(spot: Spot, step: Step | None) -> bool:
    """Tell whether the time of a call to another loop is up, and that loop has not seen to it."""
    limit = None if step is None else step[1]
    if limit is None or spot.settings.clock.now() <= limit.start + limit.seconds + _LEEWAY:
        return False
    limit.where = thread_stack(spot.at[0])
    limit.armed = limit.expired = limit.abandoned = True
    return True


def _result_of(
    future: Future[Any], home: Any, gives_up: Callable[[], bool], interruption: _Interruption
) -> Any:
    """Wait for what a running loop was handed, which may have taken its last step just then.

    No event tells that; hence a look now and then. A loop that stands still is only run on
    here when it has done so for a while: its owner may be between two runs of it. A loop that
    is blocked gets a little longer than the limit, to cut the callback short by itself.
    """
    still = 0
    while True:
        try:
            with suppress(TimeoutError):
                return future.result(timeout=_LOOKS)
            if is_closed(home) and not future.done():
                raise RuntimeError(CLOSED)
            if gives_up():
                future.cancel()  # it is not called any more, if it has not begun
                return None, None
            still = 0 if is_trio(home) or home.is_running() else still + 1
            if still >= _STANDS_STILL:
                run_to_end(home, sys.modules["asyncio"].wrap_future(future, loop=home))
        except RuntimeError:
            raise
        except BaseException as exc:  # Ctrl-C, where this waits in the main thread
            interruption.pass_on(exc)


async def _invoke(
    registration: Registration,
    leaving: BaseException | None,
    spot: Spot,
    step: Step | None,
    interruption: _Interruption,
) -> tuple[object, BaseException | None]:
    if spot.step is not step:
        return None, None  # too late: the unwind has gone on without it
    task = current_task()
    if not is_trio(task):
        interruption.begin(task.cancel)
    # The exception travels as a value: SystemExit would stop the loop that runs this.
    try:
        with spot.here():
            result: Any = call(registration, leaving)
            if is_awaitable(result):
                result = await in_time(spot, result)
        # Only an exit is told something; no other's result counts, and it may be awaitable.
        return (None if leaving is None else bool(result)), None
    except BaseException as exc:
        return None, exc
