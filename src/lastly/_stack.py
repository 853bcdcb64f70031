"""The stack: push, take the newest, take one out, find by function.

Thread-safe without a lock: see Stack. May import _registration only.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._registration import Registration


class Stack:
    """Keep registrations in one last-in-first-out order.

    A dict is an ordered set whose single operations (`d[k] = v`, `pop`, `popitem`,
    `list(d)`) are atomic in CPython: by the GIL, or by the dict's own lock in a
    free-threaded build. Whoever takes a registration out of it owns it, which is all
    that R3 needs; and with no lock of ours a signal handler, a finalizer or a forked
    child that comes here in the middle of an operation can never deadlock.
    """

    __slots__ = ("_registrations",)

    def __init__(self) -> None:
        self._registrations: dict[Registration, None] = {}

    def __bool__(self) -> bool:
        return bool(self._registrations)

    def push(self, registration: Registration) -> None:
        self._registrations[registration] = None

    def pop(self) -> Registration | None:
        """Take the newest registration."""
        try:
            return self._registrations.popitem()[0]
        except KeyError:
            return None

    def discard(self, registration: Registration) -> bool:
        """Take this registration out; return whether it was there."""
        try:
            del self._registrations[registration]
        except KeyError:
            return False
        return True

    def newest_first(self) -> tuple[Registration, ...]:
        return tuple(reversed(list(self._registrations)))

    def find(self, func: object) -> tuple[Registration, ...]:
        """Return the registrations whose callback equals `func`.

        `==` may run the user's code, hence a copy is walked, and nothing is held.
        """
        return tuple(r for r in list(self._registrations) if r._func is func or r._func == func)

    def popper(self, home: object) -> Callable[[], Registration | None]:
        """Return a function that takes the newest registration of one home.

        It walks a list of its own, made anew only when something was pushed, because
        a search from the top for each would be quadratic under others' registrations.
        """
        mine: list[Registration] = []
        seen_top: Registration | None = None

        def pop() -> Registration | None:
            nonlocal mine, seen_top
            top = self._newest()
            if top is not seen_top and not (mine and top is mine[-1]):
                mine = [r for r in list(self._registrations) if r._home is home]
                seen_top = top
            while mine:
                registration = mine.pop()
                if self.discard(registration):
                    return registration
            return None

        return pop

    def _newest(self) -> Registration | None:
        while True:
            try:
                return next(reversed(self._registrations), None)
            except RuntimeError:  # another thread changed it between the two calls
                continue
