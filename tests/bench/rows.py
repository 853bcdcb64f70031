"""The rows of the table: who is measured against whom, with what goal, and how much is done.

Imports sides, rounds and launches.
"""

from __future__ import annotations

import atexit
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import asyncio_atexit

import lastly

from .launches import EXITS, exiting, importing
from .rounds import (
    NAP,
    filter_out,
    one_nap,
    registering,
    remembering,
    task_group,
    together,
    living,
    unregistering,
    unwinding,
    unwinding_sync,
)
from .sides import (
    ASYNC_EXIT_STACK,
    ASYNCIO_ATEXIT,
    ASYNCIO_ATEXIT_CLOSE,
    ATEXIT,
    EXIT_STACK,
    FLOOR,
    FLOOR_SYNC,
    LASTLY,
    LASTLY_DEFER,
    LASTLY_SYNC,
    Side,
    callback,
    sync_callback,
)

Round = Callable[[], "float | Awaitable[float]"]  # what is awaited, runs inside a loop


@dataclass(frozen=True)
class Sizes:
    """How much is done: callbacks, and how often each round is repeated."""

    workers: int  # processes, for memory and hashes lie differently in each
    rounds: int  # in each of them, after one to warm up
    heavy: int  # rounds of what takes long or does not vary, in one process
    launches: int  # rounds of what is a whole process, after one to warm up
    count: int
    others: int
    members: int
    growth: tuple[int, ...]
    few: int  # one of those, to hold the last against


SIZES = {
    "full": Sizes(7, 5, 5, 31, 10_000, 100_000, 100, tuple(10**n for n in range(7)), 1_000),
    "quick": Sizes(1, 5, 1, 5, 10_000, 100_000, 100, (1_000, 1_000_000), 1_000),
    "smoke": Sizes(1, 1, 1, 1, 10, 20, 3, (1, 10, 100), 10),
}


@dataclass(frozen=True)
class Row:
    """One row: its contestants, and which of them is held against which."""

    what: str
    contestants: dict[str, Round]
    ours: str = "lastly"
    goal: float | None = None  # at most this many times `against`
    against: str | None = None
    shown: tuple[str, ...] | None = None  # in the table, or all
    unit: str = "second"
    group: str = "light"  # or "heavy", or "launched"


def inside(round_: Callable[[], float]) -> Round:
    async def in_a_loop() -> float:
        return round_()

    return in_a_loop


def named(sides: list[Side], round_: Callable[[Side], Round]) -> dict[str, Round]:
    return {side.name: round_(side) for side in sides}


TOGETHER = hasattr(lastly.ShutdownManager, "together")
GROWING = [LASTLY, ASYNC_EXIT_STACK, FLOOR]


def together_row(members: int) -> Row:
    return Row(
        f"together(), {members} callbacks of {NAP * 1000:.0f} ms each",
        {
            "lastly": partial(together, members),
            "task group": partial(task_group, members),
            "one sleep": one_nap,
        },
        goal=1.2,
        against="one sleep",
    )


def rows(sizes: Sizes) -> list[Row]:
    """Return the rows, in the table's order."""
    count, others, few, most = sizes.count, sizes.others, sizes.few, sizes.growth[-1]
    return [
        Row(
            f"register, {count:,} outside a loop",
            named(
                [LASTLY, LASTLY_DEFER, ASYNC_EXIT_STACK, ATEXIT, FLOOR],
                lambda side: partial(registering, count, side),
            ),
            goal=0.4,
            against="AsyncExitStack",
        ),
        Row(
            f"register, {count:,} inside a loop",
            named(
                [LASTLY, LASTLY_DEFER, ASYNC_EXIT_STACK, ASYNCIO_ATEXIT, FLOOR],
                lambda side: inside(partial(registering, count, side)),
            ),
            goal=0.4,
            against="AsyncExitStack",
        ),
        Row(
            f"unwind, each of {count:,} async callbacks",
            {
                "lastly": partial(unwinding, count, LASTLY),
                "AsyncExitStack": partial(unwinding, count, ASYNC_EXIT_STACK),
                "asyncio-atexit": partial(unwinding_sync, count, callback, ASYNCIO_ATEXIT_CLOSE),
                "floor": partial(unwinding, count, FLOOR),
            },
            goal=1.0,
            against="AsyncExitStack",
        ),
        Row(
            f"unwind, each of {count:,} sync callbacks",
            named(
                [LASTLY_SYNC, EXIT_STACK, ATEXIT, FLOOR_SYNC],
                lambda side: partial(unwinding_sync, count, sync_callback, side),
            ),
        ),
        Row(
            f"unregister, with {others:,} others",
            {
                "lastly": partial(unregistering, others, LASTLY, lastly.ShutdownManager.unregister),
                "atexit": partial(unregistering, others, ATEXIT, lambda _, f: atexit.unregister(f)),
                "asyncio-atexit": inside(
                    partial(
                        unregistering,
                        others,
                        ASYNCIO_ATEXIT,
                        lambda _, func: asyncio_atexit.unregister(func),
                    )
                ),
                "floor": partial(unregistering, others, FLOOR, filter_out),
            },
            goal=0.02,
            against="atexit",
            group="heavy",
        ),
        Row(
            "registered and unwound, each of",
            {
                f"{side.name}, {n:,}": partial(living, n, count, side)
                for n in sizes.growth
                for side in GROWING
            },
            ours=f"lastly, {most:,}",
            goal=1.5,
            against=f"lastly, {few:,}",
            shown=(f"lastly, {few:,}", *(f"{side.name}, {most:,}" for side in GROWING)),
            group="heavy",
        ),
        Row(
            "memory of a registration",
            named(
                [LASTLY, LASTLY_DEFER, ASYNC_EXIT_STACK, FLOOR],
                lambda side: partial(remembering, others, side),
            ),
            goal=0.4,
            against="AsyncExitStack",
            unit="byte",
            group="heavy",
        ),
        Row(
            "import",
            {
                name: partial(importing, module)
                for name, module in {
                    "lastly": "lastly",
                    "logging": "logging",
                    "contextlib": "contextlib",
                    "atexit": "atexit",
                    "asyncio-atexit": "asyncio_atexit",
                    "aiorun": "aiorun",
                    "asyncio": "asyncio",
                }.items()
            },
            goal=1.5,
            against="logging",
            group="launched",
        ),
        *([together_row(sizes.members)] if TOGETHER else []),
        Row(
            "from SIGTERM to exit",
            {name: partial(exiting, program, code) for name, (code, program) in EXITS.items()},
            goal=1.1,
            against="asyncio.run",
            group="launched",
        ),
    ]
