"""Every framework on every server, and every way to end one: the tables of docs/web.md.

By default a part of them; all with LASTLY_MATRIX=all in the environment. `python3 dev.py matrix`
runs them all and writes the tables.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import astuple

import pytest
from servers import page
from servers.running import Case, Traces, check
from servers.table import FEW, cases, expected

ALL = os.environ.get("LASTLY_MATRIX") == "all"


@pytest.mark.parametrize("case", cases() if ALL else FEW, ids=str)
def test_a_server(case: Case, finish: Callable[[Case], Traces]) -> None:
    """R1, R3, R18: each resource is closed once, newest first, in the loop that opened it, and the
    database has no connection left; what unwinds it, and the exit status, are known."""
    traces = finish(case)
    try:
        how = check(case, traces)
        assert (how, traces.status) == expected(case)
        if case.ending == "cleanup fails":
            # By lastly, once in each process, and by the server.
            assert traces.log.count("OSError: this cleanup has failed") > len(traces.reports)
        if case.ending == "cleanup hangs":
            assert "in hang: await anyio.Event().wait()" in traces.log
        if case.ending == "start-up fails":
            assert not traces.named("ready")
        if case.ending == "in flight" and case.server != "daphne":
            assert len(traces.named("answered")) == 1
    except AssertionError as failure:
        failure.add_note(traces.tell())
        raise
    if results := os.environ.get("LASTLY_MATRIX_RESULTS"):
        with open(results, "a") as file:
            print(json.dumps([astuple(case), how, traces.status]), file=file)


def test_the_docs_have_the_tables() -> None:
    """docs/web.md shows each case, and what it was seen to do."""
    tables = page.tables({case: expected(case) for case in cases()})
    assert tables in page.PATH.read_text(), "run `python3 dev.py matrix`"
