"""The index of a large stack: find a callback's registrations without a walk over all.

May import _registration only.
"""

from __future__ import annotations

from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ._registration import Registration

# For these `==` runs no code of the user's, and agrees with `hash`.
_PLAIN = (FunctionType, BuiltinFunctionType, partial, type)


def is_plain(func: Any) -> bool:
    """Tell whether a dict finds all that such a callback equals, but for what is odd itself."""
    if isinstance(func, MethodType):
        func = func.__func__
    return type(func) in _PLAIN


class Index:
    """Keep registrations by their callbacks; as the stack, without a lock.

    `_first` holds one for each callback, which is the only one for most, and `_others` the
    rest. Callbacks that may be equal to anything, or have no hash, are `_odd` and compared
    one by one.
    """

    __slots__ = ("_first", "_odd", "_others")

    def __init__(self) -> None:
        self._first: dict[Any, Registration] = {}
        self._others: dict[Any, dict[Registration, None]] = {}
        self._odd: dict[Registration, None] = {}

    def add(self, registrations: Iterable[Registration]) -> None:
        for registration in registrations:
            func = registration._func
            if not is_plain(func):
                self._odd[registration] = None
            elif self._first.setdefault(func, registration) is not registration:
                self._add_other(func, registration)

    def _add_other(self, func: Any, registration: Registration) -> None:
        others = None
        while others is None or self._others.get(func) is not others:
            # Not in one that another thread has found empty meanwhile, and is taking out.
            others = self._others.setdefault(func, {})
            others[registration] = None

    def remove(self, registration: Registration) -> None:
        """Let go of a registration and of its callback, which has not run."""
        func = registration._func
        if not is_plain(func):
            self._odd.pop(registration, None)
        elif self._first.get(func) is registration:
            del self._first[func]
        elif (others := self._others.get(func)) is not None:
            others.pop(registration, None)
            if not others:
                # What another thread has put there in this very moment, goes back.
                for other in self._others.pop(func, ()):
                    self._add_other(func, other)

    def find(self, func: Any) -> Iterator[Registration]:
        """Yield the registrations whose callback equals a plain one."""
        if (first := self._first.get(func)) is not None:
            yield first
        yield from list(self._others.get(func, ()))
        yield from (r for r in list(self._odd) if r._func == func)
