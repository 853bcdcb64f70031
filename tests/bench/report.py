"""What was measured, as a dict that is JSON-ready, as a table in text and in Markdown.

Imports rows, runs and sides.
"""

from __future__ import annotations

import platform
import textwrap
from datetime import date
from importlib.metadata import version
from typing import Any

import pyperf

from .rows import Row
from .runs import Measured
from .sides import WITHOUT

HEADINGS = ("what", "who", "median", "spread", "lastly takes", "goal")
HOW = """\
A median is of all rounds, in which the contestants take turns, and half of the rounds lie within
its spread. Each has as many callbacks, all of them `async def callback(): pass`, or the same
without `async` where it says sync, on the same event loop; but asyncio-atexit unwinds in the close
of a loop of its own. The garbage collector runs before, and is off while the clock runs. lastly
runs with its defaults: no time limits, and its watch for slow callbacks (R23) is on; its times
include origins, handles and the report."""


def machine() -> dict[str, str]:
    told = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    cores, model = told.get("cpu_count", "?"), told.get("cpu_model_name", "?")
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{cores} x {model}",
        **{
            name: version(name)
            for name in ("lastly", "anyio", "asyncio-atexit", "aiorun", "pyperf")
        },
    }


def spread(benchmark: pyperf.Benchmark) -> float | None:
    if benchmark.get_nvalue() == 1:
        return None
    deviation: float = benchmark.median_abs_dev()
    return deviation / benchmark.median()


def as_dict(found: list[Row], measured: Measured, absent: list[str]) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "rows": [row_as_dict(row, measured[row.what]) for row in found],
        "absent": absent,
        "without": WITHOUT,
    }


def row_as_dict(row: Row, contestants: dict[str, pyperf.Benchmark]) -> dict[str, Any]:
    ours = contestants[row.ours].median()
    held_against = {
        who: ours / benchmark.median()
        for who, benchmark in contestants.items()
        if who == row.against or not who.startswith("lastly")
    }
    return {
        "what": row.what,
        "unit": row.unit,
        "ours": row.ours,
        "goal": row.goal,
        "against": row.against,
        "met": row.goal and row.against and held_against[row.against] <= row.goal,
        "contestants": [
            {
                "who": who,
                "median": benchmark.median(),
                "spread": spread(benchmark),
                "ratio": held_against.get(who),
                "values": benchmark.get_values(),
            }
            for who, benchmark in contestants.items()
        ],
    }


def cells(row: Row, told: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row's lines, ours first."""
    by_name = {contestant["who"]: contestant for contestant in told["contestants"]}
    lines: list[tuple[str, ...]] = []
    for who in dict.fromkeys([row.ours, *(row.shown or by_name)]):
        found = by_name[who]
        goal = ""
        if who == row.against:
            goal = f"{row.goal:g} x, {'met' if told['met'] else 'missed'}"
        lines.append(
            (
                "" if lines else row.what,
                who,
                quantity(found["median"], row.unit),
                "" if found["spread"] is None else f"{found['spread']:.0%}",
                "" if found["ratio"] is None else f"{ratio(found['ratio'])} x",
                goal,
            )
        )
    return lines


def quantity(value: float, unit: str) -> str:
    if unit == "byte":
        return f"{value:,.0f} bytes"
    for factor, name in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        if value * factor < 1000 or name == "ms":
            return f"{value * factor:,.{max(0, 3 - len(str(int(value * factor))))}f} {name}"
    raise AssertionError(value)


def ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def origin_of(told: dict[str, Any]) -> str:
    parts = {**told["machine"]}
    python, system, processor = (parts.pop(key) for key in ("python", "system", "processor"))
    versions = ", ".join(f"{name} {number}" for name, number in parts.items())
    return textwrap.fill(f"{told['date']}, {python} on {system}, {processor}; {versions}.", 100)


def peers(told: dict[str, Any]) -> str:
    """Return a list of what each contestant does not do."""
    ran = {c["who"].split(",")[0] for row in told["rows"] for c in row["contestants"]}
    says = [f"- {who} {what}." for who, what in told["without"].items() if who in ran]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in says)


def as_text(found: list[Row], told: dict[str, Any]) -> str:
    table: list[tuple[str, ...]] = [HEADINGS]
    for row, row_told in zip(found, told["rows"], strict=True):
        table += cells(row, row_told)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = (False, False, True, True, True, False)
    lines = [
        "  ".join(
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in table
    ]
    absent = [f"Not measured: {what}." for what in told["absent"]]
    paragraphs = [origin_of(told), "\n".join(lines), *absent, HOW, peers(told)]
    return "\n\n".join(paragraphs) + "\n"


def as_markdown(found: list[Row], told: dict[str, Any]) -> str:
    lines = [f"| {' | '.join(HEADINGS)} |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for row, row_told in zip(found, told["rows"], strict=True):
        lines += [f"| {' | '.join(line)} |" for line in cells(row, row_told)]
    return "\n".join([origin_of(told), "", *lines])
