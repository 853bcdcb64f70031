"""lastly.contrib, spoken to as a server speaks; tests/servers/ has the real ones."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

import lastly
from lastly.contrib.asgi import Lifespan
from lastly.contrib.quart import lifespan as while_serving

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
STARTED = {"type": "lifespan.startup.complete"}
ENDED = {"type": "lifespan.shutdown.complete"}


class Server:
    """The server's side of one lifespan: tells the app to start, and to end once it has."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.state: dict[str, object] = {}
        self._send, self._receive = anyio.create_memory_object_stream[Any](2)
        self._send.send_nowait(STARTUP)

    async def serve(self, app: Any) -> list[dict[str, Any]]:
        with self._send, self._receive:
            await app({"type": "lifespan", "state": self.state}, self._receive.receive, self.hear)
        return self.said

    async def hear(self, message: dict[str, Any]) -> None:
        self.said.append(message)
        if message == STARTED:
            self._send.send_nowait(SHUTDOWN)


async def without(scope: Any, receive: Any, send: Any) -> None:
    """An app that has no lifespan, as Django's ASGIHandler."""
    raise ValueError(f"can only handle http, not {scope['type']}")


async def ignores(scope: Any, receive: Any, send: Any) -> None:
    """An app that returns from what it does not know."""


@pytest.fixture
def closed(manager: lastly.ShutdownManager) -> list[str]:
    closed: list[str] = []
    manager.defer(closed.append, "module level")
    return closed


@pytest.mark.parametrize("app", [without, ignores])
async def test_an_app_without_a_lifespan_gets_one(
    manager: lastly.ShutdownManager, closed: list[str], app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """R18: the server is told of the start, and of the end once everything has unwound."""
    server = Server()
    manager.defer(lambda: closed.append(str(server.said)))
    assert await server.serve(Lifespan(app, manager.lifespan)) == [STARTED, ENDED]
    assert closed == [str([STARTED]), "module level"]
    assert caplog.records == []


async def test_the_default_is_the_default_manager() -> None:
    """R18: without a lifespan of its own it is `lastly.lifespan`."""
    closed: list[str] = []
    lastly.defer(closed.append, "default")
    assert await Server().serve(Lifespan(without)) == [STARTED, ENDED]
    assert closed == ["default"]


async def test_requests_are_passed_on() -> None:
    """Whatever is not the lifespan goes to the app as it is."""
    passed: list[object] = []

    async def app(*args: object) -> None:
        passed.extend(args)

    request = {"type": "http"}, object(), object()
    await Lifespan(app)(*request)
    assert passed == list(request)
    assert all(a is b for a, b in zip(passed, request, strict=True))


async def test_start_up_code_and_its_state(
    manager: lastly.ShutdownManager, closed: list[str]
) -> None:
    """R18: a lifespan of one's own takes the app, and what it yields is put into the state."""

    @asynccontextmanager
    async def lifespan(app: object):
        assert app is without
        async with manager.lifespan(app):
            manager.defer(closed.append, "opened at start-up")
            yield {"answer": 42}

    server = Server()
    assert await server.serve(Lifespan(without, lifespan)) == [STARTED, ENDED]
    assert server.state == {"answer": 42}
    assert closed == ["opened at start-up", "module level"]


async def test_an_app_keeps_its_own_lifespan(
    manager: lastly.ShutdownManager, closed: list[str]
) -> None:
    """R8, R18: in one task, inside of lastly's; its state is passed on; a task group works."""

    @asynccontextmanager
    async def own(app: object):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            manager.defer(closed.append, "opened at start-up")
            yield {"answer": 42}
            closed.append("the app's own")
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def lifespan(app: object):
        async with manager.lifespan(app):
            tasks = await manager.enter_async_context(anyio.create_task_group())
            manager.defer(tasks.start_soon, wait_for_it)
            task = anyio.get_current_task()
            yield
            assert anyio.get_current_task() == task

    async def wait_for_it() -> None:
        closed.append("task group")

    server = Server()
    assert await server.serve(Lifespan(Starlette(lifespan=own), lifespan)) == [STARTED, ENDED]
    assert server.state == {"answer": 42}
    assert closed == ["the app's own", "opened at start-up", "task group", "module level"]


def failed(said: list[dict[str, Any]]) -> tuple[list[str], str]:
    return [message["type"] for message in said], said[-1]["message"]


async def test_a_start_that_fails(manager: lastly.ShutdownManager, closed: list[str]) -> None:
    """R18: what had been opened is closed before the server is told."""

    @asynccontextmanager
    async def lifespan(app: object):
        async with manager.lifespan(app):
            manager.defer(lambda: closed.append(str(server.said)))
            raise ConnectionError("no database")
            yield

    server = Server()
    with pytest.raises(ConnectionError):
        await server.serve(Lifespan(without, lifespan))
    types, message = failed(server.said)
    assert types == ["lifespan.startup.failed"]
    assert message.rstrip().endswith("ConnectionError: no database")
    assert closed == ["[]", "module level"]


async def test_an_app_whose_own_start_fails(
    manager: lastly.ShutdownManager, closed: list[str]
) -> None:
    """R18: the server is told what the app says, after everything has unwound."""

    @asynccontextmanager
    async def own(app: object):
        manager.defer(lambda: closed.append(str(server.said)))
        raise ConnectionError("no database")
        yield

    server = Server()
    with pytest.raises(Exception, match="no database"):
        await server.serve(Lifespan(Starlette(lifespan=own), manager.lifespan))
    types, message = failed(server.said)
    assert types == ["lifespan.startup.failed"]
    assert message.count("ConnectionError: no database") == 1
    assert closed == ["[]", "module level"]


@pytest.mark.parametrize("how", ["waits on", "raises on", "swallows"])
async def test_an_app_that_says_it_has_failed(
    manager: lastly.ShutdownManager, closed: list[str], how: str
) -> None:
    """R18: an app may wait for another message, raise or return after it has said so."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == STARTUP
        try:
            await send({"type": "lifespan.startup.failed"})
            await receive()
        except Exception:
            if how == "waits on":
                raise
            if how == "raises on":
                raise KeyError from None

    server = Server()
    with pytest.raises(KeyError if how == "raises on" else Exception):
        await server.serve(Lifespan(app, manager.lifespan))
    assert [message["type"] for message in server.said] == ["lifespan.startup.failed"]
    assert closed == ["module level"]


async def test_an_app_that_raises_while_it_starts(
    manager: lastly.ShutdownManager, closed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The ASGI specification: who raises at the start-up message is served without. It is logged."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ConnectionError("no database")

    assert await Server().serve(Lifespan(app, manager.lifespan)) == [STARTED, ENDED]
    assert closed == ["module level"]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("lastly", logging.WARNING)
    assert "no database" in str(record.exc_info[1])


async def test_an_app_whose_lifespan_ends_early(
    manager: lastly.ShutdownManager, closed: list[str]
) -> None:
    """R18: nothing is closed before the server says so."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(STARTED)

    server = Server()
    manager.defer(lambda: closed.append(server._receive.statistics().current_buffer_used))
    assert await server.serve(Lifespan(app, manager.lifespan)) == [STARTED, ENDED]
    assert closed == [0, "module level"]


@pytest.mark.parametrize("whose", ["a callback", "the app"])
async def test_an_end_that_fails(
    manager: lastly.ShutdownManager, closed: list[str], whose: str
) -> None:
    """R9, R18: the server is told of the failure, once the others have run."""

    def fails() -> None:
        raise OSError("the pool was gone")

    @asynccontextmanager
    async def own(app: object):
        yield
        if whose == "the app":
            fails()

    if whose == "a callback":
        manager.register(fails)
    server = Server()
    with pytest.raises(Exception, match="the pool was gone"):
        await server.serve(Lifespan(Starlette(lifespan=own), manager.lifespan))
    types, message = failed(server.said)
    assert types == ["lifespan.startup.complete", "lifespan.shutdown.failed"]
    assert message.count("OSError: the pool was gone") == 1
    assert closed == ["module level"]


async def test_a_lifespan_that_is_cancelled(
    manager: lastly.ShutdownManager, closed: list[str]
) -> None:
    """R18: as when a server ends without saying so: all unwinds, and it stays cancelled."""

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await send(STARTED)
        scope.cancel()
        await anyio.sleep_forever()

    said: list[str] = []

    async def send(message: Any) -> None:
        said.append(message["type"])

    async def receive() -> Any:
        return STARTUP

    class Scope(dict):
        def cancel(self) -> None:
            around.cancel()

    with anyio.CancelScope() as around:
        await Lifespan(waits, manager.lifespan)(Scope(type="lifespan"), receive, send)
    assert around.cancelled_caught
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.failed"]
    assert closed == ["module level"]


async def test_quarts_shape() -> None:
    """R18: a generator that is resumed once, when Quart has stopped serving."""
    closed: list[str] = []
    lastly.defer(closed.append, "closed")
    generator = while_serving()
    await anext(generator)
    assert closed == []
    with pytest.raises(StopAsyncIteration):
        await anext(generator)
    assert closed == ["closed"]
