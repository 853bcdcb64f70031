"""R29: the report of an unwind."""

from __future__ import annotations

import json
import time

import anyio
import pytest

import lastly


async def test_outcomes_in_the_order_they_ran(manager: lastly.ShutdownManager) -> None:
    """R29: name, origin, status, start offset, duration and exception, newest first."""
    boom = ValueError("boom")

    async def fails() -> None:
        await anyio.sleep(0)
        raise boom

    handles = [manager.defer(fails, name="pool"), manager.defer(int, name="cache")]
    before = time.perf_counter()
    with pytest.raises(ValueError, match="boom"):
        await manager.aclose("deploy")
    elapsed = time.perf_counter() - before
    report = manager.last_report()
    assert report.reason == lastly.Reason("close", "deploy")
    assert not report.ok
    first, second = report.outcomes
    assert report.failures == (second,)
    assert (first.name, first.origin) == ("cache", handles[1].origin)
    assert (first.status, first.exception) == (lastly.Status.OK, None)
    assert (second.name, second.status, second.exception) == ("pool", "failed", boom)
    assert 0 <= first.start <= first.start + first.duration <= second.start
    assert second.start + second.duration <= report.duration <= elapsed
    assert str(first) == f"cache ({handles[1].origin}) ok"
    assert repr(second) == f"<Outcome pool ({handles[0].origin}) failed: ValueError: boom>"
    assert repr(report).startswith("<Report of close: deploy: 2 run, 1 failed, 0.")


def test_to_dict_is_json_ready(manager: lastly.ShutdownManager) -> None:
    """R29: to_dict() has everything, and json takes it as it is."""
    with pytest.raises(KeyError), manager:
        manager.defer({}.pop, "secret argument", name="bad")
        manager.defer(int, name="good")
    as_dict = manager.last_report().to_dict()
    assert json.loads(json.dumps(as_dict)) == as_dict
    assert as_dict["reason"] == {"trigger": "scope exit", "detail": None}
    assert as_dict["ok"] is False
    assert as_dict["duration"] >= 0
    good, bad = as_dict["outcomes"]
    assert good.keys() == {"name", "origin", "status", "start", "duration", "exception"}
    assert (good["name"], good["status"], good["exception"]) == ("good", "ok", None)
    assert (bad["status"], bad["exception"]) == ("failed", "KeyError: 'secret argument'")


def test_an_unwind_of_nothing_leaves_the_last_report(manager: lastly.ShutdownManager) -> None:
    """R29: with nothing on the stack there is no unwind, and the last report stays."""
    assert manager.last_report() is None
    manager.close()
    assert manager.last_report() is None
    manager.defer(int)
    manager.close()
    report = manager.last_report()
    manager.close()
    assert manager.last_report() is report
    assert report.ok


def test_reasons_compare_hash_and_print() -> None:
    """R29: a reason is a value: the trigger, and the caller's words."""
    reason = lastly.Reason("close", "deploy")
    assert reason == lastly.Reason("close", "deploy") != lastly.Reason("close")
    assert reason != "close: deploy"
    assert len({reason, lastly.Reason("close", "deploy")}) == 1
    assert (str(reason), repr(reason)) == ("close: deploy", "Reason('close', 'deploy')")
    assert str(lastly.Reason("scope exit")) == "scope exit"


def test_managers_tell_their_name() -> None:
    """A manager's repr has its name and how much is pending."""
    manager = lastly.ShutdownManager("db")
    assert repr(manager) == "<ShutdownManager 'db', 0 pending>"
    assert repr(lastly.ShutdownManager()) == "<ShutdownManager, 0 pending>"
