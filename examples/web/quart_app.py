"""Quart, which wants a generator function, and gets one from lastly.contrib.

DATABASE_URL=postgresql:///test hypercorn quart_app:app
"""

import os
from typing import Any

import asyncpg
from quart import Quart

import lastly
from lastly.contrib.quart import lifespan

lastly.install_signal_handlers()  # or else hypercorn's worker dies of a SIGTERM of its own
app = Quart(__name__)
app.while_serving(lifespan)
pool: Any = None


@app.before_serving
async def open_pool() -> None:
    global pool
    pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1)
    lastly.defer(print, "closed the pool")
    lastly.defer(pool.close, timeout=5, on_timeout=pool.terminate)


@app.get("/")
async def answer() -> str:
    return str(await pool.fetchval("SELECT 42"))
