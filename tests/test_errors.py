"""R9 to R12: nothing stops the unwind, logging, what comes out, control flow."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys

import anyio
import pytest

import lastly


def fails(exception: BaseException) -> None:
    raise exception


async def fails_async(exception: BaseException) -> None:
    await anyio.sleep(0)
    raise exception


class FailsToExit(contextlib.nullcontext):
    def __init__(self, exception: BaseException) -> None:
        self.exception = exception

    def __exit__(self, *exc: object) -> None:
        raise self.exception


KINDS = [
    ValueError,
    asyncio.CancelledError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    BaseException,
]
# PEP 479: no coroutine can raise StopIteration.
RAISES = [(fails, StopIteration)] + [(f, kind) for f in (fails, fails_async) for kind in KINDS]


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.mark.parametrize(("callback", "kind"), RAISES)
async def test_the_next_callback_still_runs(
    manager: lastly.ShutdownManager, calls: list[str], callback, kind: type
) -> None:
    """R9: whatever a callback raises, sync or async, those below it run; then it comes out."""
    exception = kind()
    manager.defer(calls.append, "sync")

    @manager.register
    async def _below() -> None:
        await anyio.sleep(0)
        calls.append("async")

    manager.defer(callback, exception)
    if kind is StopIteration:
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await manager.aclose()
    else:
        with pytest.raises(kind) as caught:
            await manager.aclose()
        assert caught.value is exception
    assert calls == ["async", "sync"]
    assert [o.status for o in manager.last_report().outcomes] == ["failed", "ok", "ok"]


@pytest.mark.parametrize(("callback", "kind"), RAISES)
def test_the_next_callback_still_runs_in_close(
    manager: lastly.ShutdownManager, calls: list[str], callback, kind: type
) -> None:
    """R9: the same in close(), and the fresh loop is closed whatever was raised on it."""
    loops: list[asyncio.AbstractEventLoop] = []

    @manager.register
    async def _bottom() -> None:
        loops.append(asyncio.get_running_loop())
        calls.append("bottom")

    manager.defer(callback, kind())
    with pytest.raises(kind):
        manager.close()
    assert calls == ["bottom"]
    assert loops[0].is_closed()


def test_a_subtask_that_exits_does_not_stop_the_unwind(
    manager: lastly.ShutdownManager, calls: list[str]
) -> None:
    """R9: SystemExit in a task of a callback's breaks out of the loop, not out of the unwind."""

    async def exits() -> None:
        raise SystemExit(3)

    async def callback() -> None:
        try:
            await asyncio.create_task(exits())
        finally:
            calls.append("callback")

    async def main() -> None:
        manager.defer(calls.append, "bottom")
        manager.defer(callback)
        manager.defer(calls.append, "top")

    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())
    assert caught.value.code == 3
    assert calls == ["top", "callback", "bottom"]


async def test_a_callback_handles_no_earlier_failure(manager: lastly.ShutdownManager) -> None:
    """R9: callbacks are not called inside the handling of what an earlier one raised."""
    handled: list[object] = []
    manager.register(lambda: handled.append(sys.exception()))
    manager.defer(fails_async, ValueError("one"))
    with pytest.raises(ValueError, match="one"):
        await manager.aclose()
    manager.register(lambda: handled.append(sys.exception()))
    manager.defer(fails, ValueError("two"))
    with pytest.raises(ValueError, match="two"):
        await manager.aclose()
    assert handled == [None, None]


def test_a_callback_of_close_handles_no_earlier_failure(manager: lastly.ShutdownManager) -> None:
    """R9: the same in close(), where the awaiting is done on a fresh loop."""
    handled: list[object] = []

    async def fails_late() -> None:
        raise ValueError("one")

    manager.register(lambda: handled.append(sys.exception()))
    manager.register(fails_late)
    with pytest.raises(ValueError, match="one"):
        manager.close()
    assert handled == [None]


async def test_an_exception_whose_attributes_raise(manager: lastly.ShutdownManager) -> None:
    """R9: one with a property `exceptions`, say, is a failure like another."""

    class NotLoaded(Exception):
        @property
        def exceptions(self) -> object:
            raise RuntimeError("not loaded")

    calls: list[str] = []
    manager.defer(calls.append, "next")
    manager.defer(fails_async, NotLoaded())
    with pytest.raises(NotLoaded):
        await manager.aclose()
    assert calls == ["next"]
    assert [o.status for o in manager.last_report().outcomes] == ["failed", "ok"]


# -- R10 ------------------------------------------------------------------------------


async def test_each_failure_is_logged_once(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R10: at ERROR, on the logger "lastly", with traceback, name and origin."""
    handles = [
        manager.defer(fails, ValueError("one")),
        manager.defer(fails_async, ValueError("two"), name="second"),
    ]
    with pytest.raises(ValueError, match="one"):
        await manager.aclose()
    assert [(r.name, r.levelname) for r in caplog.records] == [("lastly", "ERROR")] * 2
    assert [r.getMessage() for r in caplog.records] == [
        f"callback second ({handles[1].origin}) failed",
        f"callback fails ({handles[0].origin}) failed",
    ]
    assert [str(r.exc_info[1]) for r in caplog.records] == ["two", "one"]
    assert caplog.text.count("Traceback (most recent call last)") == 2


def test_tracebacks_begin_in_the_users_code(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R10: who reads the log sees the callback's frames, not those that led to it."""

    async def close_pool() -> None:
        raise ValueError("one")

    manager.register(close_pool)
    manager.register(fails, KeyError("two"))
    manager.register(int, "x")
    with pytest.raises(ValueError, match="one"):
        manager.close()
    names = [record.exc_info[2].tb_frame.f_code.co_name for record in caplog.records]
    # A function of C's has no frame: then what called it is all that there is.
    assert names == ["steps", "fails", "close_pool"]


def test_system_exit_is_logged_without_a_traceback(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R10: SystemExit is recorded, and logged at INFO without a traceback: atexit's own rule."""
    caplog.set_level("INFO", "lastly")
    manager.defer(sys.exit, 3)
    with pytest.raises(SystemExit):
        manager.close()
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("INFO", None)
    assert "SystemExit: 3" in record.getMessage()
    assert isinstance(manager.last_report().failures[0].exception, SystemExit)


def test_a_closed_or_raising_handler_does_not_break_the_unwind(
    manager: lastly.ShutdownManager, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """R10: logging to a closed stream, or to a handler that raises, costs no callback."""

    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left")

    with open(__file__) as stream:
        closed = logging.StreamHandler(stream)
    logger = logging.getLogger("lastly")
    manager.defer(calls.append, "bottom")
    manager.defer(fails, ValueError("one"))
    for handler in (closed, Raises()):
        logger.addHandler(handler)
    try:
        with pytest.raises(ValueError, match="one") as caught:
            manager.close()
        assert caught.value.__context__ is None
    finally:
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
    assert calls == ["bottom"]
    assert "Logging error" in capsys.readouterr().err


def test_an_exception_whose_text_cannot_be_shown(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R10: a `__str__` that raises, and notes that are no list, do not break the unwind."""

    class Unspeakable(Exception):
        __notes__ = 7

        def __str__(self) -> str:
            raise OSError

    manager.defer(fails, Unspeakable())
    manager.defer(fails, Unspeakable())
    with pytest.raises(Unspeakable):
        manager.close()
    assert "Unspeakable" in caplog.text
    assert "Unspeakable: <its text cannot be shown>" in str(manager.last_report().outcomes[0])


# -- R11 ------------------------------------------------------------------------------


def test_the_final_exception_is_raised_with_a_note_on_the_earlier_ones(
    manager: lastly.ShutdownManager,
) -> None:
    """R11: the same object comes out, and its note counts and names those before it."""
    final = KeyError("final")
    manager.defer(fails, final)
    second = manager.defer(fails_async, ValueError("two"), name="second")
    first = manager.defer(fails, OSError("one"), name="first")
    with pytest.raises(KeyError) as caught:
        manager.close()
    assert caught.value is final
    assert caught.value.__notes__ == [
        "lastly: 2 earlier failures in this unwind: "
        f"first ({first.origin}) failed: OSError: one; "
        f"second ({second.origin}) failed: ValueError: two"
    ]
    assert [str(o.exception) for o in manager.last_report().failures] == ["one", "two", "'final'"]


def test_a_single_failure_has_no_note(manager: lastly.ShutdownManager) -> None:
    """R11: where nothing failed earlier, nothing is added to the exception."""
    manager.defer(fails, ValueError("alone"))
    with pytest.raises(ValueError, match="alone") as caught:
        manager.close()
    assert not hasattr(caught.value, "__notes__")


async def test_group_raises_them_all(manager: lastly.ShutdownManager) -> None:
    """R11: errors="group" raises one group with every failure, in the order they came."""
    manager.configure(errors="group")
    failures = [ValueError("two"), KeyError("one")]
    for failure in failures:
        manager.defer(fails_async, failure)
    with pytest.raises(ExceptionGroup, match="2 callbacks failed") as caught:
        await manager.aclose()
    assert caught.value.exceptions == (failures[1], failures[0])
    manager.defer(fails, KeyboardInterrupt())
    with pytest.raises(BaseExceptionGroup, match="1 callback failed"):
        await manager.aclose()


def test_log_raises_nothing(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R11: errors="log" raises nothing; the log and the report have it all."""
    manager.configure(errors="log")
    manager.configure()
    manager.defer(fails, SystemExit(3))
    manager.defer(fails, ValueError("one"))
    manager.close()
    assert len(manager.last_report().failures) == 2
    assert "ValueError: one" in caplog.text


def test_the_context_of_the_final_exception_is_kept(manager: lastly.ShutdownManager) -> None:
    """R11: "the same object" includes its own chain, which a plain `raise` would cut."""

    def callback() -> None:
        try:
            raise OSError("inner")
        except OSError:
            raise ValueError("outer")  # noqa: B904

    manager.defer(callback)
    with pytest.raises(ValueError, match="outer") as caught:
        try:
            raise KeyError("handled")
        except KeyError:
            manager.close()
    assert isinstance(caught.value.__context__, OSError)


# -- R12 ------------------------------------------------------------------------------


async def test_an_ordinary_exception_becomes_the_context(
    manager: lastly.ShutdownManager,
) -> None:
    """R12: as with `finally`, the block's exception is the context of the cleanup's."""
    body = ValueError("body")
    with pytest.raises(KeyError) as caught:
        async with manager:
            manager.defer(fails_async, KeyError("cleanup"))
            raise body
    assert caught.value.__context__ is body
    with pytest.raises(KeyError) as caught:
        async with manager:
            manager.defer(fails, KeyError("cleanup"))
            raise body
    assert caught.value.__context__ is body


def test_the_context_is_put_at_the_end_of_the_chain(manager: lastly.ShutdownManager) -> None:
    """R12: the cleanup's own chain is kept, and the block's exception comes after it."""
    cleanup, inner, body = KeyError("cleanup"), OSError("inner"), ValueError("body")

    def callback() -> None:
        cleanup.__context__ = inner
        raise cleanup from None

    with pytest.raises(KeyError) as caught, manager:
        manager.register(asyncio.run, fails_async(cleanup)).__name__
        manager.register(callback)
        raise body
    assert caught.value is cleanup
    chain: list[BaseException | None] = []
    link: BaseException | None = cleanup
    while link is not None:
        chain.append(link)
        link = link.__context__
    assert chain[-1] is body
    assert len(chain) == len(set(map(id, chain)))


def test_re_raising_the_blocks_exception_makes_no_cycle(manager: lastly.ShutdownManager) -> None:
    """R12: a callback that fails with the very exception of the block is not its own context."""
    body = ValueError("body")
    body.__context__ = cause = KeyError("cause")
    with pytest.raises(ValueError, match="body") as caught, manager:
        manager.defer(fails, body)
        raise body
    assert caught.value is body
    with pytest.raises(KeyError) as caught, manager:
        manager.defer(fails, cause)
        raise body
    assert caught.value is cause
    assert cause.__context__ is None or cause.__context__ is not cause


@pytest.mark.parametrize(
    "leaving", [SystemExit(7), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]
)
async def test_control_flow_is_never_replaced(
    manager: lastly.ShutdownManager, leaving: BaseException
) -> None:
    """R12: control flow on its way out goes on, the same object, with the note added to it."""
    leaving = type(leaving)(*leaving.args)
    with pytest.raises(type(leaving)) as caught:
        async with manager:
            manager.defer(fails, ValueError("two"))
            manager.defer(fails_async, ValueError("one"), name="first")
            raise leaving
    assert caught.value is leaving
    (note,) = leaving.__notes__
    assert note.startswith("lastly: 2 callbacks failed while this was on its way out: first (")
    with pytest.raises(type(leaving)) as caught:
        async with manager:
            manager.defer(anyio.sleep, 0)
            raise leaving
    assert leaving.__notes__ == [note]


def test_an_ordinary_cleanup_error_keeps_the_exit_status(run_child) -> None:
    """R12: SystemExit(7) on its way out of asyncio.run stays 7 when a cleanup fails."""
    ended = run_child(
        """
        import asyncio, sys, lastly

        async def main():
            @lastly.register
            async def close():
                raise ValueError("cleanup")
            sys.exit(7)

        asyncio.run(main())
        """,
        expect=7,
    )
    assert "ValueError: cleanup" in ended.err


def test_when_it_failed_and_after_how_long(manager: lastly.ShutdownManager, clock) -> None:
    """R29: a failure's start is counted from that of the unwind, and its duration from there."""

    def fails() -> None:
        clock.advance(2)
        raise ValueError

    clock.advance(5)
    manager.register(fails)
    manager.defer(clock.advance, 4)
    with pytest.raises(ValueError):
        manager.close()
    report = manager.last_report()
    assert [(outcome.start, outcome.duration) for outcome in report.outcomes] == [(0, 4), (4, 2)]
    assert report.duration == 6


async def test_the_chain_of_a_failure_is_no_ring(manager: lastly.ShutdownManager) -> None:
    """R12: where what it is put before was raised in the same scope, and leads there already."""
    body = KeyError("the body's")

    async def fails() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("its own")

    def instead() -> None:
        raise OSError("on_timeout")

    manager.configure(grace=0)
    with pytest.raises(ValueError, match="its own") as raised:
        async with manager:
            manager.defer(fails, on_timeout=instead, timeout=60)
            raise body
    link: BaseException | None = raised.value
    chain: list[BaseException] = []
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__context__
    assert link is None
    assert body in chain
