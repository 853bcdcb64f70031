"""Register a sync and an async callback: both run when the program ends.

Prints what the program does, then the async callback, then the sync one: newest first.
"""

import asyncio

import lastly


def close_log() -> None:
    print("log closed")


async def close_pool() -> None:
    await asyncio.sleep(0)
    print("pool closed")


lastly.register(close_log)
lastly.register(close_pool)
print("working")
