"""Starlette, with SQLAlchemy's engine at module level: no start-up code, and no lifespan to write.

DATABASE_URL=postgresql+asyncpg:///test uvicorn starlette_app:app
"""

import os

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import lastly

lastly.install_signal_handlers()

engine = create_async_engine(os.environ["DATABASE_URL"])


@lastly.register
async def close_engine() -> None:
    await engine.dispose()
    print("closed the engine")


async def answer(request: Request) -> JSONResponse:
    async with engine.connect() as connection:
        return JSONResponse(await connection.scalar(text("SELECT 42")))


app = Starlette(routes=[Route("/", answer)], lifespan=lastly.lifespan)
