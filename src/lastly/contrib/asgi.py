"""Lifespan: a lifespan around any ASGI app, also around one that has none.

May import lastly's public names, and nothing else.
"""

from __future__ import annotations

import logging
from traceback import format_exc

from lastly import lifespan as _lifespan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    # Each framework has types of its own for what ASGI calls dictionaries and callables.
    App = Callable[[Any, Any, Any], Awaitable[None]]

__all__ = ["Lifespan"]


class Lifespan:
    """Wrap an ASGI app in a lifespan: when its server has stopped, everything unwinds.

    For Django, and for any app that has no lifespan of its own. Start-up code goes into
    `lifespan`, an async context manager's function that takes the app, as in Starlette; what
    it yields is put into the state that requests see.

    An app that has a lifespan keeps it: it starts after `lifespan` has begun and ends before
    that does, in the same task, and its server is told of the end when all has unwound. An app
    that raises on the lifespan scope, or ignores it, is taken to have none, as the ASGI
    specification asks; if it had begun to start, that is logged at WARNING.

    What fails is sent to the server as `startup.failed` or `shutdown.failed`, and raised.

    >>> async def app(scope, receive, send): ...
    >>> app = Lifespan(app)
    """

    def __init__(
        self,
        app: App,
        lifespan: Callable[
            [Any], AbstractAsyncContextManager[Mapping[str, Any] | None]
        ] = _lifespan,
    ) -> None:
        self._app = app
        self._lifespan = lifespan

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        talk = _Talk(await receive(), receive, send)
        try:
            async with self._lifespan(self._app) as state:
                if state:
                    scope["state"].update(state)
                await talk.with_app(self._app, scope)
        except BaseException as exc:
            text = str(exc) if isinstance(exc, _FailedError) else format_exc()
            await send({"type": f"lifespan.{talk.phase}.failed", "message": text})
            raise
        await send({"type": "lifespan.shutdown.complete"})


class _Talk:
    """What the app and its server tell each other, but for the app's last word."""

    def __init__(self, startup: Any, receive: Any, send: Any) -> None:
        self.phase = "startup"
        self._heard = ""
        self._startup = startup
        self._receive = receive
        self._send = send

    async def with_app(self, app: App, scope: Any) -> None:
        failed: _FailedError | None = None

        async def say(message: Any) -> None:
            nonlocal failed
            kind: str = message["type"]
            if kind.endswith(".failed"):
                # Raised here, for an app may wait for another message after it.
                failed = _FailedError(message.get("message", ""))
                raise failed
            if kind == "lifespan.startup.complete":
                await self._complete_startup()

        try:
            await app(scope, self._hear, say)
        except Exception:
            if failed is not None or self.phase == "shutdown":
                raise
            if self._heard:
                _logger.warning("the app's lifespan has raised; serving without", exc_info=True)
        if failed is not None:
            raise failed
        if self.phase == "startup":
            await self._complete_startup()
        if self._heard != "lifespan.shutdown":
            await self._receive()

    async def _hear(self) -> Any:
        message = await self._receive() if self._heard else self._startup
        self._heard = message["type"]
        return message

    async def _complete_startup(self) -> None:
        self.phase = "shutdown"
        await self._send({"type": "lifespan.startup.complete"})


class _FailedError(Exception):
    """The app's own message that its lifespan has failed."""


_logger = logging.getLogger("lastly")
