"""End with `os._exit`: as with `atexit`, no callback is called, neither sync nor async.

Prints only its own line, which it has to flush itself, because `os._exit` ends the process
at once, without the interpreter's clean-up; the exit status is 4.
"""

import os

import lastly


def close_log() -> None:
    print("never printed")


async def close_pool() -> None:
    print("never printed")


lastly.register(close_log)
lastly.register(close_pool)
print("leaving without callbacks", flush=True)
os._exit(4)
