"""Wait until the input ends (Ctrl-D), then end normally, unless `signal_parent.py` kills it.

Prints "ready" when it can be killed and, if it ends normally, what both callbacks print.
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
print("ready", flush=True)
sys.stdin.read()
