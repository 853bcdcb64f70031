"""What may be given, and the errors that say what was given and what to write instead (R32).

May import _registration only.
"""

from __future__ import annotations

from ._registration import dispose, is_awaitable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    Errors = Literal["last", "group", "log"]

_ERRORS = ("last", "group", "log")


def not_callable(verb: str, given: object) -> TypeError:
    kind = type(given)
    if is_awaitable(given):
        dispose(given)
        advice = "the function itself, without the parentheses that call it"
    elif hasattr(kind, "__aexit__"):
        advice = "enter_async_context() for an async context manager"
    elif hasattr(kind, "__exit__"):
        advice = "enter_context() for a context manager"
    else:
        advice = "a function, sync or async, and then its arguments"
    return TypeError(
        f"{verb}() needs something to call, but was given a {kind.__qualname__}; write {advice}"
    )


def context_methods(
    cm: object, verb: str, enter: str, exit_: str
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    kind = type(cm)
    try:
        return getattr(kind, enter), getattr(kind, exit_)
    except AttributeError:
        pass
    if hasattr(kind, "__aexit__"):
        advice = "write `await enter_async_context(...)` for an async context manager"
    elif hasattr(kind, "__exit__"):
        advice = "write enter_context(...) for a context manager that is not async"
    else:
        advice = "write defer(...) for a callback"
    raise TypeError(f"{verb}() cannot enter a {kind.__qualname__}: it has no {enter}; {advice}")


def checked_name(name: object) -> str | None:
    if name is None or isinstance(name, str):
        return name
    raise TypeError(f"a name is a string, but {name!r} was given; write name={str(name)!r}")


def checked_reason(reason: object) -> str | None:
    if reason is None or isinstance(reason, str):
        return reason
    raise TypeError(f"a reason is a string, but {reason!r} was given; write {str(reason)!r}")


def checked_errors(errors: Any) -> Errors:
    if errors in _ERRORS:
        checked: Errors = errors
        return checked
    raise ValueError(f"errors={errors!r} is unknown; write one of {', '.join(map(repr, _ERRORS))}")
