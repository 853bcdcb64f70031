"""One round of each measurement that is taken inside of this process.

Each prepares, measures, and leaves nothing behind. Imports sides only.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any

import anyio

import lastly

from .sides import Side, callback

NAP = 0.05  # seconds
TARGETS = 10  # that are unregistered, from all over the stack


class Stopwatch:
    """Measure a block's seconds, with the collector off, as timeit does."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        gc.collect()
        gc.disable()
        self.began = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = perf_counter() - self.began
        gc.enable()


def registering(count: int, side: Side) -> float:
    made = side.make()
    register = side.register(made)
    with Stopwatch() as watch:
        for _ in range(count):
            register(callback)
    side.empty(made)
    return watch.seconds / count


async def unwinding(count: int, side: Side) -> float:
    made = side.make()
    register = side.register(made)
    for _ in range(count):
        register(callback)
    with Stopwatch() as watch:
        await side.unwind(made)
    return watch.seconds / count


def unwinding_sync(count: int, func: Callable[[], object], side: Side) -> float:
    made = side.make()
    register = side.register(made)
    for _ in range(count):
        register(func)
    with Stopwatch() as watch:
        side.unwind(made)
    return watch.seconds / count


async def living(count: int, at_least: int, side: Side) -> float:
    """Measure whole lives: something made, `count` registered with it, and it unwound."""
    lives = max(1, at_least // count)
    with Stopwatch() as watch:
        for _ in range(lives):
            made = side.make()
            register = side.register(made)
            for _ in range(count):
                register(callback)
            await side.unwind(made)
    return watch.seconds / (lives * count)


@cache
def functions(count: int) -> list[Callable[[], None]]:
    def another() -> Callable[[], None]:
        def func() -> None:
            pass

        return func

    return [another() for _ in range(count)]


def unregistering(others: int, side: Side, unregister: Callable[[Any, Any], object]) -> float:
    made = side.make()
    register = side.register(made)
    funcs = functions(others + TARGETS)
    targets = funcs[:: others // TARGETS + 1]
    for func in funcs:
        register(func)
    with Stopwatch() as watch:
        for func in targets:
            unregister(made, func)
    side.empty(made)
    return watch.seconds / len(targets)


def filter_out(callbacks: list[Callable[[], None]], func: Callable[[], None]) -> None:
    callbacks[:] = [each for each in callbacks if each != func]


def remembering(count: int, side: Side) -> float:
    registering(1, side)  # what is made once, and kept, is no registration's
    made = side.make()
    register = side.register(made)
    gc.collect()
    tracemalloc.start()
    for _ in range(count):
        register(callback)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    side.empty(made)
    return taken / count


async def together(members: int) -> float:
    manager = lastly.ShutdownManager()
    with manager.together():
        for _ in range(members):
            manager.register(anyio.sleep, NAP)
    with Stopwatch() as watch:
        await manager.aclose()
    return watch.seconds


async def task_group(members: int) -> float:
    with Stopwatch() as watch:
        async with anyio.create_task_group() as group:
            for _ in range(members):
                group.start_soon(anyio.sleep, NAP)
    return watch.seconds


async def one_nap() -> float:
    with Stopwatch() as watch:
        await anyio.sleep(NAP)
    return watch.seconds
