"""The web apps of the matrix, one per framework: they write down what they open and close.

A server imports `apps:app`; the environment says which one that is, and what is to happen.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar

import anyio
import asyncpg

import lastly
from lastly.contrib.asgi import Lifespan
from lastly.contrib.quart import lifespan as quart_lifespan

T = TypeVar("T")

POSTGRES = os.environ["MATRIX_POSTGRES"]
REDIS = os.environ.get("MATRIX_REDIS", "")
EVENTS = os.environ["MATRIX_EVENTS"]
RELEASE = os.environ["MATRIX_RELEASE"]
ENDING = os.environ["MATRIX_ENDING"]
POOL = os.environ["MATRIX_POOL"]
# One name per process: the database is asked for what this one has left open.
NAME = f"{os.environ['MATRIX_NAME']}-{os.getpid()}"

lastly.configure(grace=5, slow_after=1)
if "MATRIX_HANDLERS" in os.environ:
    lastly.install_signal_handlers()


def note(what: str, name: str = "") -> None:
    """Append a line: what has happened, and in which process, loop and task."""
    loop = task = None
    try:
        loop, task = id(asyncio.get_running_loop()), id(asyncio.current_task())
    except RuntimeError:
        pass
    line = {"what": what, "name": name, "pid": os.getpid(), "loop": loop, "task": task}
    file = os.open(EVENTS, os.O_WRONLY | os.O_APPEND)
    os.write(file, json.dumps(line).encode() + b"\n")  # one write, for others write there, too
    os.close(file)


def opened(name: str, close: Callable[[], Awaitable[object]]) -> None:
    async def closing() -> None:
        note("called", name)
        await close()
        note("closed", name)

    note("opened", name)
    lastly.defer(closing, name=name)


class Noted(Generic[T]):
    """An async context manager whose entering and leaving is written down."""

    def __init__(self, name: str, inner: AbstractAsyncContextManager[T]) -> None:
        self._name = name
        self._inner = inner

    async def __aenter__(self) -> T:
        value = await self._inner.__aenter__()
        note("opened", self._name)
        return value

    async def __aexit__(self, *exc: Any) -> None:
        note("called", self._name)
        try:
            await self._inner.__aexit__(*exc)
        finally:  # a task group raises what its body has raised
            note("closed", self._name)


@lastly.register
async def ask_the_database() -> None:
    """Called last, as what was registered first: has every connection been given back?"""
    note("called", "module level")
    connection = await asyncpg.connect(POSTGRES)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
    while await connection.fetchval(query, NAME):  # the grace limits it
        await asyncio.sleep(0.01)
    await connection.close()
    note("closed", "module level")


note("opened", "module level")
atexit.register(note, "exits")


# -- pools ------------------------------------------------------------------------


async def open_sqlalchemy() -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    url = POSTGRES.replace("postgresql:", "postgresql+asyncpg:")
    named = {"server_settings": {"application_name": NAME}}
    engine = create_async_engine(url, connect_args=named)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    opened("SQLAlchemy", engine.dispose)


async def open_psycopg() -> None:
    from psycopg_pool import AsyncConnectionPool

    named = {"application_name": NAME}
    pool = AsyncConnectionPool(POSTGRES, kwargs=named, min_size=2, open=False)
    await lastly.enter_async_context(Noted("psycopg", pool))
    await pool.wait()


async def open_aiosqlite() -> None:
    import aiosqlite

    connection = await lastly.enter_async_context(Noted("aiosqlite", aiosqlite.connect(":memory:")))
    await connection.execute("SELECT 1")


async def open_redis() -> None:
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(REDIS, client_name=NAME)
    watcher = redis.asyncio.Redis.from_url(REDIS)

    async def close() -> None:
        names = [client["name"] for client in await watcher.client_list()]
        assert names.count(NAME) == 1
        await client.aclose()
        while NAME in [client["name"] for client in await watcher.client_list()]:
            await asyncio.sleep(0.01)
        await watcher.aclose()

    await client.ping()
    opened("redis", close)


async def open_httpx() -> None:
    import httpx

    await lastly.enter_async_context(Noted("httpx", httpx.AsyncClient(trust_env=False)))


async def open_aiohttp() -> None:
    import aiohttp

    await lastly.enter_async_context(Noted("aiohttp", aiohttp.ClientSession()))


async def open_task_group() -> None:
    asked = anyio.Event()
    tasks = await lastly.enter_async_context(Noted("task group", anyio.create_task_group()))
    tasks.start_soon(asked.wait)
    lastly.defer(asked.set)


POOLS: dict[str, Callable[[], Awaitable[None]]] = {
    "SQLAlchemy": open_sqlalchemy,
    "psycopg": open_psycopg,
    "aiosqlite": open_aiosqlite,
    "redis": open_redis,
    "httpx": open_httpx,
    "aiohttp": open_aiohttp,
    "task group": open_task_group,
}

pool: asyncpg.Pool | None = None


async def open_asyncpg() -> None:
    global pool
    named = {"application_name": NAME}
    pool = await asyncpg.create_pool(POSTGRES, min_size=2, max_size=2, server_settings=named)
    opened("asyncpg", pool.close)


# -- the lifespan, in each framework's shape --------------------------------------


async def hang() -> None:
    await anyio.Event().wait()


def is_first() -> bool:
    try:
        os.mkdir(f"{EVENTS}.first")
    except FileExistsError:
        return False
    return True


async def fail() -> None:
    raise OSError("this cleanup has failed")


async def open_everything() -> None:
    await open_asyncpg()
    if POOL in POOLS:
        await POOLS[POOL]()
    if ENDING == "one worker hangs" and is_first():
        lastly.defer(hang)
    if "hangs" in ENDING and "one" not in ENDING:
        lastly.defer(hang)
    if ENDING == "cleanup fails":
        lastly.defer(fail)
    if ENDING == "start-up fails":
        raise RuntimeError("this start-up has failed")


@contextmanager
def noting() -> Generator[None]:
    note("ready")
    try:
        yield
    except BaseException:
        note("broken off")
        raise


@asynccontextmanager
async def with_state(app: object) -> AsyncGenerator[dict[str, str]]:
    async with lastly.lifespan(app):
        await open_everything()
        with noting():
            yield {"said": "hello"}
        note("after yield")


@asynccontextmanager
async def without_state(app: object) -> AsyncGenerator[None]:
    async with lastly.lifespan(app):
        await open_everything()
        with noting():
            yield


# -- what requests are answered with ----------------------------------------------


async def answer(said: str = "hello") -> str:
    if pool is None:
        await open_everything()  # there is no start-up
    assert pool is not None
    assert await pool.fetchval("SELECT 1") == 1
    return said


async def answer_slowly() -> str:
    """Answer when the test says so, which it does when the server has begun to shut down."""
    note("in flight")
    while not os.path.exists(RELEASE):
        await asyncio.sleep(0.01)
    said = await answer()
    note("answered")
    return said


# -- frameworks -------------------------------------------------------------------


def build_starlette(lifespan: Any = with_state) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def index(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await answer(getattr(request.state, "said", "hello")))

    async def slow(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await answer_slowly())

    return Starlette(routes=[Route("/", index), Route("/slow", slow)], lifespan=lifespan)


def build_fastapi(lifespan: Any = with_state) -> Any:
    from fastapi import FastAPI, Request
    from fastapi.responses import PlainTextResponse

    app = FastAPI(lifespan=lifespan, default_response_class=PlainTextResponse)

    async def index(request: Request) -> str:
        return await answer(getattr(request.state, "said", "hello"))

    index.__annotations__["request"] = Request  # it is known in here only
    app.get("/")(index)
    app.get("/slow")(answer_slowly)
    return app


def build_litestar(lifespan: Any = without_state) -> Any:
    from litestar import Litestar, get

    return Litestar(
        [get("/", media_type="text/plain")(answer_plainly), get("/slow")(answer_slowly)],
        lifespan=[lifespan],
    )


async def answer_plainly() -> str:
    return await answer()


async def while_serving() -> AsyncGenerator[None]:
    async with lastly.lifespan():
        await open_everything()
        with noting():
            yield


def build_quart(lifespan: Any = while_serving) -> Any:
    from quart import Quart

    app = Quart("apps")
    app.route("/")(answer_plainly)
    app.route("/slow")(answer_slowly)
    if lifespan is not None:
        app.while_serving(lifespan)
    return app


def build_wrapped_quart() -> Any:
    return Lifespan(build_quart(None), with_state)


def django_app() -> Any:
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    async def index(request: HttpRequest) -> HttpResponse:
        return HttpResponse(await answer(request.scope.get("state", {"said": "hello"})["said"]))

    async def slow(request: HttpRequest) -> HttpResponse:
        return HttpResponse(await answer_slowly())

    urls = type("urls", (), {"urlpatterns": [path("", index), path("slow", slow)]})
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=urls)
    return get_asgi_application()


def build_django() -> Any:
    return Lifespan(django_app(), with_state)


def build_django_alone() -> Any:
    """For daphne, which has no lifespan: the pool opens with the first request."""
    return django_app()


def build_asgi() -> Any:
    """An app that is a function, knows no lifespan, and is wrapped with no start-up code."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        said = await (answer_slowly() if scope["path"] == "/slow" else answer())
        length = (b"content-length", str(len(said)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": said.encode()})

    wrapped = Lifespan(app)

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "lifespan.startup.complete":
                note("ready")
            await send(message)

        await wrapped(scope, receive, sending)

    return noted


def build_aiohttp(lifespan: Any = without_state) -> Any:
    from aiohttp import web

    async def index(request: web.Request) -> web.Response:
        return web.Response(text=await answer())

    async def slow(request: web.Request) -> web.Response:
        return web.Response(text=await answer_slowly())

    app = web.Application()
    app.add_routes([web.get("/", index), web.get("/slow", slow)])
    app.cleanup_ctx.append(lifespan)
    return app


# The shape without start-up code: the pool opens with the first request.
PLAIN: dict[str, Callable[[], Any]] = {
    "plain_starlette": lambda: build_starlette(lastly.lifespan),
    "plain_fastapi": lambda: build_fastapi(lastly.lifespan),
    "plain_litestar": lambda: build_litestar(lastly.lifespan),
    "plain_quart": lambda: build_quart(quart_lifespan),
    "plain_aiohttp": lambda: build_aiohttp(lastly.lifespan),
}

framework = os.environ["MATRIX_FRAMEWORK"]
app = PLAIN[framework]() if framework in PLAIN else globals()[f"build_{framework}"]()


def get_app(argv: list[str]) -> Any:
    """What `python -m aiohttp.web` calls."""
    return app
