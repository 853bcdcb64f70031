"""A web app whose only shutdown code is `Starlette(lifespan=lastly.lifespan)`.

Notes in SQLite behind a connection pool, a background worker that counts their words, and
an HTTP client. Whatever opens puts its own closing on lastly's stack, in whichever way suits
it; when uvicorn has answered its last request, all of it closes, newest first:

    python examples/webapp.py --port 8000
    curl --data "remember the milk" http://127.0.0.1:8000/notes
"""

import argparse
import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Self

import aiosqlite
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import lastly

say = partial(print, flush=True)

# It talks to this very app, and a proxy from the environment cannot.
client = httpx.AsyncClient(trust_env=False)
say("opened client")


@lastly.register
async def close_client() -> None:
    await client.aclose()
    say("closed client")


class Pool:
    """A fixed number of connections to one database; who finds none free waits for one."""

    def __init__(self, database: str, size: int = 3) -> None:
        self._database = database
        self._size = size
        self._free: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:  # a failure half-way closes the first half
            for _ in range(self._size):
                # Without an isolation level each statement commits by itself.
                connecting = aiosqlite.connect(self._database, isolation_level=None)
                self._free.put_nowait(await stack.enter_async_context(connecting))
            self._connections = stack.pop_all()
        say("opened pool")
        return self

    async def __aexit__(self, *exc: object) -> None:
        for _ in range(self._size):
            await self._free.get()  # waits for whoever has one
        await self._connections.aclose()
        say("closed pool")

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[aiosqlite.Connection]:
        connection = await self._free.get()
        try:
            yield connection
        finally:
            self._free.put_nowait(connection)


class Worker:
    """Counts the words of notes in the background, one note at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._jobs: asyncio.Queue[int | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._work())
        say("opened worker")

    def count_words(self, note: int) -> None:
        self._jobs.put_nowait(note)

    async def stop(self) -> None:
        self._jobs.put_nowait(None)  # behind every job that is waiting
        await self._task
        say("closed worker")

    async def _work(self) -> None:
        while (note := await self._jobs.get()) is not None:
            async with self._pool.connection() as db:
                [[text]] = await db.execute_fetchall("SELECT text FROM note WHERE id = ?", [note])
                words = len(text.split())
                await db.execute("UPDATE note SET words = ? WHERE id = ?", [words, note])


@contextmanager
def scratch_directory() -> Generator[str]:
    with TemporaryDirectory(prefix="webapp-") as path:
        say("opened scratch directory")
        yield path
    say("closed scratch directory")


async def create_note(request: Request) -> JSONResponse:
    pool: Pool = request.app.state.pool
    worker: Worker = request.app.state.worker
    text = (await request.body()).decode(errors="replace")
    async with pool.connection() as db:
        row = await db.execute_insert("INSERT INTO note (text) VALUES (?)", [text])
    assert row is not None
    worker.count_words(row[0])
    return JSONResponse({"id": row[0]}, status_code=201)


async def list_notes(request: Request) -> JSONResponse:
    pool: Pool = request.app.state.pool
    async with pool.connection() as db:
        rows = await db.execute_fetchall("SELECT id, text, words FROM note ORDER BY id")
    return JSONResponse([{"id": id_, "text": text, "words": words} for id_, text, words in rows])


async def health(request: Request) -> JSONResponse:
    """Ask ourselves, over a real connection, as a load balancer would."""
    host, port = request.scope["server"]
    response = await client.get(f"http://{host}:{port}/notes")
    return JSONResponse({"healthy": response.is_success, "notes": len(response.json())})


app = Starlette(
    routes=[
        Route("/notes", create_note, methods=["POST"]),
        Route("/notes", list_notes),
        Route("/health", health),
    ],
    lifespan=lastly.lifespan,
)


async def open_everything() -> None:
    """Open what needs a running loop; whatever did open is closed even if the rest fails.

    What must be closed by the very task that opened it, an anyio task group for one, would
    be opened in a lifespan of the app's own, inside `async with lastly.lifespan(app):`.
    """
    database = os.environ.get("WEBAPP_DB")
    if not database:
        database = os.path.join(lastly.enter_context(scratch_directory()), "notes.db")
    pool = await lastly.enter_async_context(Pool(database))
    async with pool.connection() as db:
        await db.execute("CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text, words)")
    worker = Worker(pool)
    lastly.defer(worker.stop, name="worker")
    app.state.pool, app.state.worker = pool, worker


class Server(uvicorn.Server):
    """uvicorn, which says where it serves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            host, port = listening.getsockname()
            say(f"serving on http://{host}:{port}")


async def main(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as listening:
        await open_everything()
        server = Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        await server.serve(sockets=[listening])
    report = lastly.last_report()
    if report is not None:
        say(json.dumps(report.to_dict()))
        say(report.timeline(width=76))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A small web app that closes what it opened.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    # uvicorn ends by raising the signal that stopped it once more; run makes a truthful exit
    # status of that, where the process would die in the middle of it.
    lastly.run(main, parser.parse_args().port)
