"""What may be given, and the errors that say what was given and what to write instead (R32).

May import _registration only.
"""

from __future__ import annotations

from contextlib import AsyncContextDecorator, ContextDecorator
from types import CodeType, FunctionType, MethodType

from ._registration import CO_ITERABLE_COROUTINE, dispose, is_awaitable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    Errors = Literal["last", "group", "log"]

_ERRORS = ("last", "group", "log")
_FUNCTIONS = (FunctionType, MethodType)
_CO_GENERATORS = 0x20 | 0x200  # inspect's CO_GENERATOR and CO_ASYNC_GENERATOR
_DECORATE = (ContextDecorator.__call__, AsyncContextDecorator.__call__)
# What @contextmanager and @asynccontextmanager put in a function's place.
_MAKE_CONTEXT_MANAGERS = (
    "contextmanager.<locals>.helper",
    "asynccontextmanager.<locals>.helper",
)


def check_callback(verb: str, func: Any) -> None:
    """Refuse what cannot be called, and what does nothing when it is."""
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
        return "the function itself, without the parentheses that call it"
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
        return getattr(kind, enter), getattr(kind, exit_)
    except AttributeError:
        pass
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
        return text
    raise TypeError(f"a {what} is a string, but {text!r} was given; write {what}={str(text)!r}")


def checked_errors(errors: Any) -> Errors:
    if errors in _ERRORS:
        checked: Errors = errors
        return checked
    raise ValueError(f"errors={errors!r} is unknown; write one of {', '.join(map(repr, _ERRORS))}")
