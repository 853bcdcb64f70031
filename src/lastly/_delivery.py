"""Raise what a signal handler has to, where that breaks neither an unwind nor an event loop.

May import what is below _signals.
"""

from __future__ import annotations

import sys
import threading

from ._backends import (
    call_soon,
    current_home,
    forget_stop,
    is_trio,
    is_uvloop,
    main_of,
    nothing,
    stepping,
)
from ._errors import reraise
from ._unwind import in_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def delivered(exception: BaseException, rung: int) -> BaseException | None:
    """Return the exception if it may be raised just here, or see to it that it is elsewhere."""
    if _is_left_to_unwind(exception):
        return None
    home = current_home()
    if home is None:
        return exception
    main = None if is_trio(home) else main_of(home)
    if rung > 1 and stepping() is not None and (is_trio(home) or main is not None):
        _under_way.clear()  # the first one's need not come as well
        return exception
    if not is_trio(home):
        _Delivery(home, main, exception).begin()
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


_under_way: set[_Delivery] = set()  # those that a second signal has not called off


class _Delivery:
    """Have the loop raise an exception between two steps.

    In the middle of its work it could lose some; and what is raised in a step of main, Python
    may swallow, in a finalizer, and a task group may make a group of. But once main has ended, it
    is not raised before the loop has stopped for that: a stop that is left over would end the
    next run, the one that closes the async generators.
    """

    def __init__(self, loop: Any, main: Any, exception: BaseException) -> None:
        self._loop = loop
        self._main = main
        self._exception = exception

    def begin(self) -> None:
        _under_way.add(self)
        if self._main is not None:
            self._main.add_done_callback(self._raise_at_its_end)
        call_soon(self._loop, self._raise_unless_over)

    def _raise_unless_over(self) -> None:
        main = self._main or main_of(self._loop)
        if main is None:
            self._raise_after_stop()
        elif self._main is None:  # that run is over, and this is the next
            main.add_done_callback(self._raise_at_its_end)
        elif not main.done():
            main.remove_done_callback(self._raise_at_its_end)
            self._raise()

    def _raise_at_its_end(self, main: Any) -> None:
        # An exit of main's own has left the loop already.
        if main.cancelled() or not isinstance(main.exception(), SystemExit | KeyboardInterrupt):
            self._raise_after_stop()

    def _raise_after_stop(self) -> None:
        if is_uvloop(self._loop):  # whose stop comes one round later
            self._loop.call_soon(self._raise)
        else:
            self._raise()

    def _raise(self) -> None:
        if self not in _under_way:
            return
        _under_way.discard(self)
        if _is_left_to_unwind(self._exception):
            return
        if self._main is not None:
            forget_stop(self._main)  # uvloop makes one round more
        reraise(self._exception)
