"""One round of each measurement of a whole process: an import, an exit.

Imports nothing of the package.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from functools import cache
from time import perf_counter


@cache
def bytecode() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lastly-bench-")


def importing(module: str) -> float:
    # Isolated, so that nothing decides what is loaded already, or where bytecode is kept.
    flags = ["-I", "-X", "importtime", "-X", f"pycache_prefix={bytecode().name}"]
    command = [sys.executable, *flags, "-c", f"import {module}"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={}).stderr
    found = re.findall(rf"\|\s*(\d+) \| {re.escape(module)}$", told, re.MULTILINE)
    if not found:
        raise RuntimeError(f"{module} is loaded before it is imported: {told}")
    return int(found[-1]) / 1e6


IDLE = """
import asyncio
def say_when_idle():
    asyncio.get_running_loop().call_later(0.05, lambda: print("idle", flush=True))
"""
EXITS = {
    "lastly": (
        128 + signal.SIGTERM,
        """
import lastly
async def main():
    say_when_idle()
    await lastly.wait_requested()
lastly.run(main)
""",
    ),
    "lastly, main cancelled": (
        128 + signal.SIGTERM,
        """
import lastly
async def main():
    say_when_idle()
    await asyncio.Event().wait()
lastly.run(main)
""",
    ),
    "asyncio.run": (
        0,
        """
import signal
async def main():
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    say_when_idle()
    await told.wait()
asyncio.run(main())
""",
    ),
    "aiorun": (
        0,
        """
import aiorun
async def main():
    say_when_idle()
    await asyncio.Event().wait()
aiorun.run(main())
""",
    ),
}


def exiting(program: str, status: int) -> float:
    """Measure from the signal to the end, as who waits for the process sees it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", IDLE + program], **pipes) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == b"idle\n"
        began = perf_counter()
        os.kill(child.pid, signal.SIGTERM)
        ended = child.wait()
        taken = perf_counter() - began
        said = child.stderr.read().decode()
    assert ended == status, f"it ended with {ended} instead of {status}: {program}{said}"
    return taken
