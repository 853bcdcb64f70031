"""Backends: which event loop and task run here, and how to wait for a thread in it.

Knows asyncio (uvloop with it) and trio, and loads neither before one is needed. Imports
nothing of lastly's.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from threading import current_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from threading import Thread
    from typing import Any, Protocol

    class Event(Protocol):
        def set(self) -> object: ...
        async def wait(self) -> object: ...


_modules = sys.modules


def current_home() -> Any:
    """Return the asyncio loop that runs in this thread, or the trio run's token, or None."""
    # A loop can only run where somebody has loaded its library; and where another thread
    # has loaded half of it so far, none can run in this one.
    if "trio.lowlevel" not in _modules:
        return _running_loop()
    # A task of trio's may be the guest of an asyncio loop.
    lowlevel: Any = _modules["trio.lowlevel"]
    in_task = getattr(lowlevel, "in_trio_task", None)
    if in_task is not None and in_task():
        return lowlevel.current_trio_token()
    if (loop := _running_loop()) is not None:
        return loop
    in_run = getattr(lowlevel, "in_trio_run", None)
    return lowlevel.current_trio_token() if in_run is not None and in_run() else None


def _look_for_running_loop() -> Any:
    global _running_loop  # noqa: PLW0603 - once found, it need not be looked for again
    running = getattr(_modules.get("asyncio.events"), "_get_running_loop", None)
    if running is None:
        return None
    _running_loop = running
    return running()


_running_loop: Callable[[], Any] = _look_for_running_loop


def is_trio(home: Any) -> bool:
    return type(home).__module__.partition(".")[0] == "trio"


def is_uvloop(home: Any) -> bool:
    return type(home).__module__.partition(".")[0] == "uvloop"


def is_closed(home: Any) -> bool:
    if not is_trio(home):
        closed: bool = home.is_closed()
        return closed
    try:
        home.run_sync_soon(nothing)
    except sys.modules["trio"].RunFinishedError:
        return True
    return False


def nothing() -> None:
    pass


def call_soon(home: Any, callback: Callable[[], object]) -> None:
    """Have it called in the loop that this is, from any thread."""
    (home.run_sync_soon if is_trio(home) else home.call_soon_threadsafe)(callback)


def current_task() -> Any:
    home = current_home()
    if home is None:
        return None
    library = sys.modules["trio.lowlevel" if is_trio(home) else "asyncio"]
    return library.current_task()


def cancellations() -> Any:
    """Return what the backends that are loaded raise where they cancel."""
    kinds = [("asyncio", "CancelledError"), ("trio", "Cancelled")]
    return tuple(getattr(_modules.get(library), name, ()) for library, name in kinds)


def stepping() -> Any:
    """Return the task whose step a signal handler has interrupted here, or None."""
    with suppress(RuntimeError):  # trio, between two steps
        return current_task()
    return None


def main_of(loop: Any) -> Any:
    """Return the task that this asyncio loop runs until the end of, if there is one."""
    tasks = sys.modules["asyncio"].all_tasks(loop)
    return next((task for task in tasks if _stops(task)), None)


def forget_stop(main: Any) -> None:
    """Have the loop not stop when this task ends, for it is left before."""
    for callback in _stops(main):
        main.remove_done_callback(callback)


def _stops(task: Any) -> list[Any]:
    # Not public, but the one thing that tells. Without it there are none.
    callbacks = [callback for callback, _ in getattr(task, "_callbacks", None) or ()]
    return [c for c in callbacks if "run_until_complete" in getattr(c, "__qualname__", "")]


def cancel_status() -> Any:
    """Return what trio has for the innermost cancel scope of this task; None elsewhere."""
    if not is_trio(current_home()):
        return None
    # Not public, but the one thing that tells whether a context manager holds a scope open.
    # Without it, each counts as one that does: that is safe, though it cannot be cut short.
    return getattr(current_task(), "_cancel_status", None) or object()


def outermost_scope(around: object) -> Any:
    """Return the outermost trio scope that this task holds open inside of that status."""
    status = cancel_status()
    while status is not None and getattr(status, "parent", None) is not around:
        status = getattr(status, "parent", None)
    return getattr(status, "_scope", None)


def load_anyio() -> None:
    """Load anyio and what it needs of this backend, which takes longer than all of lastly."""
    # 3.11 cannot compile, as anyio does, while a finalizer that runs just then formats a
    # traceback. That is over when it is asked again, and no callback is worth it.
    with suppress(SystemError):
        _load_anyio()
    _load_anyio()


def _load_anyio() -> None:
    import anyio  # lazy: a program without limits, scopes and other loops never needs it

    anyio.CancelScope()


def owner_of(home: Any) -> Thread | None:
    """Return the thread that an asyncio loop ran in when it was tied (see _loops), or None."""
    owner: Thread | None = getattr(getattr(home.close, "__self__", None), "owner", None)
    return owner


def is_elsewhere(home: Any) -> bool:
    """Tell whether this loop is another thread's, though it may stand still just now."""
    if is_trio(home):
        return True
    if home.is_running():
        # uvloop goes on saying so once a signal's exception came out just as it was stopping.
        is_its_own = is_uvloop(home) and owner_of(home) is current_thread()
        return not is_its_own or current_home() is not None
    # Its owner may be between two runs of it, as in asyncio.run, and must not find it running.
    owner = owner_of(home)
    return owner is not None and owner is not current_thread() and owner.is_alive()


def thread_of(home: Any) -> int:
    """Return the ident of the thread that runs a loop, or 0: only asyncio's own tell it."""
    return getattr(home, "_thread_id", None) or 0


def new_event() -> Event:
    """Return an event of the loop that runs here; anyio's would take anyio to load."""
    library: Any = sys.modules["trio" if is_trio(current_home()) else "asyncio"]
    event: Event = library.Event()
    return event


async def wait(future: Future[None]) -> None:
    """Wait for a future that any thread may resolve, on the loop that is running."""
    event = new_event()
    home = current_home()

    def resolved(_: Future[None]) -> None:
        with suppress(RuntimeError):  # its loop has gone, and whoever waited with it
            call_soon(home, event.set)

    future.add_done_callback(resolved)
    await event.wait()
