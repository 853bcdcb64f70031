"""Take callbacks back: `unregister` removes every registration of that function.

Prints only the callback that is left; those registered twice and unregistered once, sync
and async, are not called.
"""

import asyncio

import lastly


def remove_temporary(path: str) -> None:
    print(f"removed {path}")


async def roll_back(transaction: int) -> None:
    await asyncio.sleep(0)
    print(f"rolled back {transaction}")


async def close_pool() -> None:
    await asyncio.sleep(0)
    print("pool closed")


lastly.register(remove_temporary, "a.tmp")
lastly.register(roll_back, 1)
lastly.register(close_pool)
lastly.register(remove_temporary, "b.tmp")
lastly.register(roll_back, 2)

lastly.unregister(remove_temporary)
lastly.unregister(roll_back)
print("nothing to remove, nothing to roll back")
