"""docs/compared.md: each cell about a Python library is what a program prints, or exits with.

`python tests/test_compared.py` writes the table anew.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "compared.md"
BEGIN, END = "<!-- table -->\n\n", "\n<!-- end -->"
PEERS = ["lastly", "atexit", "AsyncExitStack", "asyncio-atexit", "aiorun"]

# Before each program. What still runs after a second and a half hangs for ever.
PRELUDE = """
import asyncio, atexit, contextlib, logging, os, signal, sys, threading
from contextlib import AsyncExitStack
ran = []
async def cleanup(name="it"):
    await asyncio.sleep(0)
    ran.append(name)
def fails(error):
    raise error
def answer(text):
    print(text, flush=True)
    os._exit(0)
def in_the_end(function):
    return lambda: answer(function())
def hung():
    answer("holds the program")
def watch(seconds=1.5):
    timer = threading.Timer(seconds, hung)
    timer.daemon = True
    timer.start()
def stack(*callbacks):
    async def main():
        async with AsyncExitStack() as stack:
            for callback in callbacks:
                stack.push_async_callback(*callback) if isinstance(callback, tuple) else stack.callback(callback)
    return main
async def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)
"""
ASYNCIO_ATEXIT = "import asyncio_atexit\n"
AIORUN = """
import aiorun
async def until_the_end(name="it", work=cleanup, *args):
    try:
        await asyncio.sleep(60)
    finally:
        await work(name, *args)
def run(*tasks, **options):
    async def main():
        for task in tasks:
            asyncio.create_task(task)
        await asyncio.sleep(0)
        asyncio.get_running_loop().stop()
    aiorun.run(main(), **options)
"""
IMPORTS = {
    "lastly": "import lastly\n",
    "atexit": "",
    "AsyncExitStack": "",
    "asyncio-atexit": ASYNCIO_ATEXIT,
    "aiorun": AIORUN,
}

# What is asked: for each library the cell, and the program that prints it.
PRINTED: dict[str, dict[str, tuple[str, str]]] = {
    "awaits an async callback": {
        "lastly": ("yes", "lastly.defer(cleanup); lastly.close(); answer('yes' if ran else 'no')"),
        "atexit": (
            "no",
            """
            atexit.register(in_the_end(lambda: 'yes' if ran else 'no'))
            atexit.register(cleanup)
            """,
        ),
        "AsyncExitStack": (
            "yes",
            "asyncio.run(stack((cleanup,))()); answer('yes' if ran else 'no')",
        ),
        "asyncio-atexit": (
            "yes",
            """
            async def main():
                asyncio_atexit.register(cleanup)
            asyncio.run(main())
            answer('yes' if ran else 'no')
            """,
        ),
        "aiorun": (
            "in a `finally`",
            "run(until_the_end()); answer('in a `finally`' if ran else 'no')",
        ),
    },
    "registers from any module": {
        "lastly": ("yes", "lastly.register(cleanup); answer('yes')"),
        "atexit": ("yes", "atexit.register(len); answer('yes')"),
        "AsyncExitStack": (
            "with the stack in hand",
            """
            assert not {'register', 'callback'} & set(dir(contextlib))
            AsyncExitStack().callback(len)
            answer('with the stack in hand')
            """,
        ),
        "asyncio-atexit": (
            "while a loop runs",
            """
            try:
                asyncio_atexit.register(cleanup)
            except RuntimeError as exc:
                assert 'no running event loop' in str(exc)
            async def main():
                asyncio_atexit.register(cleanup)
                answer('while a loop runs')
            asyncio.run(main())
            """,
        ),
        "aiorun": (
            "one `shutdown_callback`",
            """
            assert not {'register', 'callback'} & set(dir(aiorun))
            async def callback(loop):
                answer('one `shutdown_callback`')
            run(shutdown_callback=callback)
            """,
        ),
    },
    "order": {
        "lastly": (
            "newest first",
            """
            lastly.defer(cleanup, 1); lastly.defer(cleanup, 2); lastly.close()
            answer({(2, 1): 'newest first'}[*ran])
            """,
        ),
        "atexit": (
            "newest first",
            """
            atexit.register(in_the_end(lambda: {(2, 1): 'newest first'}[*ran]))
            atexit.register(ran.append, 1); atexit.register(ran.append, 2)
            """,
        ),
        "AsyncExitStack": (
            "newest first",
            """
            asyncio.run(stack((cleanup, 1), (cleanup, 2))())
            answer({(2, 1): 'newest first'}[*ran])
            """,
        ),
        "asyncio-atexit": (
            "oldest first",
            """
            from functools import partial
            async def main():
                asyncio_atexit.register(partial(cleanup, 1))
                asyncio_atexit.register(partial(cleanup, 2))
            asyncio.run(main())
            answer({(1, 2): 'oldest first'}[*ran])
            """,
        ),
        "aiorun": (
            "all at once",
            """
            both = asyncio.Barrier(2)
            async def meet(name):
                await both.wait()
                ran.append(name)
            run(until_the_end(1, meet), until_the_end(2, meet))
            answer('all at once' if len(ran) == 2 else 'one at a time')
            """,
        ),
    },
    "`asyncio.to_thread` in it": {
        "lastly": (
            "works",
            """
            async def main():
                lastly.defer(asyncio.to_thread, ran.append, 1)
            asyncio.run(main()); answer('works' if ran else 'fails')
            """,
        ),
        "atexit": (
            "fails",
            """
            @atexit.register
            def close():
                try:
                    asyncio.run(asyncio.to_thread(len, ''))
                except RuntimeError:
                    answer('fails')
            import concurrent.futures.thread
            """,
        ),
        "AsyncExitStack": (
            "works",
            """
            asyncio.run(stack((asyncio.to_thread, ran.append, 1))())
            answer('works' if ran else 'fails')
            """,
        ),
        "asyncio-atexit": (
            "fails",
            """
            async def main():
                asyncio_atexit.register(lambda: asyncio.to_thread(ran.append, 1))
            asyncio.run(main()); answer('works' if ran else 'fails')
            """,
        ),
        "aiorun": (
            "works",
            """
            run(until_the_end(1, lambda name: asyncio.to_thread(ran.append, name)))
            answer('works' if ran else 'fails')
            """,
        ),
    },
    "one raises `CancelledError`": {
        "lastly": (
            "the rest runs",
            """
            lastly.configure(errors='log')
            lastly.defer(cleanup); lastly.defer(fails, asyncio.CancelledError()); lastly.close()
            answer('the rest runs' if ran else 'the rest does not run')
            """,
        ),
        "atexit": (
            "the rest runs",
            """
            atexit.register(answer, 'the rest runs')
            atexit.register(fails, asyncio.CancelledError())
            """,
        ),
        "AsyncExitStack": (
            "the rest runs",
            """
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(stack((cleanup,), lambda: fails(asyncio.CancelledError()))())
            answer('the rest runs' if ran else 'the rest does not run')
            """,
        ),
        "asyncio-atexit": (
            "the rest does not run",
            """
            async def main():
                asyncio_atexit.register(lambda: fails(asyncio.CancelledError()))
                asyncio_atexit.register(cleanup)
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(main())
            answer('the rest runs' if ran else 'the rest does not run')
            """,
        ),
        "aiorun": (
            "the rest runs",
            """
            run(until_the_end(1, lambda name: fails(asyncio.CancelledError())), until_the_end())
            answer('the rest runs' if ran else 'the rest does not run')
            """,
        ),
    },
    "of two failures, you learn of": {
        "lastly": (
            "both, at once",
            """
            heard = []
            class Handler(logging.Handler):
                def emit(self, record):
                    heard.append(record.exc_info[0])
            logging.getLogger('lastly').addHandler(Handler())
            lastly.configure(errors='log')
            lastly.defer(fails, ValueError()); lastly.defer(fails, KeyError()); lastly.close()
            answer({(KeyError, ValueError): 'both, at once'}[*heard])
            """,
        ),
        "atexit": (
            "both, at once",
            """
            heard = []
            sys.unraisablehook = lambda it: heard.append(it.exc_type)
            atexit.register(in_the_end(lambda: {(KeyError, ValueError): 'both, at once'}[*heard]))
            atexit.register(fails, ValueError()); atexit.register(fails, KeyError())
            """,
        ),
        "AsyncExitStack": (
            "the last",
            """
            try:
                asyncio.run(stack(lambda: fails(ValueError()), lambda: fails(KeyError()))())
            except ValueError as exc:
                answer('the last' if exc.__context__ is None else 'both, at the end')
            """,
        ),
        "asyncio-atexit": (
            "both, without a traceback",
            """
            import io
            sys.stderr = io.StringIO()
            async def main():
                asyncio_atexit.register(lambda: fails(ValueError('one')))
                asyncio_atexit.register(lambda: fails(KeyError('two')))
            asyncio.run(main())
            said = sys.stderr.getvalue()
            assert 'one' in said and 'two' in said and 'Traceback' not in said
            answer('both, without a traceback')
            """,
        ),
        "aiorun": (
            "both, once collected",
            """
            import gc
            heard = []
            class Handler(logging.Handler):
                def emit(self, record):
                    heard.append(record.exc_info[0])
            logging.getLogger('asyncio').addHandler(Handler())
            run(until_the_end(1, lambda name: fails(ValueError())),
                until_the_end(1, lambda name: fails(KeyError())))
            gc.collect()
            answer('both, once collected' if len(heard) == 2 else heard)
            """,
        ),
    },
    "one that hangs": {
        "lastly": (
            "is cut short",
            """
            watch()
            lastly.configure(errors='log')
            async def main():
                lastly.defer(asyncio.sleep, 60, timeout=0.1)
            asyncio.run(main()); answer('is cut short')
            """,
        ),
        "atexit": (
            "holds the program",
            "watch(0.3); atexit.register(threading.Event().wait, 9)",
        ),
        "AsyncExitStack": (
            "holds the program",
            "watch(0.3); asyncio.run(stack((asyncio.sleep, 60))())",
        ),
        "asyncio-atexit": (
            "holds the program",
            """
            watch(0.3)
            async def main():
                asyncio_atexit.register(lambda: asyncio.sleep(60))
            asyncio.run(main())
            """,
        ),
        "aiorun": (
            "is left behind",
            """
            watch()
            run(until_the_end(60, asyncio.sleep), timeout_task_shutdown=0.1)
            answer('is left behind')
            """,
        ),
    },
    "takes one back": {
        "lastly": (
            "by its handle, or all equal ones",
            """
            handle = lastly.defer(cleanup); assert handle.cancel()
            lastly.register(cleanup); lastly.register(cleanup); lastly.unregister(cleanup)
            lastly.close(); answer('neither' if ran else 'by its handle, or all equal ones')
            """,
        ),
        "atexit": (
            "all equal ones",
            """
            atexit.register(in_the_end(lambda: 'none' if ran else 'all equal ones'))
            once = ran.append
            atexit.register(once, 1); atexit.register(once, 1); atexit.unregister(once)
            """,
        ),
        "AsyncExitStack": (
            "no",
            "answer('yes' if {'unregister', 'remove', 'cancel'} & set(dir(AsyncExitStack)) else 'no')",
        ),
        "asyncio-atexit": (
            "all equal ones",
            """
            async def main():
                asyncio_atexit.register(cleanup); asyncio_atexit.register(cleanup)
                asyncio_atexit.unregister(cleanup)
            asyncio.run(main()); answer('none' if ran else 'all equal ones')
            """,
        ),
        "aiorun": (
            "by cancelling the task",
            """
            async def main():
                task = asyncio.create_task(until_the_end())
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                asyncio.get_running_loop().stop()
            aiorun.run(main()); answer('by cancelling the task')
            """,
        ),
    },
    "trio": {
        "lastly": (
            "yes",
            """
            import trio
            async def main():
                lastly.defer(trio.sleep, 0)
            trio.run(main); answer('yes' if lastly.last_report().ok else 'no')
            """,
        ),
        "atexit": (
            "no",
            """
            import trio
            async def main():
                atexit.register(trio.sleep, 0)
            trio.run(main); answer('yes' if atexit._ncallbacks() == 0 else 'no')
            """,
        ),
        "AsyncExitStack": (
            "yes",
            """
            import trio
            async def close():
                ran.append(await trio.sleep(0))
            trio.run(stack((close,))); answer('yes' if ran else 'no')
            """,
        ),
        "asyncio-atexit": (
            "no",
            """
            import trio
            async def main():
                asyncio_atexit.register(len)
            try:
                trio.run(main)
            except RuntimeError:
                answer('no')
            """,
        ),
        "aiorun": (
            "no",
            """
            import trio
            async def main():
                await trio.sleep(0)
                ran.append(1)
            with contextlib.suppress(Exception):
                loop = asyncio.new_event_loop()
                loop.call_later(0.1, loop.stop)
                aiorun.run(main(), loop=loop)
            answer('yes' if ran else 'no')
            """,
        ),
    },
}

# The exit status of a program, whose only callback fails; and which is sent SIGTERM.
FAILING = {
    "lastly": "async def main():\n    lastly.register(lambda: fails(ValueError()))\nlastly.run(main)",
    "atexit": "atexit.register(fails, ValueError())",
    "AsyncExitStack": "asyncio.run(stack(lambda: fails(ValueError()))())",
    "asyncio-atexit": """
async def main():
    asyncio_atexit.register(lambda: fails(ValueError()))
asyncio.run(main())
""",
    "aiorun": "run(until_the_end(1, lambda name: fails(ValueError())))",
}
SIGNALLED = {
    "lastly": "async def main():\n    lastly.register(print, 'ran')\n    await terminate()\nlastly.run(main)",
    "atexit": "atexit.register(print, 'ran'); asyncio.run(terminate())",
    "AsyncExitStack": """
async def main():
    async with AsyncExitStack() as stack:
        stack.callback(print, 'ran')
        await terminate()
asyncio.run(main())
""",
    "asyncio-atexit": """
async def main():
    asyncio_atexit.register(lambda: print('ran'))
    await terminate()
asyncio.run(main())
""",
    "aiorun": """
async def main():
    try:
        await terminate()
    finally:
        print('ran')
aiorun.run(main())
""",
}
STATUS = {
    "exit status when it fails": (FAILING, [1, 0, 1, 0, 0]),
    "exit status after SIGTERM": (SIGNALLED, [143, -15, -15, -15, 0]),
}
AT_SIGTERM = "runs at SIGTERM", ["yes", "no", "no", "no", "yes"]


def program(peer: str, source: str) -> str:
    return PRELUDE + IMPORTS[peer] + textwrap.dedent(source)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("question", PRINTED)
def test_a_cell_is_what_a_program_prints(
    run_child: Callable[..., Any], question: str, peer: str
) -> None:
    """What docs/compared.md says of a Python library, that library does."""
    cell, source = PRINTED[question][peer]
    ended = run_child(program(peer, source), expect=None)
    assert ended.out == [cell], ended.err


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("question", STATUS)
def test_a_cell_is_an_exit_status(run_child: Callable[..., Any], question: str, peer: str) -> None:
    """What docs/compared.md says of exit statuses and signals is what a process ends with."""
    programs, statuses = STATUS[question]
    n = PEERS.index(peer)
    ended = run_child(program(peer, programs[peer]), expect=statuses[n])
    if programs is SIGNALLED:
        assert ended.out == {"yes": ["ran"], "no": []}[AT_SIGTERM[1][n]]


def table() -> str:
    rows = [["", *PEERS], ["---"] * (len(PEERS) + 1)]
    rows += [[question, *(cells[peer][0] for peer in PEERS)] for question, cells in PRINTED.items()]
    rows += [[AT_SIGTERM[0], *AT_SIGTERM[1]]]
    rows += [[question, *map(str, statuses)] for question, (_, statuses) in STATUS.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def compared() -> str:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


def test_the_page_has_the_table() -> None:
    """docs/compared.md is written from what these programs print."""
    assert PAGE.read_text() == compared(), "run tests/test_compared.py to write it anew"


if __name__ == "__main__":
    PAGE.write_text(compared())
