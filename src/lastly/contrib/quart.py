"""Quart's shape of a lifespan: an async generator function that takes nothing.

May import lastly's public names, and nothing else.
"""

from __future__ import annotations

from lastly import lifespan as _lifespan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["lifespan"]


async def lifespan() -> AsyncGenerator[None]:
    """Unwind the whole manager when Quart has stopped serving: `app.while_serving(lifespan)`.

    Start-up code goes into a generator function of your own, around its `yield`, inside
    `async with lastly.lifespan():`.

    >>> import asyncio
    >>> async def serve():
    ...     async for _ in lifespan():
    ...         print("serving")
    >>> asyncio.run(serve())
    serving
    """
    async with _lifespan():
        yield
