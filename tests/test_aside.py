"""Work that a signal handler sets aside: in order, to its end, and never for ever."""

from __future__ import annotations

import threading

import pytest

from lastly import _aside


def test_in_order_whatever_it_raises() -> None:
    """R25: what was set aside first is done first, though each has a thread of its own."""
    done: list[int] = []
    goes_on = threading.Event()

    def first() -> None:
        goes_on.wait()
        done.append(1)
        raise KeyboardInterrupt

    _aside.aside(first)
    _aside.aside(lambda: done.append(2))
    assert done == []
    goes_on.set()
    _aside.settle()
    assert done == [1, 2]
    assert not _aside._going


def test_where_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """R25: it is done at once, in the calling thread, as at the end of 3.12.0 and 3.12.1."""

    def none_starts(function: object, args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_aside, "start_new_thread", none_starts)
    done: list[int] = []
    _aside.aside(lambda: done.append(threading.get_ident()))
    assert done == [threading.get_ident()]


def test_what_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """R10, R25: a log handler may; neither what comes after it nor the exit waits for ever."""
    monkeypatch.setattr(_aside, "_PATIENCE", 0.01)
    goes_on, done = threading.Event(), threading.Event()
    _aside.aside(goes_on.wait)
    _aside.aside(done.set)
    assert done.wait(30)
    _aside.settle()
    assert _aside._going
    goes_on.set()
    monkeypatch.setattr(_aside, "_PATIENCE", 30)
    _aside.settle()
    assert not _aside._going
