"""Raise what a signal handler has to, where that breaks neither an unwind nor an event loop.

May import what is below _signals.
"""

from __future__ import annotations

import sys
import threading

from ._backends import call_soon, current_home, is_trio, main_of, nothing, stepping
from ._errors import reraise
from ._unwind import in_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def delivered(exception: BaseException, rung: int) -> BaseException | None:
    """Return the exception if it may be raised just here, or see to it that it is elsewhere."""
    if _is_left_to_unwind(exception):
        return None
    home, task = current_home(), stepping()
    if home is None or (rung > 1 and task is not None):
        return exception
    if not is_trio(home):
        main = main_of(home)
        if main is not None and task is main:  # ends with it, and the loop knows what that means
            return exception
        _raise_between(home, main, exception)
        return None
    lowlevel = sys.modules["trio"].lowlevel
    if not lowlevel.currently_ki_protected():
        return exception
    # Trio takes no exception from outside but its own Ctrl-C. To cancel main is what is public.
    nurseries = lowlevel.current_root_task().child_nurseries
    call_soon(home, nurseries[-1].cancel_scope.cancel if nurseries else nothing)
    return None


def _is_left_to_unwind(exception: BaseException) -> bool:
    """Have the unwind in progress in this thread raise it at its end, if there is one."""
    thread = threading.current_thread()
    unwind = next((unwind for unwind in list(in_progress) if unwind.thread is thread), None)
    if unwind is not None and not unwind.exiting:  # else there is nothing left that it could end
        unwind.outside = exception
    return unwind is not None


def _raise_between(loop: Any, main: Any, exception: BaseException) -> None:
    """Have the loop raise it between two steps: in the middle of its work it could lose some.

    But once main has ended, not before the loop has stopped for that: a stop that is left over
    would end the next run, the one that closes the async generators.
    """

    def raise_now() -> None:
        if not _is_left_to_unwind(exception):
            reraise(exception)

    def raise_after_stop(_: object = None) -> None:
        if type(loop).__module__.startswith("uvloop"):  # whose stop comes one round later
            loop.call_soon(raise_now)
        else:
            raise_now()

    def raise_unless_over() -> None:
        current = main or main_of(loop)
        if current is None:
            raise_after_stop()
        elif main is None:  # that run is over, and this is the next
            current.add_done_callback(raise_after_stop)
        elif not main.done():
            main.remove_done_callback(raise_after_stop)
            raise_now()

    if main is not None:
        main.add_done_callback(raise_after_stop)
    call_soon(loop, raise_unless_over)
