"""Exceptions: raise one as it is, chain it, note on it, and log what a callback raised.

May import _outcome only.
"""

from __future__ import annotations

from contextlib import suppress

from ._outcome import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sized
    from logging import Logger
    from typing import Any, NoReturn

    from ._outcome import Outcome

_GROUP: type[BaseException] = BaseExceptionGroup  # of whatever
_MACHINERY = (__package__, "asyncio", "concurrent.futures")


def logger() -> Logger:
    """Return the logger of all that lastly has to say."""
    import logging  # lazy: it takes as long as all else of lastly. Loaded when it is hooked in

    return logging.getLogger("lastly")


def reraise(exception: BaseException) -> NoReturn:
    """Raise the object as it is: a plain `raise` would overwrite its `__context__`."""
    context = exception.__context__
    try:
        raise exception
    finally:
        with suppress(Exception):  # a frozen dataclass keeps what it has
            exception.__context__ = context
        del exception, context  # the traceback holds this frame: make no cycle


def chain(exception: BaseException, context: BaseException) -> None:
    """Put `context` at the end of the exception's chain, as `finally` would have."""
    links = _links(exception)
    last = next(reversed(links.values()))
    if id(context) in links or last.__context__ is not None:  # linked already, or a ring
        return
    with suppress(Exception):  # see reraise
        for link in _links(context).values():
            if id(link.__context__) in links:
                link.__context__ = None  # as the interpreter does, or it would be a ring
        last.__context__ = context


def _links(exception: BaseException | None) -> dict[int, BaseException]:
    links: dict[int, BaseException] = {}
    while exception is not None and id(exception) not in links:
        links[id(exception)] = exception
        exception = exception.__context__
    return links


def leaves(exception: BaseException) -> list[BaseException]:
    """Return what a group is made of, at whatever depth, or else the exception alone."""
    # Nothing but a group is asked: an attribute of any other may raise.
    if not isinstance(exception, _GROUP):
        return [exception]
    members: Iterable[Any] = getattr(exception, "exceptions", ())
    return [leaf for member in members for leaf in leaves(member)]


def consists_of(exception: BaseException, kinds: Any) -> bool:
    """Tell whether it is an exception of these kinds, or a group of nothing else."""
    return all(isinstance(leaf, kinds) for leaf in leaves(exception))


def is_success(exception: BaseException) -> bool:
    """Tell whether it ends a program with the exit status 0, of which the system takes a byte."""
    if not isinstance(exception, SystemExit):
        return False
    code = exception.code
    return not (code & 0xFF if isinstance(code, int) else code)


def log(outcome: Outcome, exception: BaseException) -> None:
    # The traceback begins where the user's code does, if it comes to that at all.
    begin = exception.__traceback__
    while begin is not None and begin.tb_frame.f_globals.get("__package__") in _MACHINERY:
        begin = begin.tb_next
    told = f"callback {outcome.name} ({outcome.origin}) {outcome.status}"
    # R10: a handler that raises is not worth the callbacks that have yet to run, and the
    # failure itself is in the report.
    with suppress(Exception):
        exception.with_traceback(begin or exception.__traceback__)
        if isinstance(exception, SystemExit):
            # atexit's rule: it was asked for, and is no error to print.
            logger().info("%s: %s", told, describe(exception))
        else:
            logger().error("%s", told, exc_info=exception)


def inform(message: str, *args: object) -> None:
    logger().info(message, *args)


def warn(message: str, *args: object) -> None:
    with suppress(Exception):  # see log
        logger().warning(message, *args)


def count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def listed(failures: list[Outcome]) -> str:
    return "; ".join(map(str, failures))


def add_note(exception: BaseException, text: str) -> None:
    # A frozen exception, or one whose __notes__ is no list, goes without; the log has all.
    with suppress(Exception):
        exception.add_note(f"lastly: {text}")
