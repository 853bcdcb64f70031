"""Register with `@lastly.register`, above `def` and `async def` alike.

The name stays bound to the function itself, so the program calls one of them by hand;
prints that call, then both callbacks, newest first.
"""

import asyncio

import lastly


@lastly.register
def flush_metrics() -> None:
    print("metrics flushed")


@lastly.register
async def close_session() -> None:
    await asyncio.sleep(0)
    print("session closed")


print("working")
flush_metrics()
print("done")
