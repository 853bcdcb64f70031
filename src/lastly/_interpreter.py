"""The interpreter's end, before and after its threads have ended; forks; multiprocessing.

Is told whom to call; may import _aside, _errors, _fork and _watch.
"""

from __future__ import annotations

import atexit
import sys
import threading
from contextlib import suppress
from importlib import import_module

from ._aside import settle
from ._errors import count, warn
from ._fork import in_child
from ._watch import OneWait, threads_that_hold, told_of_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from ._registration import Registration
    from ._settings import Settings

    class Manager(Protocol):
        """What has registrations, and is told when they have to run."""

        @property
        def _settings(self) -> Settings: ...
        def pending(self) -> tuple[Registration, ...]: ...
        def _pending_before_threads(self) -> tuple[Registration, ...]: ...
        def _exit_before_threads(self) -> BaseException | None: ...
        def _exit_interpreter(self) -> None: ...
        def _in_child(self) -> None: ...


# As a stack: see Stack for why no lock.
_managers: dict[Manager, None] = {}
_installed: list[None] = []
_loaded: list[None] = []  # what every unwind needs
_hooked: list[None] = []  # into multiprocessing
_before: list[None] = []  # the threads are waited for: whether anything runs then
_last: list[Settings] = []  # of the manager that was used last: for when all are empty
_waits: list[_ThreadsWait] = []
_raised: list[BaseException] = []  # before the threads, for afterwards
_over: list[None] = []  # the unwind at exit: what is registered now, comes too late

_FIRST = 1000  # among the finalizers of multiprocessing, which close what callbacks may yet use


def hold(manager: Manager) -> None:
    """Have the manager unwind at interpreter exit, where `atexit` would call it now."""
    if not _installed:
        _install()
    _managers[manager] = None
    _last[:] = [manager._settings]
    if _over and (late := manager.pending()):
        warn(
            "callback %s (%s) was registered when the unwind at interpreter exit was over: it will "
            "not run, unless something closes its manager",
            late[0].name,
            late[0].origin,
        )


def forget(manager: Manager) -> None:
    """Let go of the manager, if it is held."""
    _managers.pop(manager, None)


def runs_before_threads() -> bool:
    """Tell whether this interpreter can run anything before it waits for its threads."""
    if not _installed:
        _install()
    return bool(_before)


def _install() -> None:
    _installed.append(None)
    _load()
    # One hook for all managers: atexit.unregister leaves a hole for each that is gone.
    atexit.register(unwind_at_exit)
    # Private, but the one hook that comes before the interpreter joins its threads: later
    # ones run earlier, so that this is before that executor waits for its own. Without it
    # that wait is not watched, and `before_threads` has no effect; nothing else is lost.
    try:
        register: Any = vars(threading)["_register_atexit"]
        register(_before_threads)
        _before.append(None)
    except KeyError:
        pass
    except RuntimeError:  # the threads have ended, and atexit drops what is registered by now
        _over.append(None)
    _hook_into_multiprocessing()
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _at_the_end_of_a_child(unwind_at_exit)


def _load() -> None:
    """Load what every unwind needs and `import lastly` does not pay for."""
    # It closes the log's handlers at exit: to be called after us, it has to be hooked in before.
    import_module("logging")
    # asyncio loads it for to_thread, but it cannot be loaded once the interpreter has begun to
    # exit, so lazy would be too late. If it has begun already, whatever needs that executor will
    # say so.
    with suppress(RuntimeError):
        import_module("concurrent.futures.thread")
    _loaded[:] = [None]


def _load_before_fork() -> None:
    # Or a child would wait for ever for a thread of the parent's that is just loading it. That
    # thread may in turn wait for logging's lock: what logging hooks in while it is loaded comes
    # before this, and has taken the lock for the fork. So it is let go of while it is loaded.
    if not _installed or _loaded:
        return
    lock: Any = getattr(sys.modules.get("logging"), "_lock", None)
    held = 0
    try:
        with suppress(AttributeError, RuntimeError):  # there is none, or somebody else's
            while True:
                lock.release()
                held += 1
        _load()
    finally:
        for _ in range(held):
            lock.acquire()


def _hook_into_multiprocessing() -> None:
    util = sys.modules.get("multiprocessing.util")
    if util is not None and _installed and not _hooked:
        _hooked.append(None)
        util.register_after_fork(unwind_at_exit, _at_the_end_of_a_child)


def _at_the_end_of_a_child(unwind: Callable[[], object]) -> None:
    # Not by atexit: up to 3.12 a child of multiprocessing's does not call it, and from 3.13 on a
    # forked one begins by clearing it.
    sys.modules["multiprocessing.util"].Finalize(None, unwind, exitpriority=_FIRST)


def _start_anew() -> None:
    _waits.clear()
    _raised.clear()
    _over.clear()
    for manager in list(_managers):
        manager._in_child()
    _hook_into_multiprocessing()


in_child(_start_anew, before=_load_before_fork)


class _ThreadsWait(OneWait):
    """The interpreter's wait for the threads that hold its exit (R23)."""

    __slots__ = ()

    def tell(self, elapsed: float) -> str | None:
        threads = threads_that_hold()
        holders = count(threads, "thread")
        lines = [f"the interpreter is still waiting for {holders} to end, for {elapsed:.1f} s"]
        for thread in threads:
            lines += [told_of_thread(thread)]
        pending = [r for manager in reversed(list(_managers)) for r in manager.pending()]
        lines += [f"    {r.name} ({r.origin}) has yet to run" for r in pending]
        return "\n".join(lines) if threads else None


def _next_before_threads(tried: set[Registration]) -> Manager | None:
    for manager in reversed(list(_managers)):
        if not tried.issuperset(manager._pending_before_threads()):
            return manager
    return None


def _before_threads() -> None:
    # Nothing may escape, or the interpreter would not wait for its threads at all; but for what
    # a signal handler raises to have just that.
    tried: set[Registration] = set()
    while (manager := _next_before_threads(tried)) is not None:
        tried.update(manager._pending_before_threads())
        error = manager._exit_before_threads()
        if error is not None:
            _raised.append(error)
    with suppress(Exception):
        used = [manager._settings for manager in _managers] or _last
        slow_after = {s.slow_after: s for s in used if s.slow_after is not None}
        if slow_after:
            _waits.append(_ThreadsWait(slow_after[min(slow_after)]))
            _waits[0].begin()


def unwind_at_exit() -> None:
    # Its name is what the interpreter prints with an exception that comes out.
    for wait in _waits:
        wait.end()
    error = _raised.pop() if _raised else None
    while _managers:
        manager: Manager = next(reversed(_managers))
        # A manager is let go when it has nothing left. One that Ctrl-C has broken off gets
        # another chance, but not for ever: the interpreter has to end.
        for _ in range(3):
            try:
                manager._exit_interpreter()
            except BaseException as exc:
                error = exc
            if manager not in _managers:
                break
        forget(manager)
    _over[:] = [None]
    settle()
    if error is not None:
        raise error
