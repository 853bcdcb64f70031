"""Where it is stuck: what an awaitable waits for, or what a thread runs, as lines of text.

Imports nothing of lastly's, and no more than `import logging` loads: the event loops are
looked up when there is something to ask them.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

    Entry = tuple[str, FrameType]  # the name of the task that begins there, or "", and where

_MACHINERY = frozenset({__package__, "anyio", "asyncio", "outcome", "trio", "uvloop"})

_OUTER, _INNER = 9, 20  # how many lines of a long picture are kept at its two ends
_FEW = 3  # and how many of a stack that is machinery throughout

# How the frame of what can be suspended is called, and what that awaits. By name: coroutines
# made by Cython have them too.
_SUSPENDED = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))

_STEPS, _WIDTH, _BYTES = 3, 100, 8192  # the bounds of the search behind a done-callback
_TASKS = 1000  # with more of them, to look behind each would hold up the loop


def await_chain(task: Any, awaitable: Any) -> tuple[str, ...]:
    """Return where `awaitable` waits that `task` awaits: its frames, the innermost last.

    To be called in the thread of the task's loop.
    """
    chain: list[Entry] = []
    # This is for when things go wrong already, and what it looks at is other people's
    # objects: what was found up to there is better than one more exception.
    with suppress(Exception):
        if not _collect(task, awaitable, chain):
            chain.clear()
            _collect(awaitable, awaitable, chain)
    return _picture(chain)


def thread_stack(ident: int) -> tuple[str, ...]:
    """Return what a thread runs below lastly and the event loop, the innermost line last."""
    return stack_of(sys._current_frames().get(ident))


def stack_of(frame: FrameType | None) -> tuple[str, ...]:
    """Return the same of the thread that runs this frame, from there on outwards."""
    stack: list[Entry] = []
    with suppress(Exception):  # as above
        while frame is not None:
            stack.append(("", frame))
            frame = frame.f_back
    stack.reverse()
    # Never f_locals, here: before 3.13 reading those writes to the frame, and it is running.
    packages = [_package(frame) for _, frame in stack]
    if __package__ not in packages:
        return _picture(stack[-_INNER:])
    start = packages.index(__package__)
    while start < len(stack) and packages[start] in _MACHINERY:
        start += 1
    if start < len(stack):
        return _picture(stack[start:])
    # Called straight from lastly: a function of C, which has no frame.
    return () if packages[-1] == __package__ else _picture(stack[-_FEW:])


def _collect(start: Any, awaitable: Any, chain: list[Entry]) -> bool:
    """Gather what is below the last frame of lastly's that awaits `awaitable`, if one does."""
    found = False
    for waiter, entry in _follow(start):
        frame = entry[1]
        if (
            _package(frame) == __package__
            and "awaitable" in frame.f_code.co_varnames
            and any(held is awaitable for held in _held(waiter))
        ):
            found = True
            chain.clear()
        else:
            chain.append(entry)
    return found


def _follow(obj: Any) -> Iterator[tuple[Any, Entry]]:
    """Yield each suspended thing from `obj` on, from task to task, with its frame."""
    seen: set[int] = set()
    tasks: dict[int, Any] = {}
    name = ""
    while obj is not None and id(obj) not in seen:
        seen.add(id(obj))
        waiter = obj
        spelling = next((names for names in _SUSPENDED if _has(obj, names[0])), None)
        if spelling is not None:
            frame = getattr(waiter, spelling[0])
            if frame is None:  # it has ended
                return
            yield waiter, (name, frame)
            name = ""
            obj = _beyond(waiter, frame, getattr(waiter, spelling[1]))
        elif _has(obj, "get_coro"):  # a task of asyncio's
            name, obj = obj.get_name(), obj.get_coro()
        elif _has(obj, "parent_nursery"):  # a task of trio's
            name, obj = obj.name, obj.coro
        elif _is_future(obj):
            obj = _resolver(obj, tasks)
        elif type(obj).__dictoffset__:  # it may hold anything
            return
        else:
            # The iterators of C that `await` makes have no attribute for what they drive.
            obj = next(filter(_is_driven, gc.get_referents(obj)), None)


def _beyond(waiter: Any, frame: FrameType, awaited: Any) -> Any:
    """Return what a suspended frame waits for, where that is not just what it awaits."""
    if awaited is None and _package(frame) == "asyncio":
        # Future.__await__, where it is not in C, yields the future that holds it up.
        return next(filter(_is_future, _held(waiter)), None)
    trap = getattr(awaited, "cr_frame", None)
    if trap is None or trap.f_globals.get("__name__") != "trio._core._traps":
        return awaited
    # Every wait on trio ends in the same two lines, which tell nothing. Where a nursery
    # waits like that, it is for its children; by name, to show the same one each time.
    if _package(frame) == "trio":
        for held in _held(waiter):
            if isinstance(held, sys.modules["trio"].Nursery):
                return min(held.child_tasks, key=lambda task: task.name, default=None)
    return None


def _resolver(future: Any, tasks: dict[int, Any]) -> Any:
    """Return what a future waits for: of a gather, the first child; or else a task.

    `tasks` keeps which task resolves what, so that a picture searches the loop only once.
    """
    children = getattr(future, "_children", None)
    if children is not None:
        return next((child for child in children if not child.done()), None)
    if not tasks:
        pending = sys.modules["asyncio"].all_tasks(future.get_loop())
        if len(pending) > _TASKS:
            return None
        # A set; Task-9 is older than Task-10, and the oldest makes the same picture each time.
        for task in sorted(pending, key=lambda task: (len(task.get_name()), task.get_name())):
            for callback, _ in getattr(task, "_callbacks", None) or ():
                for resolved in _futures_behind(callback):
                    tasks.setdefault(id(resolved), task)
    return tasks.get(id(future))


def _futures_behind(callback: Any) -> Iterator[Any]:
    """Yield the futures within reach of a callback, which are those that it may resolve."""
    level = [callback]
    for _ in range(_STEPS):
        parts = [part for obj in level for part in _parts(obj)][:_WIDTH]
        yield from filter(_is_future, parts)
        level = parts


def _parts(obj: object) -> list[Any]:
    if isinstance(obj, FunctionType):  # not its globals
        return [*gc.get_referents(*(obj.__closure__ or ())), *(obj.__defaults__ or ())]
    # Lists and sets are not searched: those have what a callback counts, not resolves.
    links = tuple, dict, MethodType, BuiltinMethodType
    walls = type, ModuleType, sys.modules["asyncio"].AbstractEventLoop
    kind = type(obj)
    is_link = issubclass(kind, links) or kind.__dictoffset__ != 0
    if not is_link or issubclass(kind, walls) or _is_future(obj) or sys.getsizeof(obj) > _BYTES:
        return []
    return gc.get_referents(obj)


def _held(waiter: Any) -> Iterator[Any]:
    """Yield what the frame of something suspended holds, its locals above all.

    Before 3.13 f_locals would leave a dict of them on the frame, and so keep them alive.
    """
    for obj in gc.get_referents(waiter):
        yield from gc.get_referents(obj) if isinstance(obj, CellType) else (obj,)


def _has(obj: object, name: str) -> bool:
    return hasattr(type(obj), name)  # of the type, so that no `__getattr__` answers


def _is_future(obj: object) -> bool:
    return _has(obj, "_asyncio_future_blocking")


def _is_driven(obj: object) -> bool:
    return any(_has(obj, name) for name in ("__await__", "gi_frame", "ag_frame"))


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__package__")).partition(".")[0]


def _picture(entries: list[Entry]) -> tuple[str, ...]:
    left_out = len(entries) - _OUTER - _INNER
    if left_out <= 1:
        return tuple(map(_line, entries))
    head, tail = map(_line, entries[:_OUTER]), map(_line, entries[-_INNER:])
    return (*head, f"... {left_out} more ...", *tail)


def _line(entry: Entry) -> str:
    task, frame = entry
    code, number, source = frame.f_code, frame.f_lineno, ""
    with suppress(Exception):  # it may ask a loader of other people's
        import linecache  # lazy: it loads `re` and `tokenize`, and is rarely asked for

        source = linecache.getline(code.co_filename, number, frame.f_globals).strip()
    where = f"{code.co_filename}:{number} in {code.co_qualname}"
    return (f"task {task!r}: " if task else "") + where + (f": {source}" if source else "")
