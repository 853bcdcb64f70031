"""Wait until the input ends (Ctrl-D), then end normally, unless `signal_parent.py` stops it.

Prints "ready" when it can be stopped and, if it ends normally, what both callbacks print. With
the argument "handled" a signal is a normal end, too.
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
if "handled" in sys.argv:
    lastly.install_signal_handlers()
print("ready", flush=True)
sys.stdin.read()
