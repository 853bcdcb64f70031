"""A campaign: programs that get one to three signals at random moments, from start-up to exit.

24 runs by default; `LASTLY_CAMPAIGN=300` makes it 300, and `LASTLY_SEED` repeats what was seen.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

PROGRAM = """
import os
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
say("start")

import atexit, logging, sys, time
import anyio
import lastly

class Handler(logging.Handler):
    def emit(self, record):
        say("log", record.getMessage().partition("\\n")[0])

logging.getLogger("lastly").addHandler(Handler())
logging.getLogger("lastly").setLevel(logging.INFO)
backend, does = sys.argv[1:]
atexit.register(say, "atexit")

def sync(name):
    say("ran", name)
    time.sleep(0.002)

async def asynchronous(name):
    say("ran", name)
    await anyio.sleep(0.004)

class Exit:
    def __init__(self, name):
        self.name = name
    async def __aenter__(self): ...
    async def __aexit__(self, *exc):
        await asynchronous(self.name)

def register(name, function, **options):
    lastly.defer(function, name, name=name, **options)
    say("registered", name)

register("1", sync)
register("2", asynchronous)

async def main():
    say("main")
    for name in "345":
        register(name, sync)
        register(name + "a", asynchronous)
    await lastly.enter_async_context(Exit("6"))
    say("registered", "6")
    register("7", sync, thread=True)
    if does == "wait":
        await lastly.wait_requested()
        await anyio.sleep(0.01)
    else:
        await anyio.sleep(0.03 if does == "return" else 600)

options = {"use_uvloop": True} if backend == "uvloop" else None
try:
    say("run")
    lastly.run(main, backend="trio" if backend == "trio" else "asyncio", backend_options=options)
finally:
    say("over")
    for outcome in lastly.last_report().outcomes if lastly.last_report() else ():
        if outcome.exception is not None:
            say("failed", outcome.name)
"""


def misses(lines: list[str], returncode: int, sent: list[int]) -> list[str]:
    """Tell what is wrong with a run: what it said, its exit status, and the signals sent."""
    words = [line.split(maxsplit=1) for line in lines]

    def after(word: str) -> list[str]:
        return [rest[0] for first, *rest in words if first == word and rest]

    registered, ran, logged = after("registered"), after("ran"), after("log")
    first = [name for name in ("SIGTERM", "SIGINT") if f"{name}: shutting down" in logged]
    second = [text for text in logged if "the second signal" in text]
    if any("abandoned" in text for text in logged):
        # That one goes on in its thread while the others run, and ends when the process does.
        registered, ran = ([name for name in names if name != "7"] for names in (registered, ran))
    over = "over" in lines
    found: list[str] = []
    if len(set(ran)) < len(ran):
        found.append("a callback ran twice")
    if ran != sorted(
        ran, key=registered.index if set(ran) <= set(registered) else None, reverse=True
    ):
        found.append("callbacks ran out of order")
    # Without handlers, a signal kills: before run has put them there, and after it is over. The
    # third one may always. What Python itself does for SIGINT there is a KeyboardInterrupt.
    spared = "main" not in lines or over
    killed = returncode < 0 or (returncode == 1 and SIGINT in sent)
    if killed and not spared and not (len(sent) == 3 or second):
        found.append(f"it died with {returncode}")
    if not killed or (over and "atexit" in lines):
        if ran != registered[::-1]:
            found.append(f"of {registered} only {ran} ran")
        if "atexit" not in lines:
            found.append("atexit was not reached")
    if returncode == 1 and not (second or after("failed") or killed):
        found.append("it failed though nothing did")
    if returncode not in (0, 1, 143, 130) and returncode not in (-SIGTERM, -SIGINT):
        found.append(f"an exit status of {returncode}")
    if returncode == 0 and first:
        found.append("an exit status of 0 after a signal")
    if (
        first
        and returncode in (143, 130)
        and returncode != {"SIGTERM": 143, "SIGINT": 130}[first[0]]
    ):
        found.append(f"{returncode} after {first[0]}")
    return found


GOOD = ["start", "registered 1", "run", "main", "registered 2", "ran 2", "ran 1", "over", "atexit"]


@pytest.mark.parametrize(
    ("lines", "returncode", "sent", "miss"),
    [
        (GOOD, 0, [], None),
        ([*GOOD[:4], "log SIGTERM: shutting down", *GOOD[4:]], 143, [SIGTERM], None),
        (GOOD[:6], -SIGTERM, [SIGTERM] * 3, None),
        (GOOD[:2], -SIGTERM, [SIGTERM], None),
        (GOOD[:6], -SIGTERM, [SIGTERM], "it died with -15"),
        (
            [*GOOD[:6], "ran 2", *GOOD[6:]],
            0,
            [],
            "a callback ran twice; of ['1', '2'] only ['2', '2', '1'] ran",
        ),
        (
            [*GOOD[:5], "ran 1", "ran 2", *GOOD[7:]],
            0,
            [],
            "callbacks ran out of order; of ['1', '2'] only ['1', '2'] ran",
        ),
        ([*GOOD[:6], *GOOD[7:]], 143, [SIGTERM], "of ['1', '2'] only ['2'] ran"),
        (GOOD[:-1], 143, [SIGTERM], "atexit was not reached"),
        (GOOD, 1, [SIGTERM], "it failed though nothing did"),
        (GOOD, 7, [], "an exit status of 7"),
        ([*GOOD[:4], "log SIGINT: shutting down", *GOOD[4:]], 143, [SIGINT], "143 after SIGINT"),
    ],
)
def test_the_campaign_can_fail(
    lines: list[str], returncode: int, sent: list[int], miss: str | None
) -> None:
    """R3, R26: what a run must not do is told."""
    assert "; ".join(misses(lines, returncode, sent)) == (miss or "")


def one_run(program: Path, seed: int) -> list[str]:
    chance = random.Random(seed)
    backend, does = (
        chance.choice(["asyncio", "uvloop", "trio"]),
        chance.choice(["wait", "sleep", "return"]),
    )
    count, sent = chance.randint(1, 3), []
    errors = program.with_name(f"errors of {seed}")
    with errors.open("w") as file:
        command = [sys.executable, str(program), backend, does]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
    killer = threading.Timer(60, process.kill)
    killer.start()
    with process:
        lines = [process.stdout.readline().strip()]
        # At moments that are spread over its life: over its start, or close to what it says.
        if chance.random() < 0.8:
            until = chance.choice(["run", "main", "registered 7"])
            while lines[-1] not in ("", until):
                lines.append(process.stdout.readline().strip())
        for _ in range(count):
            time.sleep(chance.random() * chance.choice([0.002, 0.02, 0.1]))
            sent.append(chance.choice([SIGTERM, SIGINT]))
            process.send_signal(sent[-1])
        lines += process.stdout.read().splitlines()
    killer.cancel()
    err = errors.read_text()
    found = misses(lines, process.returncode, sent)
    return [f"seed {seed}, {backend}, {does}, {sent}: {m}\n{lines}\n{err}" for m in found]


@pytest.mark.slow
def test_campaign(tmp_path: Path) -> None:
    """R3, R25, R26: each registered callback runs once, in order, whenever signals come."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    seed = int(os.environ.get("LASTLY_SEED", random.randrange(10**9)))
    runs = int(os.environ.get("LASTLY_CAMPAIGN", "24"))
    print(f"LASTLY_SEED={seed} LASTLY_CAMPAIGN={runs}")
    with ThreadPoolExecutor(3) as pool:
        found = [
            m for ms in pool.map(lambda n: one_run(program, seed + n), range(runs)) for m in ms
        ]
    assert not found, "\n".join(found)
