"""How fast: lastly beside its peers and the bare floor, in one run. `python3 dev.py bench`.

Medians of several rounds, all on one loop, the collector off while the clock runs. The
floor is a list and a loop: it has no handles, logs nothing, and stops at the first error.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from tempfile import TemporaryDirectory
from time import perf_counter

import lastly

COUNT = 10_000
ROUNDS = 15


async def callback() -> None:
    pass


def sync() -> None:
    pass


def other() -> None:
    pass


def clock(prepare: Callable[[], Callable[[], object]], rounds: int = ROUNDS) -> float:
    """Return the median seconds that what `prepare` returns takes, for each of COUNT."""
    taken = []
    for _ in range(rounds):
        work = prepare()
        gc.collect()
        gc.disable()
        began = perf_counter()
        work()
        taken.append(perf_counter() - began)
        gc.enable()
    return statistics.median(taken) / COUNT


def register_lastly() -> lastly.ShutdownManager:
    manager = lastly.ShutdownManager()
    for _ in range(COUNT):
        manager.register(callback)
    return manager


def register_stack() -> AsyncExitStack:
    stack = AsyncExitStack()
    for _ in range(COUNT):
        stack.push_async_callback(callback)
    return stack


def register_list() -> list[Callable[[], Awaitable[None]]]:
    callbacks: list[Callable[[], Awaitable[None]]] = []
    for _ in range(COUNT):
        callbacks.append(callback)
    return callbacks


def drop(manager: lastly.ShutdownManager) -> None:
    for registration in manager.pending():
        registration.cancel()


def registering() -> dict[str, float]:
    managers: list[lastly.ShutdownManager] = []
    found = {
        "lastly": clock(lambda: lambda: managers.append(register_lastly())),
        "AsyncExitStack": clock(lambda: register_stack),
        "list": clock(lambda: register_list),
    }
    for manager in managers:
        drop(manager)
    return found


def unwinding() -> dict[str, float]:
    with asyncio.Runner() as runner:

        async def run_list(callbacks: list[Callable[[], Awaitable[None]]]) -> None:
            while callbacks:
                await callbacks.pop()()

        def prepared(make: Callable[[], object], unwind: Callable[..., object]):
            def prepare() -> Callable[[], object]:
                made = make()
                return lambda: runner.run(unwind(made))

            return prepare

        return {
            "lastly": clock(prepared(register_lastly, lastly.ShutdownManager.aclose)),
            "AsyncExitStack": clock(prepared(register_stack, AsyncExitStack.aclose)),
            "list": clock(prepared(register_list, run_list)),
        }


def unregistering() -> dict[str, float]:
    manager = register_lastly()
    for _ in range(COUNT):
        atexit.register(sync)

    def once(unregister: Callable[[Callable[[], object]], None]):
        return lambda: lambda: unregister(other)

    found = {
        "lastly": clock(once(manager.unregister)) * COUNT,
        "atexit": clock(once(atexit.unregister)) * COUNT,
    }
    drop(manager)
    atexit.unregister(sync)
    return found


def memory() -> dict[str, float]:
    found = {}
    for name, make in (("lastly", register_lastly), ("AsyncExitStack", register_stack)):
        gc.collect()
        tracemalloc.start()
        made = make()
        found[name] = tracemalloc.get_traced_memory()[0] / COUNT
        tracemalloc.stop()
        if isinstance(made, lastly.ShutdownManager):
            drop(made)
        else:
            made.pop_all()
    return found


def importing() -> dict[str, float]:
    found = {}
    for name in ("lastly", "logging"):
        program = (
            f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
        )
        with TemporaryDirectory() as cache:  # bytecode in it, whatever the environment says
            env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
            command = [sys.executable, "-c", program]
            runs = [float(subprocess.check_output(command, env=env)) for _ in range(ROUNDS)]
        found[name] = statistics.median(runs)
    return found


def main() -> None:
    rows = [
        ("register", registering(), "AsyncExitStack", 1e9, "ns"),
        ("unwind, per async callback", unwinding(), "AsyncExitStack", 1e9, "ns"),
        (f"unregister with {COUNT:,} others", unregistering(), "atexit", 1e6, "us"),
        ("memory per registration", memory(), "AsyncExitStack", 1, "bytes"),
        ("import", importing(), "logging", 1e3, "ms"),
    ]
    for what, found, peer, scale, unit in rows:
        values = ", ".join(f"{name} {value * scale:,.1f} {unit}" for name, value in found.items())
        print(f"{what:32} {found['lastly'] / found[peer]:5.2f} x {peer:15} {values}")


if __name__ == "__main__":
    main()
