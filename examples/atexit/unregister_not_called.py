"""Unregister functions that were never registered, sync and async: it is ignored.

Prints that the program goes on, then the one callback that was registered.
"""

import asyncio

import lastly


def never_registered() -> None:
    print("never printed")


async def never_registered_async() -> None:
    print("never printed")


async def close_pool() -> None:
    await asyncio.sleep(0)
    print("pool closed")


lastly.register(close_pool)
lastly.unregister(never_registered)
lastly.unregister(never_registered_async)
print("no error")
