"""aiohttp, whose own runner has context managers for what opens and closes.

DATABASE_URL=postgresql:///test python -m aiohttp.web -P 8000 aiohttp_app:get_app
"""

import os
from typing import Any

import asyncpg
from aiohttp import web

import lastly

pool: Any = None


async def open_pool(app: web.Application) -> None:
    global pool
    pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1)
    lastly.defer(print, "closed the pool")
    lastly.defer(pool.close, timeout=5, on_timeout=pool.terminate)


async def answer(request: web.Request) -> web.Response:
    return web.json_response(await pool.fetchval("SELECT 42"))


def get_app(argv: list[str]) -> web.Application:
    app = web.Application()
    app.add_routes([web.get("/", answer)])
    app.cleanup_ctx.append(lastly.lifespan)
    app.on_startup.append(open_pool)
    return app
