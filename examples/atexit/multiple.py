"""Register several callbacks with arguments, some of them twice, sync and async mixed.

Prints one line for each, newest first, with the arguments that its registration gave it.
"""

import asyncio

import lastly


def close_file(path: str, *, sync: bool = False) -> None:
    print(f"close file {path}, sync={sync}")


async def disconnect(host: str, *, port: int = 5432) -> None:
    await asyncio.sleep(0)
    print(f"disconnect from {host}:{port}")


lastly.register(close_file, "first.log")
lastly.register(disconnect, "second.example")
lastly.register(close_file, "third.log", sync=True)
lastly.register(disconnect, host="fourth.example", port=6432)
print("working")
