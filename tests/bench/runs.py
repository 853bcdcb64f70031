"""Run the rounds: the contestants of a row by turns, the light rows in several processes.

Imports rows only.
"""

# pyperf's own Runner gives each benchmark a series of processes, one benchmark after the other:
# a machine that is slow for a minute would be slow for one contestant alone, and so in the ratio.
# Here each round is A B C, and pyperf's part is the statistics.

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Awaitable, Iterable

import pyperf

from .rows import SIZES, Round, Row, rows

Values = dict[str, dict[str, list[float]]]  # of each row's contestants, round by round
Measured = dict[str, dict[str, pyperf.Benchmark]]


def take_turns(found: Iterable[Row], rounds: int, warm_ups: int) -> Values:
    taken: Values = {}
    with asyncio.Runner() as runner:

        async def awaited(value: Awaitable[float]) -> float:
            return await value

        def once(round_: Round) -> float:
            value = round_()
            return value if isinstance(value, float) else runner.run(awaited(value))

        for row in found:
            for _ in range(warm_ups):
                for round_ in row.contestants.values():
                    once(round_)
            values = taken[row.what] = defaultdict(list)
            for _ in range(rounds):
                for name, round_ in row.contestants.items():
                    values[name].append(once(round_))
    return taken


def work(group: str, size: str) -> Values:
    """Measure a group of rows in this process."""
    sizes = SIZES[size]
    rounds, warm_ups = {
        "light": (sizes.rounds, 1),
        "heavy": (sizes.heavy, 0),
        "launched": (sizes.launches, 1),
    }[group]
    return take_turns((row for row in rows(sizes) if row.group == group), rounds, warm_ups)


def worker(group: str, size: str) -> Values:
    """Measure a group of rows in a process of its own."""
    command = [sys.executable, "-m", __package__, "--worker", group, "--size", size]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    values: Values = json.loads(told)
    return values


def measure(size: str) -> Measured:
    """Measure every row; say on stderr how far it has come."""
    sizes = SIZES[size]
    groups = ["light"] * sizes.workers + ["heavy", "launched"]
    units = {row.what: row.unit for row in rows(sizes)}
    runs: dict[str, dict[str, list[pyperf.Run]]] = {what: defaultdict(list) for what in units}
    for n, group in enumerate(groups, 1):
        print(f"measuring, {n} of {len(groups)}: the {group} rows", file=sys.stderr, flush=True)
        for what, contestants in worker(group, size).items():
            for who, values in contestants.items():
                metadata = {"name": f"{what}: {who}", "unit": units[what]}
                runs[what][who].append(pyperf.Run(values, None, metadata, collect_metadata=False))
    return {
        what: {who: pyperf.Benchmark(found) for who, found in contestants.items()}
        for what, contestants in runs.items()
    }
