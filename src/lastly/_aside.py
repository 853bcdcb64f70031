"""Work set aside: what a signal handler must not do itself, in a thread of its own.

It may have interrupted whoever holds the lock that logging needs, or one of threading's own.
Hence no Thread either, whose start takes locks. May import _fork only.
"""

from __future__ import annotations

import atexit
from _thread import allocate_lock, start_new_thread
from contextlib import suppress

from ._fork import in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable

_PATIENCE = 1.0  # seconds for which one waits for another: a log handler may hang

_settles: list[None] = []
_going: dict[LockType, None] = {}
in_child(_going.clear)  # the threads are the parent's


def aside(work: Callable[[], object]) -> None:
    """Have it done soon, after what was set aside before, whatever that or this raises."""
    if not _settles:
        _settles.append(None)
        atexit.register(settle)
    before = next(reversed(_going), None)
    done = allocate_lock()
    done.acquire()
    _going[done] = None

    def run() -> None:
        if before is not None:
            _await(before)
        try:
            with suppress(BaseException):  # there is nobody to raise it to
                work()
        finally:
            _going.pop(done, None)
            done.release()

    try:
        start_new_thread(run, ())
    except RuntimeError:  # at the end of 3.12.0 and 3.12.1 there is none to be had
        run()


def settle() -> None:
    """Wait until it is done: at exit, no thread may die while it holds the lock of stderr."""
    for done in list(_going):
        _await(done)


def _await(done: LockType) -> None:
    if done.acquire(timeout=_PATIENCE):
        done.release()
