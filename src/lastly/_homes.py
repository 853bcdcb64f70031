"""Homes: how to run callbacks, and what they return, on the loop that they belong to.

May import what is below _runners, and that.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from contextvars import copy_context
from functools import partial

from ._backends import current_home, is_closed, is_elsewhere, is_trio, load_anyio, thread_of
from ._errors import reraise, warn
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
        return _call_here(registration, leaving)
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
        return _call_there(registration, leaving, spot, spot.step, hand_over)
    return _call_here(registration, leaving)


async def _in_worker_thread(
    registration: Registration, leaving: BaseException | None, spot: Spot, hand_over: bool
) -> Any:
    with spot.excused():
        load_anyio()
        from anyio import CapacityLimiter, to_thread  # lazy: only another loop's comes here
    # A limiter of its own: what shares a place may be more than anyio's lets run at once.
    result, exception = await to_thread.run_sync(
        _call_by_value,
        registration,
        leaving,
        spot,
        spot.step,
        hand_over,
        limiter=CapacityLimiter(1),
    )
    if exception is not None:
        reraise(exception)
    return result


def _call_by_value(*args: Any) -> tuple[Any, BaseException | None]:
    # Raised in a future it would be another's: asyncio takes a GeneratorExit that comes out of
    # one for a request to close the coroutine that waits, which must not await again.
    try:
        return _call_there(*args), None
    except BaseException as exc:
        return None, exc


def _wants_thread(registration: Registration) -> bool:
    return registration._options is not None and registration._options.thread


def _call_here(registration: Registration, leaving: BaseException | None) -> Any:
    if _wants_thread(registration):
        try:
            return InThread(partial(call, registration, leaving), registration.name)
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
) -> Any:
    # The step is that of this call: an unwind that is interrupted goes on to others.
    home: Any = registration.home
    invoke = partial(_invoke, registration, leaving, spot, step)
    if not hand_over:
        result, exception = run_on(runner_of(home), invoke())
    else:
        # Until it begins there, what holds it up is whatever that thread does.
        with spot.moved(thread_of(home), None, None):
            run = _run_on_trio if is_trio(home) else _run_on_asyncio
            result, exception = run(invoke, home, partial(_gives_up, spot, step))
    if exception is not None:
        reraise(exception)
    return result


def _run_on_trio(invoke: Callable[[], Any], home: Any, gives_up: Callable[[], bool]) -> Any:
    # Not trio.from_thread.run, which waits without a limit.
    from concurrent.futures import Future  # lazy: loaded wherever trio is

    future: Future[Any] = Future()
    trio = sys.modules["trio"]

    async def run() -> None:
        if future.set_running_or_notify_cancel():
            with trio.CancelScope(shield=True):  # the run may be cancelling its system tasks
                future.set_result(await invoke())

    def begin() -> None:
        try:
            trio.lowlevel.spawn_system_task(run, context=context)
        except RuntimeError:  # they have ended, and this must not break trio down
            future.set_result((None, RuntimeError(CLOSED)))

    context = copy_context()
    home.run_sync_soon(begin)
    return _result_of(future, home, gives_up)


def _run_on_asyncio(
    invoke: Callable[[], Any], home: asyncio.AbstractEventLoop, gives_up: Callable[[], bool]
) -> Any:
    # Not run_coroutine_threadsafe: asyncio.run cancels every task before it tears its loop down,
    # and one that has not begun would never be.
    from concurrent.futures import Future  # lazy: loaded wherever asyncio is

    future: Future[Any] = Future()

    def begin() -> None:
        call = invoke()
        try:
            task = home.create_task(call, context=context)
        except BaseException as exc:  # a task factory of the user's that knows no context, say
            call.close()
            future.set_result((None, exc))
        else:
            task.add_done_callback(ended)

    def ended(task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            begin()  # it had not begun, for _invoke lets nothing out
        else:
            future.set_result(task.result())

    def begin_unless_too_late() -> None:
        if future.set_running_or_notify_cancel():
            begin()

    context = copy_context()
    home.call_soon_threadsafe(begin_unless_too_late)
    return _result_of(future, home, gives_up)


def _gives_up(spot: Spot, step: Step | None) -> bool:
    """Tell whether the time of a call to another loop is up, and that loop has not seen to it."""
    limit = None if step is None else step[1]
    if limit is None or spot.settings.clock.now() <= limit.start + limit.seconds + _LEEWAY:
        return False
    limit.where = thread_stack(spot.at[0])
    limit.armed = limit.expired = limit.abandoned = True
    return True


def _result_of(future: Future[Any], home: Any, gives_up: Callable[[], bool]) -> Any:
    """Wait for what a running loop was handed, which may have taken its last step just then.

    No event tells that; hence a look now and then. A loop that stands still is only run on
    here when it has done so for a while: its owner may be between two runs of it. A loop that
    is blocked gets a little longer than the limit, to cut the callback short by itself.
    """
    still = 0
    while True:
        with suppress(TimeoutError):
            return future.result(timeout=_LOOKS)
        if is_closed(home) and not future.done():
            raise RuntimeError(CLOSED)
        if gives_up():
            future.cancel()  # it is not called any more, if it has not begun
            return None, None
        still = 0 if is_trio(home) or home.is_running() else still + 1
        if still == _STANDS_STILL:
            run_to_end(home, sys.modules["asyncio"].wrap_future(future, loop=home))


async def _invoke(
    registration: Registration, leaving: BaseException | None, spot: Spot, step: Step | None
) -> tuple[object, BaseException | None]:
    if spot.step is not step:
        return None, None  # too late: the unwind has gone on without it
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
