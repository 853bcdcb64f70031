"""Three of four callbacks raise, sync and async; all four run, and each failure is logged.

Prints each callback's name and, on stderr, each failure with its traceback and then the
final exception again, because it is re-raised: at interpreter exit Python prints it and the
exit status stays 0; with the argument `close` it comes out of `lastly.close()`, with a note
on the earlier failures, and the exit status is 1.
"""

import asyncio
import sys

import lastly


def save_state() -> None:
    print("save_state")
    raise ValueError("state is not valid")


def close_log() -> None:
    print("close_log")


async def close_pool() -> None:
    print("close_pool")
    await asyncio.sleep(0)
    raise ConnectionError("the pool is gone")


def release_lock() -> None:
    print("release_lock")
    raise LookupError("no such lock")


lastly.register(save_state)
lastly.register(close_log)
lastly.register(close_pool)
lastly.register(release_lock)

if sys.argv[1:] == ["close"]:
    lastly.close()
    print("never printed: close() raised")
