"""The stack: push, take the newest, take one out, find by function.

Thread-safe without a lock: see Stack. May import _index and _registration.
"""

from __future__ import annotations

from ._index import Index, is_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._registration import Registration

    Wanted = Callable[[Registration], bool]
    Pop = Callable[[], tuple[Registration, None]]  # or it raises KeyError: none is left


# Up to so many, to walk them takes about as long as atexit takes, and an index costs more.
_LARGE = 1 << 14


class Stack:
    """Keep registrations in one last-in-first-out order.

    A dict is an ordered set whose single operations (`d[k] = v`, `del`, `popitem`,
    `list(d)`) are atomic in CPython: by the GIL, or by the dict's own lock in a
    free-threaded build. Whoever takes a registration out of it owns it, which is all
    that R3 needs; and there is no lock of ours that a signal handler or a finalizer could
    find taken by the very thread that it interrupts.
    """

    __slots__ = ("_index", "_registrations", "pop")

    def __init__(self) -> None:
        self._registrations: dict[Registration, None] = {}
        self._index: Index | None = None
        # The dict's own: an unwind takes each registration with it.
        self.pop: Pop = self._registrations.popitem

    def __len__(self) -> int:
        return len(self._registrations)

    def __bool__(self) -> bool:
        return bool(self._registrations)

    def push(self, registration: Registration) -> None:
        registrations = self._registrations
        registrations[registration] = None
        if self._index is not None:
            self._index.add((registration,))
        elif len(registrations) == _LARGE:
            self._make_index()

    def discard(self, registration: Registration) -> bool:
        """Take this registration out; return whether it was there."""
        try:
            del self._registrations[registration]
        except KeyError:
            return False
        if (index := self._index) is not None:
            index.remove(registration)
        return True

    def newest_first(self) -> tuple[Registration, ...]:
        return tuple(reversed(list(self._registrations)))

    def find(self, func: object) -> tuple[Registration, ...]:
        """Return the registrations whose callback equals `func`.

        `==` may run the user's code, hence a copy is walked, and nothing is held.
        """
        if self._index is None and len(self._registrations) > _LARGE:
            self._make_index()
        index = self._index
        if index is not None and is_plain(func):
            return tuple(r for r in index.find(func) if r in self._registrations)
        return tuple(r for r in list(self._registrations) if r._func is func or r._func == func)

    def _make_index(self) -> None:
        # It can be seen before it is filled: what is pushed meanwhile is then added by whoever
        # pushes it, or is on the stack already when that is read here.
        index = self._index = Index()
        index.add(list(self._registrations))

    def forget_index(self) -> None:
        """Let go of the index, and with it of the callbacks: an unwind does not maintain it."""
        self._index = None

    def count(self, wanted: Wanted) -> int:
        """Return how many registrations are there of those that are wanted."""
        return sum(map(wanted, list(self._registrations)))

    def taker(self, wanted: Wanted | None) -> Wanted:
        """Return a function that takes out one that is wanted, and tells whether it did."""
        if wanted is None:
            return self.discard
        return lambda registration: wanted(registration) and self.discard(registration)

    def popper(self, wanted: Wanted) -> Pop:
        """Return a function that takes the newest registration of those that are wanted.

        It walks a list of its own, made anew only when something was pushed: to search
        from the top for each one would be quadratic.
        """
        seen: dict[Registration, None] = {}
        mine: list[Registration] = []

        def pop() -> tuple[Registration, None]:
            nonlocal mine, seen
            # What was pushed since is newer than all that has been seen.
            while (newest := self._newest()) is not None and newest not in seen:
                seen = dict.fromkeys(list(self._registrations))
                mine = list(filter(wanted, seen))
            while mine:
                registration = mine.pop()
                if self.discard(registration):
                    return registration, None
            raise KeyError

        return pop

    def _newest(self) -> Registration | None:
        while True:
            try:
                return next(reversed(self._registrations), None)
            except RuntimeError:  # another thread has changed it in this very moment
                pass
