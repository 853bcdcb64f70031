"""Isolation: lend a manager and the process's signals to one test, and take them back.

May import _interpreter, _ladder, _manager and _signals.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from copy import copy

from lastly import _interpreter
from lastly._ladder import Ladder, signals
from lastly._manager import ShutdownManager, default
from lastly._signals import _installed, is_main_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def isolated(manager: ShutdownManager | None = None) -> Generator[ShutdownManager]:
    """Empty a manager, the default one unless given, for as long as the block.

    Inside the block it has an empty stack, no report, no request to shut down, and a copy of
    its settings. Afterwards it is what it was before, less what the block has cancelled by a
    handle. The module's functions, such as `lastly.defer`, are its methods, and so it does not
    matter how the code under test has imported them.

    In the main thread no signal has come yet, either, and the handlers that
    `install_signal_handlers` installs inside of the block are put back. Those from before it
    stay.

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
    outer, kept = copy(manager), dict(vars(manager))
    # Who cancels what was registered before finds it there. What that is tied to is not untied
    # meanwhile: the interpreter may hold the manager for what the block has registered.
    outer._tied = {}
    for registration in outer.pending():
        registration._owner = outer
    with _signals_of_its_own():
        vars(manager).update(vars(fresh))
        try:
            yield manager
        finally:
            left = manager.pending()
            for registration in left:
                registration.cancel()  # which also lets go of the loops that they are tied to
            vars(manager).update(kept)
            for registration in manager.pending():
                registration._owner = manager
                _interpreter.hold(manager)
            manager._let_go_if_empty()
    if left:
        names = "".join(f"\n  {r.name} ({r.origin})" for r in left)
        raise AssertionError(
            "the test has left these registrations, newest first; did you forget "
            f"`await lastly.aclose()`, or the end of a lifespan?{names}"
        )


@contextmanager
def _signals_of_its_own() -> Generator[None]:
    if not is_main_thread():  # no other one installs handlers, or runs them
        yield
        return
    kept, kept_handlers = dict(vars(signals)), dict(vars(_installed))
    standing = {signum: signal.getsignal(signum) for signum in _installed.previous}
    # In their place, as the manager: everybody holds these.
    vars(signals).update(vars(Ladder()), heeded=signals.heeded)
    _installed.previous = dict(_installed.previous)
    _installed.start_anew()
    try:
        yield
    finally:
        # Those from before the block, too: a second signal has taken all of them away.
        for signum, handler in {**_installed.previous, **standing}.items():
            if signal.getsignal(signum) != handler:
                signal.signal(signum, handler)
        vars(_installed).update(kept_handlers)
        vars(signals).update(kept)
