"""Isolation: lend a manager to one test, as good as new, and take it back.

May import _manager and _interpreter.
"""

from __future__ import annotations

from contextlib import contextmanager
from copy import copy

from lastly import _interpreter
from lastly._manager import ShutdownManager, default

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def isolated(manager: ShutdownManager | None = None) -> Generator[ShutdownManager]:
    """Empty a manager, the default one unless given, for as long as the block.

    Inside the block it has an empty stack, no report, no request to shut down, and a copy of
    its settings. Afterwards it is what it was before. The module's functions, such as
    `lastly.defer`, are its methods, and so it does not matter how the code under test has
    imported them.

    Raises `AssertionError` at the end of the block if registrations are left, and names them.
    They are cancelled.

    >>> import lastly
    >>> with isolated() as manager:
    ...     handle = lastly.defer(print, "closed")
    ...     lastly.close()
    closed
    """
    manager = default if manager is None else manager
    # Not another manager in its place: lastly's functions are bound to this one, and whoever
    # has imported them holds them.
    fresh = ShutdownManager(manager.name)
    fresh._settings = copy(manager._settings)
    kept = dict(vars(manager))
    vars(manager).update(vars(fresh))
    try:
        yield manager
    finally:
        left = manager.pending()
        for registration in left:
            registration.cancel()  # which also lets go of the loops that they are tied to
        vars(manager).update(kept)
        if manager.pending():
            _interpreter.hold(manager)
    if left:
        names = "".join(f"\n  {r.name} ({r.origin})" for r in left)
        raise AssertionError(
            "the test has left these registrations, newest first; did you forget "
            f"`await lastly.aclose()`, or the end of a lifespan?{names}"
        )
