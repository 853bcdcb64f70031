"""Litestar, with a pool of psycopg's that is entered at start-up.

DATABASE_URL=postgresql:///test granian --interface asgi litestar_app:app
"""

import os

from litestar import Litestar, get
from psycopg_pool import AsyncConnectionPool

import lastly

pool = AsyncConnectionPool(os.environ["DATABASE_URL"], min_size=1, open=False)


async def open_pool() -> None:
    lastly.defer(print, "closed the pool", name="goodbye")
    await lastly.enter_async_context(pool)


@get("/")
async def answer() -> int:
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT 42")
        row = await cursor.fetchone()
    assert row is not None
    number: int = row[0]
    return number


app = Litestar([answer], lifespan=[lastly.lifespan], on_startup=[open_pool])
