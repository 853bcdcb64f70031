"""docs/compared.md: each cell about a Python library is what a program prints, or exits with.

`python tests/test_compared.py` writes the table anew.
"""

from __future__ import annotations

import re
import signal
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
def limits(*functions):
    import inspect
    names = {name for f in functions for name in inspect.signature(f).parameters}
    return {name for name in names if 'timeout' in name or 'grace' in name}
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
        "lastly": (
            "yes",
            """
            async def main():
                lastly.register(cleanup)
            asyncio.run(main())
            answer('yes' if ran else 'no')
            """,
        ),
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
            "yes",
            """
            run(until_the_end(1))
            assert ran == [1]
            async def callback(loop):
                await cleanup(2)
            run(shutdown_callback=callback)
            answer('yes' if ran == [1, 2] else 'no')
            """,
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
            "while a loop runs, or with `loop=`",
            """
            from functools import partial
            try:
                asyncio_atexit.register(cleanup)
            except RuntimeError as exc:
                assert 'no running event loop' in str(exc)
            async def main():
                asyncio_atexit.register(partial(cleanup, 1))
            asyncio.run(main())
            loop = asyncio.new_event_loop()
            asyncio_atexit.register(partial(cleanup, 2), loop=loop)
            loop.close()
            answer({(1, 2): 'while a loop runs, or with `loop=`'}[*ran])
            """,
        ),
        "aiorun": (
            "a task while a loop runs; one `shutdown_callback`",
            """
            assert not {'register', 'callback'} & set(dir(aiorun))
            async def callback(loop):
                ran.append('callback')
            run(until_the_end('task'), shutdown_callback=callback)
            answer({('callback', 'task'): 'a task while a loop runs; one `shutdown_callback`'}[*ran])
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
            "fails under `asyncio.run`",
            """
            async def main():
                asyncio_atexit.register(lambda: asyncio.to_thread(ran.append, 1))
            asyncio.run(main())
            assert not ran
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main()); loop.close()
            answer('fails under `asyncio.run`' if ran else 'fails')
            """,
        ),
        "aiorun": (
            "works",
            """
            async def callback(loop):
                await asyncio.to_thread(ran.append, 2)
            run(until_the_end(1, lambda name: asyncio.to_thread(ran.append, name)),
                shutdown_callback=callback)
            answer('works' if sorted(ran) == [1, 2] else 'fails')
            """,
        ),
    },
    "one raises `CancelledError`": {
        "lastly": (
            "the rest runs",
            """
            async def main():
                lastly.register(cleanup)
                lastly.register(fails, asyncio.CancelledError())
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(main())
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
            async def callback(loop):
                raise asyncio.CancelledError
            with contextlib.suppress(asyncio.CancelledError):
                run(until_the_end(1, lambda name: fails(asyncio.CancelledError())), until_the_end(),
                    shutdown_callback=callback)
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
            async def main():
                lastly.register(fails, ValueError())
                lastly.register(fails, KeyError())
            with contextlib.suppress(ValueError):
                asyncio.run(main())
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
            "both, at once, without a traceback",
            """
            import io
            sys.stderr = io.StringIO()
            async def main():
                asyncio_atexit.register(lambda: fails(ValueError('one')))
                asyncio_atexit.register(lambda: fails(KeyError('two')))
            asyncio.run(main())
            said = sys.stderr.getvalue()
            assert 'one' in said and 'two' in said and 'Traceback' not in said
            answer('both, at once, without a traceback')
            """,
        ),
        "aiorun": (
            "those of tasks, once collected",
            """
            import gc
            heard = []
            class Handler(logging.Handler):
                def emit(self, record):
                    assert loop.is_closed()
                    heard.append(record.exc_info[0])
            logging.getLogger('asyncio').addHandler(Handler())
            async def callback(ending):
                global loop
                loop = ending
            run(until_the_end(1, lambda name: fails(ValueError())),
                until_the_end(1, lambda name: fails(KeyError())),
                shutdown_callback=callback)
            gc.collect()
            answer('those of tasks, once collected' if len(heard) == 2 else heard)
            """,
        ),
    },
    "one that hangs": {
        "lastly": (
            "holds the program",
            """
            watch(0.3)
            async def main():
                lastly.register(asyncio.sleep, 60)
            asyncio.run(main())
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
            "a task is left behind after 60 s",
            """
            assert aiorun.run.__kwdefaults__['timeout_task_shutdown'] == 60
            run(until_the_end(60, asyncio.sleep), timeout_task_shutdown=0.1)
            async def callback(loop):
                loop.call_later(0.3, answer, 'a task is left behind after 60 s')
                await asyncio.sleep(60)
            run(shutdown_callback=callback, timeout_task_shutdown=0.1)
            """,
        ),
    },
    "what limits it": {
        "lastly": (
            "`timeout`, `grace`",
            """
            watch()
            lastly.configure(errors='log')
            async def main(**limit):
                lastly.defer(asyncio.sleep, 60, **limit)
            asyncio.run(main(timeout=0.1))
            lastly.configure(grace=0.1)
            asyncio.run(main())
            answer('`timeout`, `grace`')
            """,
        ),
        "atexit": (
            "nothing",
            "atexit.register(lambda timeout: answer('nothing'), timeout=0.1)",
        ),
        "AsyncExitStack": (
            "nothing",
            """
            stack = AsyncExitStack()
            answer(limits(AsyncExitStack, stack.callback, stack.push_async_callback, stack.aclose)
                   or 'nothing')
            """,
        ),
        "asyncio-atexit": (
            "nothing",
            "answer(limits(asyncio_atexit.register) or 'nothing')",
        ),
        "aiorun": (
            "`timeout_task_shutdown`",
            """
            watch()
            run(until_the_end(60, asyncio.sleep), timeout_task_shutdown=0.1)
            [limit] = limits(aiorun.run)
            answer(f'`{limit}`')
            """,
        ),
    },
    "takes one back": {
        "lastly": (
            "by its handle, or all equal ones",
            """
            handle = lastly.defer(cleanup); assert handle.cancel()
            lastly.register(cleanup); lastly.register(cleanup); lastly.unregister(cleanup)
            lastly.register(ran.append, 'another')
            lastly.close(); answer({('another',): 'by its handle, or all equal ones'}[*ran])
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
            "only all, by `pop_all`",
            """
            assert not {'unregister', 'remove', 'cancel'} & set(dir(AsyncExitStack))
            async def main():
                async with AsyncExitStack() as stack:
                    stack.push_async_callback(cleanup); stack.push_async_callback(cleanup)
                    stack.pop_all()
            asyncio.run(main()); answer('no' if ran else 'only all, by `pop_all`')
            """,
        ),
        "asyncio-atexit": (
            "all equal ones",
            """
            async def main():
                asyncio_atexit.register(cleanup); asyncio_atexit.register(cleanup)
                asyncio_atexit.unregister(cleanup)
                asyncio_atexit.register(lambda: ran.append('another'))
            asyncio.run(main()); answer({('another',): 'all equal ones'}[*ran])
            """,
        ),
        "aiorun": (
            "no",
            """
            async def main():
                task = asyncio.create_task(until_the_end())
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                asyncio.get_running_loop().stop()
            aiorun.run(main()); answer('no' if ran else 'by cancelling the task')
            """,
        ),
    },
    "awaits in trio's own run": {
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
                atexit.register(in_the_end(lambda: 'yes' if ran else 'no'))
                atexit.register(close)
            async def close():
                ran.append(await trio.sleep(0))
            trio.run(main)
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

# How a program ends whose only callback fails: for each library the cell, and the programs with
# the status of each.
FAILING: dict[str, tuple[str, dict[int, str]]] = {
    "lastly": (
        "1; at interpreter exit 0",
        {
            1: """
async def main():
    lastly.register(fails, ValueError())
asyncio.run(main())
""",
            0: "lastly.register(fails, ValueError())",
        },
    ),
    "atexit": ("0", {0: "atexit.register(fails, ValueError())"}),
    "AsyncExitStack": ("1", {1: "asyncio.run(stack(lambda: fails(ValueError()))())"}),
    "asyncio-atexit": (
        "0",
        {
            0: """
async def main():
    asyncio_atexit.register(lambda: fails(ValueError()))
asyncio.run(main())
"""
        },
    ),
    "aiorun": (
        "0; of its `shutdown_callback` 1",
        {
            0: "run(until_the_end(1, lambda name: fails(ValueError())), stop_on_unhandled_errors=True)",
            1: "run(shutdown_callback=lambda loop: fails(ValueError()))",
        },
    ),
}

# How a program ends that is sent SIGTERM; what dies of it, with a status below zero, runs nothing.
SIGNALLED: dict[str, tuple[str, dict[int, str]]] = {
    "lastly": (
        "143, with `lastly.run`",
        {
            143: """
async def main():
    lastly.register(print, 'ran')
    await terminate()
lastly.run(main)
""",
            -15: """
async def main():
    lastly.register(print, 'ran')
    await terminate()
asyncio.run(main())
""",
        },
    ),
    "atexit": ("-15", {-15: "atexit.register(print, 'ran'); asyncio.run(terminate())"}),
    "AsyncExitStack": (
        "-15",
        {
            -15: """
async def main():
    async with AsyncExitStack() as stack:
        stack.callback(print, 'ran')
        await terminate()
asyncio.run(main())
"""
        },
    ),
    "asyncio-atexit": (
        "-15",
        {
            -15: """
async def main():
    asyncio_atexit.register(lambda: print('ran'))
    await terminate()
asyncio.run(main())
"""
        },
    ),
    "aiorun": (
        "0",
        {
            0: """
async def main():
    try:
        await terminate()
    finally:
        print('ran')
aiorun.run(main())
"""
        },
    ),
}
STATUS = {"exit status when it fails": FAILING, "exit status after SIGTERM": SIGNALLED}
ENDS = [
    pytest.param(question, peer, status, id=f"{question}-{peer}-{status}")
    for question, cells in STATUS.items()
    for peer in PEERS
    for status in cells[peer][1]
]
AT_SIGNALS = {
    "runs at Ctrl-C": ["yes"] * len(PEERS),
    "runs at SIGTERM": ["with `lastly.run`", "no", "no", "no", "yes"],
}


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


@pytest.mark.parametrize(("question", "peer", "status"), ENDS)
def test_a_cell_is_an_exit_status(
    run_child: Callable[..., Any], question: str, peer: str, status: int
) -> None:
    """What docs/compared.md says of exit statuses and SIGTERM is what a process ends with."""
    ended = run_child(program(peer, STATUS[question][peer][1][status]), expect=status)
    if question == "exit status after SIGTERM":
        assert ended.out == (["ran"] if status >= 0 else [])


@pytest.mark.parametrize("peer", PEERS)
def test_all_run_at_ctrl_c(run_child: Callable[..., Any], peer: str) -> None:
    """What docs/compared.md says of Ctrl-C holds for the programs that it is SIGTERM for."""
    for source in SIGNALLED[peer][1].values():
        ended = run_child(program(peer, source).replace("SIGTERM", "SIGINT"), expect=None)
        assert ended.out == ["ran"], ended.err


def test_the_cells_hold_every_status() -> None:
    """A cell of an exit status has no number that no program ends with, and first the usual one."""
    for cells in STATUS.values():
        for cell, programs in cells.values():
            numbers = [int(number) for number in re.findall(r"-?\d+", cell)]
            assert numbers == [*programs][: len(numbers)]
            assert all(status == -signal.SIGTERM for status in [*programs][len(numbers) :])


def table() -> str:
    rows = [["", *PEERS], ["---"] * (len(PEERS) + 1)]
    rows += [[question, *(cells[peer][0] for peer in PEERS)] for question, cells in PRINTED.items()]
    rows += [[question, *cells] for question, cells in AT_SIGNALS.items()]
    rows += [[question, *(cells[peer][0] for peer in PEERS)] for question, cells in STATUS.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def compared() -> str:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


def test_the_page_has_the_table() -> None:
    """docs/compared.md is written from what these programs print."""
    assert PAGE.read_text() == compared(), "run tests/test_compared.py to write it anew"


if __name__ == "__main__":
    PAGE.write_text(compared())
