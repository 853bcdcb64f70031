"""What may be given, and the errors that say what was given and what to write instead (R32).

May import _outcome and _registration.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextlib import AsyncContextDecorator, ContextDecorator
from functools import partial
from itertools import pairwise
from math import inf
from types import CodeType, FunctionType, GeneratorType, MethodType

from ._outcome import one_line
from ._registration import (
    CO_ITERABLE_COROUTINE,
    Options,
    dispose,
    is_awaitable,
    looks_async,
    qualified_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ._settings import Errors

_BACKENDS = ("asyncio", "trio")
_MOST_STATUS = 255
_ERRORS = ("last", "group", "log")
_OPTIONS = ("name", "timeout", "on_timeout", "thread", "before_threads")
_FUNCTIONS = (FunctionType, MethodType)
_CO_GENERATORS = 0x20 | 0x200  # inspect's CO_GENERATOR and CO_ASYNC_GENERATOR
# Generators, and functions such as @contextmanager makes, with *args and **kwargs.
_MAY_DO_NOTHING = _CO_GENERATORS | 0x04 | 0x08
_DECORATE = (ContextDecorator.__call__, AsyncContextDecorator.__call__)
# What @contextmanager and @asynccontextmanager put in a function's place.
_MAKE_CONTEXT_MANAGERS = (
    "contextmanager.<locals>.helper",
    "asynccontextmanager.<locals>.helper",
)


def check_callback(verb: str, func: Any) -> None:
    """Refuse what cannot be called, and what does nothing when it is."""
    if type(func) is FunctionType and not func.__code__.co_flags & _MAY_DO_NOTHING:
        return
    if isinstance(func, _FUNCTIONS):
        if (advice := _why_it_does_nothing(func)) is not None:
            raise TypeError(f"{verb}() was given {func.__qualname__}, {advice}")
    # The context managers of @contextmanager can be called too: as decorators.
    elif not callable(func) or type(func).__call__ in _DECORATE:
        raise TypeError(
            f"{verb}() needs something to call, but was given {_name(func)}; write {_instead(func)}"
        )


def _why_it_does_nothing(func: Any) -> str | None:
    code = getattr(func, "__code__", None)
    if not isinstance(code, CodeType):
        return None  # a method of something else than a function
    if code.co_qualname in _MAKE_CONTEXT_MANAGERS:
        return (
            "which makes a context manager and does not enter it; "
            "write enter_context(...) or `await enter_async_context(...)` with what it returns"
        )
    if code.co_flags & _CO_GENERATORS and not code.co_flags & CO_ITERABLE_COROUTINE:
        return (
            "a generator function, and calling it runs none of its body; write it without "
            "`yield`, or with @contextmanager for enter_context(...)"
        )
    return None


def _instead(given: object) -> str:
    kind = type(given)
    if is_awaitable(given):
        dispose(given)
        if isinstance(given, Coroutine | GeneratorType):
            return "the function itself, without the parentheses that call it"
        return "an async function that ends it and awaits it"
    if hasattr(kind, "__aexit__"):
        return "`await enter_async_context(...)` for an async context manager"
    if hasattr(kind, "__exit__"):
        return "enter_context(...) for a context manager"
    if given is None:
        return "the function itself, if None is what calling it returned"
    return "a function, sync or async, and then its arguments"


def context_methods(
    cm: object, verb: str, enter: str, exit_: str
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions that enter and exit a context manager, or refuse it."""
    kind = type(cm)
    try:
        methods = getattr(kind, enter), getattr(kind, exit_)
    except AttributeError:
        pass
    else:
        check_callback(verb, methods[1])
        return methods
    if hasattr(kind, "__aexit__"):
        advice = "write `await enter_async_context(...)` for an async context manager"
    elif hasattr(kind, "__exit__"):
        advice = "write enter_context(...) for a context manager that is not async"
    elif callable(cm):
        advice = "call it, if that makes the context manager; or write defer(...) for a callback"
    else:
        advice = "it is no context manager"
    raise TypeError(f"{verb}() cannot enter {_name(cm)}: it has no {enter}; {advice}")


def _name(given: object) -> str:
    return "None" if given is None else f"an object of type {type(given).__qualname__}"


def checked_text(what: str, text: object) -> str | None:
    if text is None or isinstance(text, str):
        return None if text is None else one_line(text)
    raise TypeError(f"a {what} is a string, but {text!r} was given; write {what}={str(text)!r}")


def checked_seconds(what: str, seconds: Any, *, zero: bool = True) -> float | None:
    """Return a duration as a float of at least 0, or more than 0; None is none."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        total = getattr(seconds, "total_seconds", None)
        advice = "value.total_seconds()" if callable(total) else "a number of seconds, or None"
        raise TypeError(f"{what}={seconds!r} is no duration; write {what}={advice}")
    if not (seconds >= 0 if zero else seconds > 0):  # NaN is neither
        least = "at least 0" if zero else "more than 0"
        raise ValueError(f"{what}={seconds!r} is no duration; write {least} seconds, or None")
    try:
        return float(seconds)
    except OverflowError:
        return inf


def checked_options(
    func: Any, timeout: Any, on_timeout: Any, thread: Any, before_threads: Any
) -> Options | None:
    """Return what limits a registration, and how and when it runs; None if nothing does."""
    if timeout is None and on_timeout is None and thread is False and before_threads is False:
        return None
    for option, value in {"thread": thread, "before_threads": before_threads}.items():
        if not isinstance(value, bool):
            raise TypeError(f"{option}={value!r} is neither True nor False; write one of them")
    timeout = checked_seconds("timeout", timeout)
    if on_timeout is not None:
        check_callback("on_timeout", on_timeout)
    if thread and looks_async(func):
        raise TypeError(
            f"thread=True is for sync callbacks, and {qualified_name(func)} is async; "
            "write it without, since an async callback can be timed out anyway"
        )
    if not thread and (timeout is not None or on_timeout is not None) and _is_sync(func):
        option = "timeout" if timeout is not None else "on_timeout"
        raise TypeError(
            f"{option} was given for {qualified_name(func)}, which is sync and cannot be "
            "cancelled; write thread=True besides, to have it abandoned in a thread of its own"
        )
    return Options(timeout, on_timeout, thread=thread, before_threads=before_threads)


def refuse_options(unknown: Iterable[str]) -> None:
    raise TypeError(
        f"defer() has no option {', '.join(unknown)}; write one of {', '.join(_OPTIONS)}, or "
        f"functools.partial(func, {', '.join(f'{name}=...' for name in unknown)}) to have the "
        "callback given it"
    )


def _is_sync(func: Any) -> bool:
    """Tell whether calling it can return nothing that one could await.

    That is certain of a Python function whose code returns None wherever it returns.
    """
    while isinstance(func, partial):
        func = func.func
    if isinstance(func, MethodType):
        func = func.__func__
    if not isinstance(func, FunctionType) or looks_async(func):
        return False
    import dis  # lazy: few callbacks are ever asked about

    for before, step in pairwise(dis.get_instructions(func)):
        # 3.12 and 3.13 have an instruction of its own for a constant that is returned.
        constant = {"RETURN_VALUE": before, "RETURN_CONST": step}.get(step.opname)
        if constant is not None and (
            "CONST" not in constant.opname
            or constant.argval is not None
            or (step.is_jump_target and constant is before)
        ):
            return False
    return True


def checked_errors(errors: Any) -> Errors:
    if errors in _ERRORS:
        checked: Errors = errors
        return checked
    raise ValueError(f"errors={errors!r} is unknown; write one of {', '.join(map(repr, _ERRORS))}")


def check_main(main: Any, args: tuple[object, ...]) -> None:
    """Refuse what `run` cannot run."""
    if isinstance(main, Coroutine):
        if args:
            raise TypeError(
                f"run() was given a coroutine and arguments, which that has already; write "
                f"run({qualified_name(main)}, ...) for the function and its arguments"
            )
    elif not callable(main):
        raise TypeError(
            f"run() needs an async function, but was given {_name(main)}; write run(main), and "
            "its arguments behind it"
        )
    elif _is_sync(main) or (isinstance(main, _FUNCTIONS) and _why_it_does_nothing(main)):
        raise TypeError(
            f"run() needs an async function, and {qualified_name(main)} is none; write "
            f"`async def`, or call it without run() if nothing in it has to be awaited"
        )


def checked_backend(backend: object, options: object) -> None:
    if backend not in _BACKENDS:
        raise ValueError(
            f"backend={backend!r} is unknown; write one of {', '.join(map(repr, _BACKENDS))}"
        )
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(
            f"backend_options={options!r} are no options; write a dict of what `anyio.run` takes, "
            "or None"
        )


def checked_status(status: Any) -> None:
    if status is None:
        return
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"signal_exit_code={status!r} is no exit status; write an int, or None")
    if not 0 <= status <= _MOST_STATUS:
        raise ValueError(f"signal_exit_code={status!r} is no exit status; write 0 to 255")
