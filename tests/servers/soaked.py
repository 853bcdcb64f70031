"""The web app of test_soak.py: it writes down each request, in part only when it ends.

As a program it serves on one inherited socket again and again, a lifespan each time, and says
after each what the process holds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sys
import threading
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import lastly

FACTORIES = [asyncio.new_event_loop, uvloop.new_event_loop]
OPEN = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'soaked'"
LASTLY = tracemalloc.Filter(True, str(Path(lastly.__file__).parent / "*"))


async def connect(what: Any, **settings: Any) -> Any:
    return await what(os.environ["SOAK_POSTGRES"], **settings)


@asynccontextmanager
async def lifespan(app: object) -> AsyncGenerator[dict[str, Any]]:
    async with lastly.lifespan(app):
        name = {"application_name": "soaked"}
        pool = await connect(asyncpg.create_pool, min_size=2, max_size=4, server_settings=name)
        lastly.defer(pool.close, timeout=10, on_timeout=pool.terminate)
        journal = os.open(os.environ["SOAK_JOURNAL"], os.O_WRONLY | os.O_APPEND)
        lastly.defer(os.close, journal)
        unwritten: list[tuple[int]] = []
        with lastly.together():
            lastly.defer(write, pool, unwritten)
            lastly.defer(os.fsync, journal, thread=True)
        yield {"pool": pool, "journal": journal, "unwritten": unwritten}


async def write(pool: Any, unwritten: list[tuple[int]]) -> None:
    await pool.copy_records_to_table("accepted", records=unwritten)


async def answer(request: Request) -> Response:
    attempt, state = request.path_params["attempt"], request.state
    os.write(state.journal, b"%d\n" % attempt)
    state.unwritten.append((attempt,))
    await state.pool.execute("INSERT INTO answered SELECT $1 FROM pg_sleep(0.02)", attempt)
    return Response()


app = Starlette(routes=[Route("/{attempt:int}", answer)], lifespan=lifespan)


async def closed() -> None:
    """Wait until PostgreSQL has no connection of the app's any more."""
    watcher = await connect(asyncpg.connect)
    while await watcher.fetchval(OPEN):
        await asyncio.sleep(0.01)
    await watcher.close()


def holds() -> dict[str, int]:
    gc.collect()
    lines = tracemalloc.take_snapshot().filter_traces([LASTLY]).statistics("filename")
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
        "lastly": sum(line.size for line in lines),
        "memory": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"),
    }


def main(descriptor: int, requests: int) -> None:
    tracemalloc.start()
    listening = socket.socket(fileno=descriptor)
    for n in range(10_000):
        settings: Any = {"log_level": "warning", "limit_max_requests": requests}
        server = uvicorn.Server(uvicorn.Config(app, **settings))
        with asyncio.Runner(loop_factory=FACTORIES[n % 2]) as runner:
            runner.run(server.serve([listening.dup()]))
        with asyncio.Runner(loop_factory=FACTORIES[n % 2]) as runner:
            runner.run(asyncio.wait_for(closed(), 30))
        print(json.dumps(holds()), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
