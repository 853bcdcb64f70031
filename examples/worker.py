"""A worker whose whole life is one `async with lastly.lifespan():`.

It takes jobs from a queue, three at a time, and ends when they run out. What it has opened
closes at the end of the block, newest first, also if a job fails.
"""

import asyncio

import aiosqlite

import lastly


async def take_jobs(jobs: asyncio.Queue[int], database: aiosqlite.Connection) -> None:
    while not jobs.empty():
        number = jobs.get_nowait()
        await database.execute("INSERT INTO square VALUES (?)", [number**2])


async def main() -> None:
    async with lastly.lifespan():
        lastly.defer(print, "closed everything", name="goodbye")
        database = await lastly.enter_async_context(aiosqlite.connect(":memory:"))
        await database.execute("CREATE TABLE square (value)")

        @lastly.register
        async def print_result() -> None:
            [row] = await database.execute_fetchall("SELECT count(*), sum(value) FROM square")
            print("{} jobs done, their sum is {}".format(*row))

        jobs: asyncio.Queue[int] = asyncio.Queue()
        for number in range(1, 11):
            jobs.put_nowait(number)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(take_jobs(jobs, database))
        print("no jobs left")


asyncio.run(main())
