"""One callback on the stack: what to call, its name, origin, home and status.

Also the two questions about a callback: did its call return something to await, and
will it. May import _outcome only.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from types import CoroutineType, GeneratorType
from weakref import ref

from ._outcome import Status, kind_of, one_line, origin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import CodeType
    from typing import Any, Protocol

    from ._outcome import Place

    class Owner(Protocol):
        """Whose stack a registration is on."""

        def _discard(self, registration: Registration, /) -> bool: ...

    class Block(Protocol):
        """Who shares a place, as long as they are on the stack."""

        members: dict[Registration, None]

        def take(self, discard: Callable[[Registration], bool], /) -> list[Registration]: ...

    class Guard(Protocol):
        """What shields an unwind, and how many context managers are open inside of it."""

        held: int

        @property
        def scope(self) -> object | None: ...
        def is_here(self) -> bool: ...


_NO_KWARGS: Mapping[str, object] = {}

# An Enum's members are looked up through its metaclass, which takes as long as a call.
_REFERENCES = (ref,)
_CANCELLED = Status.CANCELLED

CO_ITERABLE_COROUTINE = 0x100  # inspect's name for the flag that types.coroutine sets


class Options:
    """Hold what few registrations have: a time limit in seconds, how and when to run, kwargs.

    `exit` is given if the callback is the exit of a context manager, and `block` if it shares
    its place on the stack.
    """

    __slots__ = (
        "before_threads",
        "block",
        "exit",
        "kwargs",
        "on_timeout",
        "thread",
        "timeout",
    )

    def __init__(
        self,
        timeout: float | None = None,
        on_timeout: Callable[..., object] | None = None,
        *,
        thread: bool = False,
        before_threads: bool = False,
        exit_: Exit | None = None,
        kwargs: Mapping[str, object] = _NO_KWARGS,
    ) -> None:
        self.timeout: float | None = timeout
        self.on_timeout: Callable[..., object] | None = on_timeout
        self.thread: bool = thread
        self.before_threads: bool = before_threads
        self.exit: Exit | None = exit_
        self.kwargs: Mapping[str, object] = kwargs
        self.block: Block | None = None


class Exit:
    """Mark the exit of a context manager, and hold what it was entered under (R8).

    `guard` is that of the unwind that it was entered inside of, if any, and `shield` what
    that had up. `around` is None, or else trio's cancel status around the scopes that it holds
    open.
    """

    __slots__ = ("_guard", "around", "shield")

    def __init__(self, guard: Guard | None, *, around: object | None) -> None:
        self._guard: Guard | None = None
        self.shield: object | None = None if guard is None else guard.scope
        self.around: object | None = around
        # One that was entered in another thread or task holds no scope of this one open, and
        # need not be left in this unwind either: it has another home.
        if guard is not None and guard.is_here():
            self._guard = guard
            guard.held += 1

    def ended(self) -> None:
        if self._guard is not None:
            self._guard.held -= 1


class Registration:
    """Stand for one callback on a manager's stack: the handle that `defer` returns.

    It is made by a manager, never by hand.

    >>> import lastly
    >>> manager = lastly.ShutdownManager()
    >>> handle = manager.defer(print, "never printed", name="greeting")
    >>> handle.name, handle.cancel(), handle.status.value
    ('greeting', True, 'cancelled')
    """

    __slots__ = (
        "_args",
        "_code",
        "_func",
        "_home",
        "_lasti",
        "_name",
        "_options",
        "_owner",
        "_status",
    )

    # No __init__, whose call would cost more than all that it would do: see _push.
    _func: Callable[..., object]
    _args: tuple[object, ...]
    # Where to look for a line, if anybody asks. The frame would keep its variables alive, and
    # its f_lineno walks the code's whole line table.
    _code: CodeType
    _lasti: int
    _home: object | None
    _owner: Owner | None  # until it has run
    _name: str | None
    _options: Options | None
    _status: Status

    @property
    def name(self) -> str:
        """The name given to `defer`, or else the callback's qualified name."""
        return qualified_name(self._func) if self._name is None else self._name

    @property
    def origin(self) -> str:
        """Where it was registered, as "file:line"."""
        return origin(self._place)

    @property
    def home(self) -> object | None:
        """The event loop that was running when it was made; None for the interpreter.

        It is not kept alive by a registration that has run, and is then None, too, once it is
        gone.
        """
        home: Any = self._home
        referent: object | None = home() if type(home) in _REFERENCES else home
        return referent

    @property
    def status(self) -> Status:
        """How far it has come: pending, running, cancelled, or how its run ended."""
        return self._status

    def cancel(self) -> bool:
        """Take the registration off the stack; return True if it will now not run.

        False means that it runs, has run, or was taken off before by `unregister`.
        May be called from any thread, as often as one likes.
        """
        owner = self._owner
        if owner is not None and owner._discard(self):
            if isinstance(self._func, _Postponed):
                dispose(self._func.awaitable)
            finish(self, _CANCELLED)
        return self._status is _CANCELLED

    def __repr__(self) -> str:
        home = "the interpreter"
        if self._home is not None:
            home = "an event loop that is gone" if self.home is None else object.__repr__(self.home)
        return f"<Registration {self.name} ({self.origin}), home {home}, {self._status}>"

    @property
    def _place(self) -> Place:
        return self._code, self._lasti

    @property
    def _exit(self) -> Exit | None:
        """What it is marked with if it is the exit of a context manager."""
        return None if self._options is None else self._options.exit

    @property
    def _block(self) -> Block | None:
        """The block whose place on the stack it shares."""
        return None if self._options is None else self._options.block


def call(registration: Registration, leaving: BaseException | None) -> Any:
    """Call the callback; a context manager's exit is told the exception that is leaving."""
    options = registration._options
    if options is None:
        return registration._func(*registration._args)
    if options.exit is None:
        return registration._func(*registration._args, **options.kwargs)
    if leaving is None:
        return registration._func(None, None, None)
    return registration._func(type(leaving), leaving, leaving.__traceback__)


def finish(registration: Registration, status: Status) -> None:
    """Record how it ended and let go of the callback, which may own much, and of its home."""
    if registration._name is None:
        registration._name = qualified_name(registration._func)
    registration._status = status
    registration._func = already_run
    registration._args = ()
    registration._options = registration._owner = None
    if registration._home is not None:
        registration._home = weakly(registration._home)


def weakly(home: object) -> object:
    """Return a weak reference, or the object itself where it takes none."""
    try:
        return ref(home)
    except TypeError:
        return home


def replace(registration: Registration, func: Callable[..., object]) -> None:
    """Put `on_timeout` in the place of the callback that ran out of time."""
    registration._name = registration.name
    registration._func = func
    registration._args = ()


def postpone(registration: Registration, awaitable: object) -> None:
    """Make the registration pending again: its callback was called, the result is not awaited."""
    registration._status = Status.PENDING
    registration._name = registration.name
    registration._func = _Postponed(registration._func, awaitable)
    registration._args = ()


class _Postponed:
    """Stand in for a callback that was called: equal to it, for `unregister`."""

    def __init__(self, func: object, awaitable: object) -> None:
        self._func = func
        self.awaitable = awaitable

    def __call__(self, *_: object) -> object:
        return self.awaitable

    def __eq__(self, other: object) -> bool:
        return self._func == other

    def __hash__(self) -> int:
        return hash(self._func)


def already_run() -> None:
    raise AssertionError("a registration runs once")  # pragma: no cover - R3 forbids it


def is_awaitable(result: object) -> bool:
    """Tell whether `await` takes the object, without loading `inspect`."""
    if isinstance(result, CoroutineType) or hasattr(type(result), "__await__"):
        return True
    return isinstance(result, GeneratorType) and bool(
        result.gi_code.co_flags & CO_ITERABLE_COROUTINE
    )


def dispose(awaitable: object) -> None:
    """Close a coroutine that nobody will await, or it would warn of that.

    Only a coroutine: another awaitable's `close` is not ours to call.
    """
    if isinstance(awaitable, Coroutine | GeneratorType):
        awaitable.close()


def looks_async(func: Any) -> bool:
    """Tell whether calling the callback is bound to return an awaitable.

    Only `close` inside a running loop asks this, to refuse before it runs anything. A
    False is no promise: what counts in the end is the result of the call.
    """
    # Loaded already wherever a loop runs, and too heavy for `import lastly`.
    from inspect import iscoroutinefunction

    while isinstance(func, partial):
        func = func.func
    return iscoroutinefunction(func) or iscoroutinefunction(type(func).__call__)


def qualified_name(func: Any) -> str:
    """Return the best name that a callable has, looking through `functools.partial`."""
    while isinstance(func, partial):
        func = func.func
    try:
        name: object = func.__qualname__
    except Exception:  # it may run the user's code, and a name is not worth an unwind
        name = None
    return one_line(name) if isinstance(name, str) else kind_of(func)
