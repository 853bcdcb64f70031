"""The contestants: how each is made, registered with, unwound and emptied.

Knows no row and no number; imports nothing of the package.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any

import asyncio_atexit

import lastly

WITHOUT = {
    "AsyncExitStack": (
        "lives in one `async with` and unwinds in that block's task; has no handle, no "
        "`unregister`, no name or origin, no time limit, no log, no report; of several failures "
        "it raises the last, and loses the others"
    ),
    "ExitStack": "as AsyncExitStack, and calls no async callback",
    "atexit": (
        "calls no async callback, and only at interpreter exit; has no handle, no origin, no time "
        "limit, no report; prints failures, and raises none"
    ),
    "asyncio-atexit": (
        "has one list for each loop, run oldest first and only by the loop's close; has no handle, "
        "no origin, no time limit, no report; prints failures, and raises none"
    ),
    "aiorun": "has one callback: a signal cancels every task, and they clean up themselves",
    "asyncio.run": "has no callbacks; here its main waits for an event that the signal sets",
    "task group": "(anyio's) has no callbacks: what is started in it runs there and then",
    "floor": "is a list and a loop: it has no handle, logs nothing, and stops at the first error",
}


async def callback() -> None:
    pass


def sync_callback() -> None:
    pass


@dataclass(frozen=True)
class Side:
    """One contestant: whatever `make` returns is what the other three are given."""

    name: str
    make: Callable[[], Any]
    register: Callable[[Any], Callable[..., object]]
    unwind: Callable[[Any], Any]  # an awaitable if it takes async callbacks
    empty: Callable[[Any], object]


def drop(manager: lastly.ShutdownManager) -> None:
    for registration in manager.pending():
        registration.cancel()


async def loop_over(callbacks: list[Callable[[], Awaitable[None]]]) -> None:
    for func in reversed(callbacks):
        await func()


def loop_over_sync(callbacks: list[Callable[[], None]]) -> None:
    for func in reversed(callbacks):
        func()


def nothing(_: object) -> None:
    pass


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.close()


def empty_running_loop(_: object) -> None:
    # asyncio-atexit has no public way to forget all, and each `unregister` walks the list twice.
    asyncio_atexit._get_entry().callbacks.clear()


LASTLY = Side(
    "lastly",
    lastly.ShutdownManager,
    lambda manager: manager.register,
    lastly.ShutdownManager.aclose,
    drop,
)
LASTLY_SYNC = Side(
    "lastly",
    lastly.ShutdownManager,
    lambda manager: manager.register,
    lastly.ShutdownManager.close,
    drop,
)
LASTLY_DEFER = Side(
    "lastly, defer",
    lastly.ShutdownManager,
    lambda manager: manager.defer,
    lastly.ShutdownManager.aclose,
    drop,
)
ASYNC_EXIT_STACK = Side(
    "AsyncExitStack",
    AsyncExitStack,
    lambda stack: stack.push_async_callback,
    AsyncExitStack.aclose,
    AsyncExitStack.pop_all,
)
EXIT_STACK = Side(
    "ExitStack",
    ExitStack,
    lambda stack: stack.callback,
    ExitStack.close,
    ExitStack.pop_all,
)
# atexit has no public way to run or to forget all now. Both take lastly's own hook along; every
# manager is empty by then, so that nothing is left for it.
ATEXIT = Side(
    "atexit",
    lambda: None,
    lambda _: atexit.register,
    lambda _: atexit._run_exitfuncs(),
    lambda _: atexit._clear(),
)
ASYNCIO_ATEXIT = Side(  # on the loop that runs
    "asyncio-atexit",
    lambda: None,
    lambda _: asyncio_atexit.register,
    nothing,
    empty_running_loop,
)
ASYNCIO_ATEXIT_CLOSE = Side(  # on a loop of its own, for it unwinds in the loop's close
    "asyncio-atexit",
    asyncio.new_event_loop,
    lambda loop: lambda func: asyncio_atexit.register(func, loop=loop),
    close_loop,
    nothing,
)
FLOOR = Side("floor", list, lambda callbacks: callbacks.append, loop_over, nothing)
FLOOR_SYNC = Side("floor", list, lambda callbacks: callbacks.append, loop_over_sync, nothing)
