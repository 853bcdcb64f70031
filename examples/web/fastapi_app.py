"""FastAPI, with an asyncpg pool that is opened at start-up and passed on in the state.

DATABASE_URL=postgresql:///test uvicorn fastapi_app:app
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI, Request

import lastly

lastly.configure(grace=25)  # seconds; Kubernetes kills after 30
lastly.install_signal_handlers()  # or else uvicorn's last act is to die of the signal


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    async with lastly.lifespan(app):
        pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1)
        lastly.defer(print, "closed the pool")
        lastly.defer(pool.close, timeout=5, on_timeout=pool.terminate)
        yield {"pool": pool}


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def answer(request: Request) -> int:
    number: int = await request.state.pool.fetchval("SELECT 42")
    return number
