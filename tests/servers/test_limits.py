"""What servers do not do, and what lastly does about it: each sentence of docs/web.md's last part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from servers.running import Case, Traces, check

Finish = Callable[[Case], Traces]


def names(traces: Traces, what: str) -> list[str]:
    return [event["name"] for event in traces.named(what)]


@pytest.mark.parametrize("case", [Case("starlette", "uvicorn", "SIGTERM")], ids=str)
def test_uvicorn_dies_of_sigterm_once_more(case: Case, finish: Finish) -> None:
    """R18: everything is closed by then, but atexit does not run."""
    traces = finish(case)
    assert (check(case, traces), traces.status) == ("lifespan", -15)
    assert not traces.named("exits")


@pytest.mark.parametrize(
    "case",
    [
        Case("starlette", "uvicorn", "SIGTERM", handlers=True),
        Case("quart", "uvicorn", "SIGTERM", handlers=True),  # leaves generators for the teardown
    ],
    ids=str,
)
def test_signal_handlers_give_uvicorn_its_exit_back(case: Case, finish: Finish) -> None:
    """R27: with install_signal_handlers() in the app's module atexit runs, and the status is 143."""
    traces = finish(case)
    assert (check(case, traces), traces.status) == ("lifespan", 143)
    assert traces.named("exits")


@pytest.mark.parametrize("case", [Case("starlette", "uvicorn", "two SIGINTs")], ids=str)
def test_uvicorn_skips_what_follows_a_yield(case: Case, finish: Finish) -> None:
    """R18: on a second SIGINT it sends no shutdown and is torn down, which cancels the lifespan."""
    traces = finish(case)
    assert check(case, traces) == "lifespan, cancelled"
    assert not traces.named("after yield")


@pytest.mark.parametrize("case", [Case("starlette", "uvicorn", "SIGINT")], ids=str)
def test_uvicorn_runs_what_follows_a_yield_after_one(case: Case, finish: Finish) -> None:
    """The first SIGINT ends the lifespan in order."""
    traces = finish(case)
    assert check(case, traces) == "lifespan"
    assert traces.named("after yield")


@pytest.mark.parametrize("case", [Case("starlette", "uvicorn", "hangs, three SIGINTs")], ids=str)
def test_uvicorn_ignores_signals_in_a_hung_lifespan(case: Case, finish: Finish) -> None:
    """R21, R23: the grace ends it all the same, and the log says where it hung."""
    traces = finish(case)
    assert check(case, traces) == "lifespan"
    assert "in hang: await anyio.Event().wait()" in traces.log


@pytest.mark.parametrize(
    "case", [Case("starlette", "gunicorn, uvicorn's worker", "two SIGINTs")], ids=str
)
def test_uvicorns_worker_dies_of_a_second_sigint(case: Case, finish: Finish) -> None:
    """Nothing is closed: gunicorn has reset SIGINT, and the worker raises it once more. With
    handlers everything is called, and forced (R22): see the table."""
    traces = finish(case)
    assert check(case, traces) == "nothing"
    assert names(traces, "opened") == ["module level", "asyncpg"]


@pytest.mark.parametrize(
    "case", [Case("starlette", "uvicorn --workers 2", "impatient, cleanup hangs")], ids=str
)
def test_a_second_ctrl_c_leaves_uvicorns_workers_to_sigterm(case: Case, finish: Finish) -> None:
    """They are torn down with no signal handler any more, and the first process sends SIGTERM."""
    traces = finish(case)
    assert check(case, traces) == "nothing"
    assert names(traces, "closed") == []


@pytest.mark.parametrize("case", [Case("starlette", "granian, kill timeout", "impatient")], ids=str)
def test_a_second_ctrl_c_hangs_granians_worker(case: Case, finish: Finish) -> None:
    """Its event loop stands still, and only --workers-kill-timeout ends it, with nothing closed."""
    traces = finish(case)
    assert check(case, traces) == "nothing"
    assert "refused to gracefully stop" in traces.log


@pytest.mark.parametrize(
    "case", [Case("starlette", "hypercorn --workers 2", "one worker hangs")], ids=str
)
def test_hypercorn_kills_the_slower_workers(case: Case, finish: Finish) -> None:
    """When one worker has ended, the others are killed, however far they are."""
    traces = finish(case)
    assert len(traces.reports) == 1
    assert names(traces, "closed") == ["asyncpg", "module level"]
    assert len(traces.named("ready")) == 2


@pytest.mark.parametrize(
    "case", [Case("starlette", "hypercorn --workers 2", "one worker hangs", handlers=True)], ids=str
)
def test_signal_handlers_save_hypercorns_slower_workers(case: Case, finish: Finish) -> None:
    """R22, R27: with install_signal_handlers() in the app's module they unwind to their end; it is
    forced if both signals that hypercorn sends them come one by one."""
    traces = finish(case)
    assert len(traces.reports) == 2
    assert sorted(names(traces, "called")) == ["asyncpg", "asyncpg", *["module level"] * 2]


@pytest.mark.parametrize("case", [Case("quart", "hypercorn", "SIGTERM to all")], ids=str)
def test_hypercorns_worker_dies_of_a_sigterm_of_its_own(case: Case, finish: Finish) -> None:
    """Nothing is closed, and the exit status is 0."""
    traces = finish(case)
    assert (check(case, traces), traces.status) == ("nothing", 0)


@pytest.mark.parametrize(
    "case", [Case("quart", "hypercorn", "SIGTERM to all", handlers=True)], ids=str
)
def test_signal_handlers_save_hypercorns_worker(case: Case, finish: Finish) -> None:
    """R27: with install_signal_handlers() in the app's module it closes everything."""
    traces = finish(case)
    assert names(traces, "called") == ["asyncpg", "module level"]


@pytest.mark.parametrize("case", [Case("aiohttp", "aiohttp", "two SIGINTs", "task group")], ids=str)
def test_a_task_group_in_aiohttp_after_two_sigints(case: Case, finish: Finish) -> None:
    """R8, R14: it cannot be closed in the loop's teardown, which is another task; the rest can."""
    traces = finish(case)
    assert traces.status == 1
    assert "exit cancel scope in a different task" in traces.log
    assert names(traces, "called") == ["task group", "asyncpg", "module level"]
    assert names(traces, "closed")[-2:] == ["asyncpg", "module level"]


@pytest.mark.parametrize("case", [Case("aiohttp", "aiohttp", "two SIGINTs", "psycopg")], ids=str)
def test_psycopgs_pool_in_aiohttp_after_two_sigints(case: Case, finish: Finish) -> None:
    """Its workers are cancelled by then, so that a connection is left to the process's end."""
    traces = finish(case)
    assert names(traces, "called") == ["psycopg", "asyncpg", "module level"]
    assert names(traces, "closed")[-1] == "asyncpg"
    assert "callback Noted" in traces.log


@pytest.mark.parametrize(
    "case", [Case("starlette", "gunicorn, its own worker", "SIGINT, cleanup hangs")], ids=str
)
def test_gunicorns_own_worker_does_not_wait_after_sigint(case: Case, finish: Finish) -> None:
    """R18: it cancels the lifespan, and again after a second; only what is awaited then is cut."""
    traces = finish(case)
    assert check(case, traces) == "lifespan, cancelled"
    assert [outcome["status"] for outcome in traces.reports[0]["outcomes"]] == [
        "interrupted",
        "ok",
        "ok",
    ]


@pytest.mark.parametrize("case", [Case("quart", "uvicorn", "two SIGINTs")], ids=str)
def test_quart_leaves_its_generator_when_it_is_cancelled(case: Case, finish: Finish) -> None:
    """R14: the loop's teardown closes what is left."""
    assert check(case, finish(case)) == "loop teardown"


@pytest.mark.parametrize(
    "case", [Case("wrapped_quart", "uvicorn", "two SIGINTs", "task group")], ids=str
)
def test_quart_in_the_middleware(case: Case, finish: Finish) -> None:
    """R18: `Lifespan(quart_app, lifespan)` unwinds in its own task also then."""
    assert check(case, finish(case)) == "lifespan, cancelled"
