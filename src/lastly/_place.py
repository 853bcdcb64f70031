"""One place on the stack that many registrations share: run them side by side (R4).

Each is an unwind of its own, of one registration, with its own limit, watch and guard. May
import what is below _homes, and that is told what to call.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from threading import get_ident

from ._backends import current_home, is_closed, is_elsewhere, load_anyio
from ._errors import reraise
from ._guard import Guard
from ._outcome import Ran
from ._registration import dispose
from ._runners import stop
from ._spot import Spot
from ._threads import InThread
from ._unwind import Unwind, inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable
    from typing import Any

    import anyio

    from ._limits import Limit
    from ._registration import Registration
    from ._unwind import Call, Ending, Run


async def run_place(
    discard: Callable[[Registration], bool], place: Unwind, first: Registration, call: Call
) -> None:
    """Run the first member of a block, which was popped, and all that `discard` finds of it.

    They are called one after the other, the newest first; then what they returned is awaited,
    each in a task of its own, and threads go on meanwhile. One's failure is not the others'.
    """
    assert first._block is not None
    registrations = [first, *first._block.take(discard)]
    place.members = members = [
        _Member(place, registration, len(place.ran.entries) + n, len(registrations) - n - 1)
        for n, registration in enumerate(registrations)
    ]
    place.spot.registration = None  # it is at none: each has a spot of its own
    error: BaseException | None = None
    for member in members:
        try:
            member.call(call)
        except BaseException as exc:  # Ctrl-C, outside of the callback
            error = exc
    try:
        waiting = [member for member in members if member.awaitable is not None]
        if place.run is not None:
            _run_from_outside(place.run, place.spot, waiting)
        elif waiting:
            await _beside(waiting)
    except BaseException as exc:
        error = exc
    try:
        for member in members:
            if member.awaitable is not None and error is not None:
                member.call_off(error)
        place.absorb(members, error)
    finally:
        del error  # its traceback holds this frame: make no cycle


class _Member(Unwind):
    """Unwind one registration: call it at once, and await what it returned later, in a task."""

    is_member = True

    def __init__(self, place: Unwind, registration: Registration, before: int, behind: int) -> None:
        def pending() -> int:
            return behind + place.spot.pending()

        settings = place.settings
        super().__init__(place.reason, settings, pending, ladder=place.ladder, whole=False)
        self.ran = Ran(place.ran.began)
        self.spot = Spot(settings, range(before), pending, get_ident())
        self.budget = place.budget
        self.awaitable: Any = None  # what its call has returned, while it waits for a task
        self._registration = registration
        self._place = place
        self._steps: Any = None
        self._is_called_off = False

    @property
    def home(self) -> Any:
        """The loop on which what its call has returned is to be awaited."""
        return None if isinstance(self.awaitable, InThread) else self._registration._home

    def call(self, call: Call) -> None:
        """Call it, and go no further than to where something has to be awaited."""
        token = inside.set((*inside.get(), self))
        try:
            self.spot.begin()
            pop = {self._registration: None}.popitem
            self._steps = self.steps(pop, call).__await__()
            self.go_on()
        finally:
            inside.reset(token)

    def go_on(self) -> None:
        """Go on where no loop runs."""
        try:
            self._steps.send(None)
        except StopIteration:
            self.spot.end()

    async def result_of(self, awaitable: Any) -> Any:
        if self.guard.task is None and self.run is None:
            await self._its_turn(awaitable)
        return await super().result_of(awaitable)

    async def _its_turn(self, awaitable: Any) -> None:
        now, limit = self.settings.clock.now, self.spot.limit
        self.awaitable, began = awaitable, now()
        try:
            await _Later()
        except BaseException:
            dispose(awaitable)
            raise
        finally:
            self.awaitable = None
        if limit is not None and not limit.shared and not isinstance(awaitable, InThread):
            limit.start += now() - began  # the calls of the others are not its time

    async def finish(self) -> None:
        """Go on in a task of its own."""
        if self._is_called_off:
            return
        token = inside.set((*inside.get(), self))
        self.guard = guard = Guard()
        self.spot.at = (get_ident(), guard.home, guard.task)
        try:
            await self
        finally:
            guard.unshield()
            self.spot.end()
            with suppress(ValueError):  # closed from outside its task, hence its context
                inside.reset(token)  # which the task keeps, and this keeps the task

    def __await__(self) -> Generator[Any, Any, None]:
        steps: Generator[Any, Any, None] = self._steps
        return steps

    def interrupt(self, times: int) -> bool:
        """Cut it short, as the task that unwinds was; return whether there is anything to cut."""
        guard = self.guard
        if not isinstance(guard, Guard):
            self._is_called_off = True
            return False
        if self.spot.in_thread() is not None:
            return True  # nothing can cut that short, but it is waited for
        if guard.is_trio:
            assert guard.scope is not None
            guard.scope.cancel()
        elif guard.task.cancelling() < times:  # else who cancels all tasks has been here, too
            guard.task.cancel()
        return True

    def call_off(self, error: BaseException) -> None:
        """End what has not begun to be awaited, with the error that kept it from that."""
        self._stopping = not isinstance(error, Exception)
        try:
            self._steps.throw(error)
        except StopIteration:
            self.spot.end()

    def stop(self) -> None:
        """End it where nothing can be awaited any more."""
        if isinstance(self.guard, Guard):
            stop(self.guard.task)

    async def _after_limit(
        self, limit: Limit, exception: BaseException | None, call: Call
    ) -> Ending:
        if limit.expired:
            # Who runs the place lets go of the threads that it may have left.
            self._place.spot.step = (self._registration, limit)
        return await super()._after_limit(limit, exception, call)


class _Later:
    """Suspend a coroutine that no task runs yet."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def _beside(members: list[_Member]) -> None:
    """Finish them in the loop that runs here, each in a task of its own."""
    load_anyio()
    import anyio  # lazy: only who awaits side by side comes here

    left = set(members)
    done = anyio.Event()

    async def finish(queue: list[_Member]) -> None:
        for member in queue:
            try:
                await member.finish()
            finally:
                left.discard(member)
                if not left:
                    done.set()

    # Not `async with`, which would await when this is closed from outside of its task. Members
    # have shields of their own; this one is against what is around, and against the group: it
    # cancels all of itself where one's task was cancelled before it began.
    group = await anyio.create_task_group().__aenter__()
    shield = anyio.CancelScope(shield=True).__enter__()
    tasks = [finish(queue) for queue in _queues(members)]
    for task in tasks:
        group.start_soon(partial(_as_it_is, task))
    try:
        interrupted = await _until_none_is_left(left, done)
        shield.__exit__(None, None, None)
        await group.__aexit__(None, None, None)
    finally:
        for task in tasks:  # asyncio never begins one that was cancelled before, and Python warns
            task.close()
    if interrupted is not None:
        try:
            reraise(interrupted)
        finally:
            del interrupted  # see run_place


def _as_it_is(task: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
    return task


async def _until_none_is_left(left: set[_Member], done: anyio.Event) -> BaseException | None:
    """Wait, and pass on to the members what interrupts that; return the first of it."""
    interrupted: BaseException | None = None
    times = 0
    while left:
        try:
            await done.wait()
        except GeneratorExit:
            for member in list(left):
                member.stop()
            raise
        except BaseException as exc:  # a native cancellation, or trio's Ctrl-C
            interrupted = exc if interrupted is None else interrupted
            times += 1
            left.intersection_update([member for member in left if member.interrupt(times)])
    return interrupted


def _queues(members: list[_Member]) -> Iterable[list[_Member]]:
    """Have those wait for each other whose home is a loop that nobody runs: it can run once."""
    queues: dict[Any, list[_Member]] = {}
    for member in members:
        home: Any = member.home
        is_idle = home is not None and not is_elsewhere(home)  # one that runs here is not, either
        queues.setdefault(home if is_idle else member, []).append(member)
    return queues.values()


def _run_from_outside(run: Run, spot: Spot, waiting: list[_Member]) -> None:
    """Finish them where no loop runs: those of one home side by side, on that loop."""
    by_home: dict[Any, list[_Member]] = {}
    threads: list[_Member] = []
    for member in waiting:
        home = member.home
        if current_home() is not None or (home is not None and is_closed(home)):
            member.run = run  # which says so, or waits for the thread
            member.go_on()
        elif isinstance(member.awaitable, InThread):
            threads.append(member)
        else:
            home = None if home is None or is_elsewhere(home) else home
            by_home.setdefault(home, []).append(member)
    if threads:
        # Beside the last ones, for what they wait for may be on any of the loops.
        by_home.setdefault(next(reversed(by_home), None), []).extend(threads)
    error: BaseException | None = None
    for home, members in by_home.items():
        beside = _beside(members)
        try:
            run(beside, home, spot)
        except BaseException as exc:  # Ctrl-C: that loop has come to its end all the same
            error = exc
        finally:
            dispose(beside)
            spot.step = None  # a member's that was cut short: it is not for those of other loops
    if error is not None:
        try:
            reraise(error)
        finally:
            del error  # see run_place
