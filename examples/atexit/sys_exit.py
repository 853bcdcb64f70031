"""End with `sys.exit(3)`: the callbacks run, and the exit status stays 3.

Prints what the program says, then the async callback, then the sync one.
"""

import asyncio
import sys

import lastly


def close_log() -> None:
    print("log closed")


async def close_pool() -> None:
    await asyncio.sleep(0)
    print("pool closed")


lastly.register(close_log)
lastly.register(close_pool)
print("leaving with status 3")
sys.exit(3)
