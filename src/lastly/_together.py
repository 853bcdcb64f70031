"""The block of `together`: what is registered inside it shares one place on the stack (R4).

May import _registration only.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ._registration import Registration

# Those that the current code is inside of: a context knows that, where a manager does not, whose
# other threads and tasks register in between.
_inside: ContextVar[tuple[Block, ...]] = ContextVar("lastly_together", default=())


class Block:
    """Hold the members of one place; `owner` is their manager."""

    __slots__ = ("is_open", "members", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.is_open = True
        self.members: dict[Registration, None] = {}

    def take(self, discard: Callable[[Registration], bool]) -> list[Registration]:
        """Take the members off the stack that are on it, newest first."""
        return [member for member in reversed(list(self.members)) if discard(member)]


def open_block(owner: object) -> Block | None:
    """Return the block of this owner that the current code is inside of.

    A task that was started inside of it may still run when it is over.
    """
    return next((block for block in _inside.get() if block.owner is owner and block.is_open), None)


@contextmanager
def opened(owner: object, blocks: dict[Block, None]) -> Generator[None]:
    """Open a block, which is among `blocks` as long; inside of another one, that goes on."""
    if open_block(owner) is not None:
        yield
        return
    block = Block(owner)
    blocks[block] = None
    token = _inside.set((*_inside.get(), block))
    try:
        yield
    finally:
        block.is_open = False
        del blocks[block]
        with suppress(ValueError):  # left in another context than it was entered in
            _inside.reset(token)
