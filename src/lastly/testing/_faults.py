"""hang and fail: let the callback of a name go wrong.

May import _backends, _checks, _manager, _registration and _time.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from difflib import get_close_matches
from math import inf
from threading import Event

from anyio import sleep_forever

from lastly._backends import outermost_scope
from lastly._checks import _is_sync
from lastly._manager import default
from lastly._registration import is_awaitable

from ._time import FakeClock, fake_clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextlib import AbstractContextManager
    from typing import Any

    from lastly import Registration, ShutdownManager


def hang(
    name: str, *, after: bool = False, manager: ShutdownManager | None = None
) -> AbstractContextManager[None]:
    """Make the callbacks of this name hang, in all unwinds inside the block.

    An async callback awaits what never comes; a sync one with `thread=True` blocks its thread
    until the end of the block. Each uses up all the time that it is given, and no real time:
    the manager's clock jumps to the limit. It hangs instead of its real work, or `after` it. It
    does not matter whether it was registered before the block or is inside of it.

    On trio, the exit of a context manager that holds a cancel scope open, as a task group does,
    hangs inside of that and then leaves it, which is its real work.

    The callback fails, with an `AssertionError` that says why, where nothing could ever end it:
    if there is no `timeout` and no `grace`, if it is sync and has no `thread=True`, or `after`
    such an exit.

    Raises `AssertionError` at the end of the block if no callback of this name was called.

    >>> import asyncio, lastly
    >>> async def main():
    ...     manager = lastly.ShutdownManager(errors="log")
    ...     manager.defer(asyncio.sleep, 0, name="close_pool", timeout=30)
    ...     with hang("close_pool", manager=manager):
    ...         await manager.aclose()
    ...     return manager.last_report()
    >>> asyncio.run(main()).outcomes[0].status.value
    'timed_out'
    """
    released = Event()

    def go_wrong(faulty: _Faulty, sync: bool | None) -> Any:
        registration, clock = faulty.registration, faulty.fault.clock
        options, settings = registration._options, faulty.fault.manager._settings
        in_thread = options is not None and options.thread and sync is not False
        if sync and not in_thread:
            raise AssertionError(
                f"{name} ({registration.origin}) is sync, and if it hung nothing could end it: did "
                "you forget `thread=True`, and a timeout?"
            )
        own = None if options is None else options.timeout
        limits = (settings.grace, settings.timeout if own is None else own)
        if all(limit is None or limit == inf for limit in limits):
            raise AssertionError(
                f"{name} ({registration.origin}) would hang for ever: did you forget its timeout, "
                "or the grace or timeout of the manager?"
            )
        if faulty.around is not None and outermost_scope(faulty.around) is None:
            raise AssertionError(
                f"{name} ({registration.origin}) would hang for ever: on trio nothing but the "
                "scope that this exit leaves could end it; did you mean it without `after=True`?"
            )
        clock._skip_while(lambda: registration._func is faulty)
        return released.wait() if in_thread else sleep_forever()

    return _going_wrong(_Fault("hang", name, after, manager, go_wrong), released.set)


def fail(
    name: str,
    exception: BaseException | type[BaseException],
    *,
    after: bool = False,
    manager: ShutdownManager | None = None,
) -> AbstractContextManager[None]:
    """Make the callbacks of this name raise the exception, in all unwinds inside the block.

    They raise it instead of their real work, or `after` it. It does not matter whether they were
    registered before the block or are inside of it. On trio, the exit of a context manager that
    holds a cancel scope open leaves that in any case.

    Raises `AssertionError` at the end of the block if no callback of this name was called.

    >>> import lastly
    >>> manager = lastly.ShutdownManager(errors="log")
    >>> handle = manager.defer(print, name="close_pool")
    >>> with fail("close_pool", OSError("gone"), manager=manager):
    ...     manager.close()
    >>> manager.last_report().outcomes[0].exception
    OSError('gone')
    """

    def go_wrong(_faulty: _Faulty, _sync: bool | None) -> Any:
        raise exception

    return _going_wrong(_Fault("fail", name, after, manager, go_wrong))


@contextmanager
def _going_wrong(fault: _Fault, release: Callable[[], object] = bool) -> Generator[None]:
    with fake_clock(fault.manager) as fault.clock:
        # An unwind asks for the time before it takes the next registration from the stack: by
        # then each of them can be seen here, whoever has made it, and when.
        fault.clock._listeners.append(fault.arm)
        try:
            yield
        finally:
            fault.clock._listeners.remove(fault.arm)
            release()
            fault.disarm()
    if not fault.called:
        raise AssertionError(fault.missed())


class _Fault:
    """One `hang` or `fail`: which callbacks go wrong and how, and what was seen of them.

    `go_wrong` is told whether the callback is sync, or None where only its call could tell.
    """

    clock: FakeClock

    def __init__(
        self,
        verb: str,
        name: str,
        after: bool,
        manager: ShutdownManager | None,
        go_wrong: Callable[[_Faulty, bool | None], Any],
    ) -> None:
        self.verb = verb
        self.name = name
        self.after = after
        self.manager = default if manager is None else manager
        self.go_wrong = go_wrong
        self.called = False
        self._names: dict[str, None] = {}  # in the order in which they were seen

    def arm(self) -> None:
        for registration in self.manager.pending():
            self._names[registration.name] = None
            if registration.name == self.name and not isinstance(registration._func, _Faulty):
                registration._func = _Faulty(registration, self)

    def disarm(self) -> None:
        for registration in self.manager.pending():
            func = registration._func
            if isinstance(func, _Faulty) and func.fault is self:
                registration._func = func.func

    def missed(self) -> str:
        call = f"{self.verb}({self.name!r})"
        for registration in self.manager.pending():
            if registration.name == self.name:
                return (
                    f"{call}: {registration} has not run; "
                    "did you forget to unwind inside the block?"
                )
        self.arm()  # for the names that are pending
        names = list(self._names)
        likely = get_close_matches(self.name, names, 1)
        question = f"did you mean {likely[0]!r}" if likely else "did you forget to register it"
        seen = ", ".join(map(repr, names)) or "none"
        return f"{call}: no callback of this name has gone wrong; {question}? Names seen: {seen}"


class _Faulty:  # noqa: PLW1641 - nobody hashes it
    """Stand in for a callback that goes wrong: equal to it, for `unregister`."""

    def __init__(self, registration: Registration, fault: _Fault) -> None:
        self.__qualname__ = registration.name
        self.registration = registration
        self.fault = fault
        self.func = registration._func

    @property
    def around(self) -> object | None:
        exit_ = self.registration._exit
        return None if exit_ is None else exit_.around

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.fault.called = True
        if not self.fault.after:
            if self.around is not None:
                return self._inside(args)
            return self.fault.go_wrong(self, _is_sync(self.func) or None)
        result: Any = self.func(*args, **kwargs)
        if is_awaitable(result):
            return self._after(result)
        return self.fault.go_wrong(self, True)

    async def _after(self, real: Awaitable[object]) -> None:
        await real
        await self.fault.go_wrong(self, False)

    async def _inside(self, told: tuple[object, ...]) -> object:
        real: Any = self.func
        try:
            return await self.fault.go_wrong(self, False)  # hangs until it is cancelled, or raises
        except sys.modules["trio"].Cancelled as exc:
            return await real(type(exc), exc, exc.__traceback__)
        except BaseException:
            await real(*told)  # trio breaks down over a scope that is never left
            raise

    def __eq__(self, other: object) -> bool:
        return self.func == other
