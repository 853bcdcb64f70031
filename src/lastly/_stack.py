"""The stack: push, take the newest, take one out, find by function.

Thread-safe without a lock: see Stack. May import _registration only.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._registration import Registration

    Wanted = Callable[[Registration], bool]


class Stack:
    """Keep registrations in one last-in-first-out order.

    A dict is an ordered set whose single operations (`d[k] = v`, `del`, `popitem`,
    `list(d)`) are atomic in CPython: by the GIL, or by the dict's own lock in a
    free-threaded build. Whoever takes a registration out of it owns it, which is all
    that R3 needs; and there is no lock of ours that a signal handler or a finalizer could
    find taken by the very thread that it interrupts.
    """

    __slots__ = ("_last_push", "_registrations")

    def __init__(self) -> None:
        self._registrations: dict[Registration, None] = {}
        self._last_push = object()

    def __len__(self) -> int:
        return len(self._registrations)

    def __bool__(self) -> bool:
        return bool(self._registrations)

    def push(self, registration: Registration) -> None:
        self._registrations[registration] = None
        # Afterwards: who sees that it is another one, sees the registration. Not a number, for
        # += is not atomic, nor is next(count()) in each free-threaded build.
        self._last_push = object()

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

    def count(self, wanted: Wanted) -> int:
        """Return how many registrations are there of those that are wanted."""
        return sum(map(wanted, list(self._registrations)))

    def popper(self, wanted: Wanted) -> Callable[[], Registration | None]:
        """Return a function that takes the newest registration of those that are wanted.

        It walks a list of its own, made anew only when something was pushed: to search
        from the top for each one would be quadratic.
        """
        mine: list[Registration] = []
        seen: object = None

        def pop() -> Registration | None:
            nonlocal mine, seen
            if seen is not self._last_push:
                seen = self._last_push
                mine = list(filter(wanted, list(self._registrations)))
            while mine:
                registration = mine.pop()
                if self.discard(registration):
                    return registration
            return None

        return pop
