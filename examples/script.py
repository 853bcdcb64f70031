"""A plain asyncio script: register where you open, and `asyncio.run` closes at its end.

The callback may await, and the database thread behind it is still there to answer.
"""

import asyncio

import aiosqlite

import lastly


async def main() -> None:
    database = await aiosqlite.connect(":memory:")

    @lastly.register
    async def close_database() -> None:
        [[count]] = await database.execute_fetchall("SELECT count(*) FROM planet")
        await database.close()
        print(f"closed the database with {count} planets")

    await database.execute("CREATE TABLE planet (name)")
    await database.execute("INSERT INTO planet VALUES ('Mercury'), ('Venus'), ('Earth')")
    print("main is done")


asyncio.run(main())
