"""The order in which a program ends: every place where Python lets code run, and lastly's three.

docs/why.md explains it, and `python3 dev.py pictures` draws it.
"""

import asyncio
import atexit
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

import lastly


class Global:
    def __del__(self) -> None:
        print("globals of modules are deleted")


async def in_background() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        print("tasks are cancelled")


async def generator() -> AsyncGenerator[int]:
    try:
        yield 1
    finally:
        print("async generators are closed")
        job_may_end.set()


def job() -> None:
    job_may_end.wait()
    print("the loop's executor is shut down")


def pooled() -> None:
    pools_may_end.wait()
    print("thread pools are shut down")
    threads_may_end.set()


def thread() -> None:
    threads_may_end.wait()
    print("threads that are no daemons end")


async def main() -> None:
    global suspended
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(in_background())
    loop.run_in_executor(None, job)
    suspended = generator()
    await anext(suspended)
    await asyncio.sleep(0)
    assert not task.done()
    lastly.defer(print, "lastly: what belongs to the loop")
    print("main returns")


job_may_end, pools_may_end, threads_may_end = (threading.Event() for _ in range(3))
suspended: AsyncGenerator[int]
kept = Global()
# lastly takes its places at the first registration, and what is newer runs earlier.
atexit.register(print, "atexit callbacks run")
ThreadPoolExecutor().submit(pooled)
threading.Thread(target=thread).start()


@lastly.defer(before_threads=True)
def before_threads() -> None:
    print("lastly: before_threads=True")
    pools_may_end.set()


lastly.defer(print, "lastly: what is left")
asyncio.run(main())
print("the loop is closed")
print("the main module ends")
