"""The ladder of signals under `lastly.run`: real children, real signals, real exit statuses."""

from __future__ import annotations

import os
import re
import signal
from signal import SIGINT, SIGTERM

import pytest

import lastly

BACKENDS = ["asyncio", "uvloop", "trio"]

# A program whose callbacks and main do what its arguments say.
PROGRAM = """
import logging, sys, threading, time
import anyio
import lastly

backend, main_does, callback_does, *settings = sys.argv[1:]
backend, options = ("asyncio", {"use_uvloop": True}) if backend == "uvloop" else (backend, None)
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
settings = {name: float(value) for name, value in (s.split("=") for s in settings)}
grace = settings.pop("grace", None)
lastly.configure(**settings)

async def oldest():
    print("oldest")

async def hang():
    print("hanging")
    try:
        await anyio.sleep_forever()
    finally:
        print("hung up")

def block():
    print("blocking")
    print("read", sys.stdin.readline().strip())

async def say_when_blocked(word):
    await anyio.wait_all_tasks_blocked()
    print(word)

class Loop(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.registered = threading.Event()
        self.start()
        self.registered.wait()

    def run(self):
        async def there():
            lastly.register(hang)
            self.registered.set()
            await anyio.sleep_forever()
        anyio.run(there)

async def main():
    lastly.register(print, "sync")
    match callback_does:
        case "hang":
            lastly.register(hang)
        case "hang in a nested unwind":
            inner = lastly.ShutdownManager()
            inner.register(print, "inner")
            inner.register(hang)
            lastly.register(inner.aclose)
        case "hang on another loop":
            Loop()
        case "hang in an exit":
            class Hanging:
                async def __aenter__(self): ...
                async def __aexit__(self, *exc):
                    await hang()
            await lastly.enter_async_context(Hanging())
        case "hang in a thread":
            def wait():
                print("blocking")
                threading.Event().wait()
            lastly.defer(wait, thread=True)
        case "block":
            lastly.register(block)
    lastly.register(oldest)
    lastly.register(print, "newest")
    try:
        match main_does:
            case "sleep":
                print("ready")
                await anyio.sleep_forever()
            case "wait":
                async with anyio.create_task_group() as group:
                    group.start_soon(say_when_blocked, "ready")
                    print("draining,", await lastly.wait_requested())
                    await anyio.sleep(0)
            case "wait in a task":
                async def wait():
                    print("draining,", await lastly.wait_requested())
                async with anyio.create_task_group() as group:
                    group.start_soon(wait)
                    group.start_soon(say_when_blocked, "ready")
            case "drain for ever":
                async with anyio.create_task_group() as group:
                    group.start_soon(say_when_blocked, "ready")
                    print("draining,", await lastly.wait_requested())
                    group.start_soon(say_when_blocked, "stuck")
                    await anyio.sleep_forever()
            case "finally":
                try:
                    print("ready")
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=backend == "trio"):
                        print("closing down")
                        await anyio.sleep(0)
                        if callback_does == "hang in main":
                            await anyio.sleep_forever()
                        print("closed down")
            case "busy":
                print("ready")
                while True:
                    pass
            case "blocked":
                print("ready")
                while True:  # a signal just before a longer wait would not interrupt it
                    time.sleep(0.01)
            case "inner":
                async with lastly.ShutdownManager() as inner:
                    inner.register(print, "inner")
                    inner.register(hang)
                    print("ready")
                    await anyio.sleep_forever()
            case "group":
                async def child():
                    try:
                        print("ready")
                        await anyio.sleep_forever()
                    finally:
                        print("child cancelled")
                group = await lastly.enter_async_context(anyio.create_task_group())
                group.start_soon(child)
                await anyio.sleep_forever()
            case "return":
                pass
    finally:
        print("main is left")

try:
    lastly.run(main, backend=backend, backend_options=options, grace=grace)
finally:
    report = lastly.last_report()
    print(report.reason, [f"{o.name} {o.status}" for o in report.outcomes])
"""


def said(ended) -> list[str]:
    return ended.out[: ended.out.index("ready")] + ended.out[ended.out.index("ready") + 1 :]


ALL = ["newest", "oldest", "sync"]
ALL_OK = "['print ok', 'oldest ok', 'print ok']"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("number", "status"), [(SIGTERM, 143), (SIGINT, 130)])
def test_the_first_signal_cancels_a_main_that_does_not_wait_for_it(
    start_child, backend: str, number: signal.Signals, status: int
) -> None:
    """R25, R26: main's `finally` runs, then all unwinds; the status is 128 + the signal."""
    child = start_child(PROGRAM, backend, "finally", "-")
    child.wait_for("ready")
    child.send(number)
    ended = child.wait()
    assert said(ended) == [
        *["closing down", "closed down", "main is left", *ALL],
        f"signal: {number.name} {ALL_OK}",
    ]
    assert ended.err == f"INFO {number.name}: shutting down\n"
    assert ended.status == status


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("main", ["wait", "wait in a task"])
def test_the_first_signal_leaves_a_main_that_waits_for_it_to_return(
    start_child, backend: str, main: str
) -> None:
    """R25: who waits in wait_requested is woken, and main drains and returns by itself."""
    child = start_child(PROGRAM, backend, main, "-")
    child.wait_for("ready")
    child.send(SIGTERM)
    ended = child.wait()
    assert said(ended) == [
        *["draining, signal: SIGTERM", "main is left", *ALL],
        f"signal: SIGTERM {ALL_OK}",
    ]
    assert ended.status == 143


BEFORE_MAIN = """
import signal, sys
from collections.abc import Mapping
import lastly

class Options(Mapping):
    def keys(self):  # read when the handlers are in place, and no loop runs yet
        for _ in range(int(sys.argv[1])):
            signal.raise_signal(signal.SIGTERM)
        return []

    def __getitem__(self, key): ...
    def __iter__(self): ...
    def __len__(self):
        return 1

async def main():
    print("main")

async def callback():
    print("callback")

lastly.register(callback)
coroutine = main() if sys.argv[2] == "coroutine" else main
lastly.run(coroutine, backend_options=Options())
"""


@pytest.mark.parametrize("what", ["function", "coroutine"])
def test_a_signal_before_main_has_started(run_child, what: str) -> None:
    """R25: main is not begun, what was registered unwinds, and no coroutine is left behind."""
    ended = run_child(BEFORE_MAIN, "1", what, expect=143)
    assert ended.out == ["callback"]
    assert ended.err == ""


def test_two_signals_before_main_has_started(run_child) -> None:
    """R22, R25: the second forces, also before there is a loop; the callback is called."""
    ended = run_child(BEFORE_MAIN, "2", "function", expect=143)
    assert ended.out == ["callback"]  # which needed no time, so that nothing was lost
    assert "the second signal: forcing the shutdown" in ended.err


def test_the_second_signal_is_told_when_there_is_nothing_to_force(run_child) -> None:
    """R25: before there is a main, say."""
    ended = run_child(
        BEFORE_MAIN.replace("return []", "lastly._aside.settle(); return []"),
        "2",
        "function",
        expect=143,
    )
    assert ended.out == ["callback"]
    assert "SIGTERM, the second signal: forcing the shutdown\n" in ended.err


def test_a_signal_during_the_unwind_does_not_disturb_it(start_child) -> None:
    """R25: the first signal finds the unwind going on; the status tells of it all the same."""
    child = start_child(PROGRAM, "asyncio", "return", "block")
    child.wait_for("blocking")
    child.send(SIGTERM)
    child.process.stdin.write("a line\n")
    ended = child.wait()
    assert ended.out[-3:-1] == ["read a line", "sync"]
    assert ended.out[-1].startswith("scope exit ['print ok', 'oldest ok', 'block ok',")
    assert ended.status == 143


CUT = re.compile(
    r"WARNING SIGTERM, the second signal: forcing the shutdown\n"
    r"(?:still waiting for [^\n]*\n(?:    [^\n]*\n)*)*?"
    r"still waiting for (\S+) \(\S+program\d\.py:\d+\), (\d) of (\d), for \d\.\d s, at ([^\n]*)"
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("does", "name", "status"),
    [
        ("hang", "hang", "forced"),
        ("hang in a nested unwind", "hang", "failed"),
        ("hang on another loop", "hang", "forced"),
        ("hang in an exit", "main.<locals>.Hanging", "forced"),
    ],
)
def test_the_second_signal_cuts_short_what_hangs_and_forces_the_rest(
    start_child, backend: str, does: str, name: str, status: str
) -> None:
    """R22, R25: it is logged where that waits; every callback is called; the status is 1."""
    child = start_child(PROGRAM, backend, "sleep", does)
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("hanging")
    child.send(SIGTERM)
    ended = child.wait()
    inner = ["inner"] if "nested" in does else []
    assert said(ended)[:-1] == [
        "main is left",
        "newest",
        "oldest",
        "hanging",
        "hung up",
        *inner,
        "sync",
    ]
    assert ended.out[-1].startswith("signal: SIGTERM ['print ok', 'oldest ok', '")
    assert ended.out[-1].endswith(f" {status}', 'print ok']")
    cut = CUT.search(ended.err)
    assert cut is not None, ended.err
    assert cut[1] in {name, "ShutdownManager.aclose"}
    assert "sleep_forever" in ended.err.split("forcing the shutdown")[1].split("Traceback")[0]
    assert "was cancelled by a second signal, at " in ended.err
    assert ended.status == 1


def test_the_second_signal_while_a_callback_blocks_the_loop(start_child) -> None:
    """R22, R25: what is sync is not cut short, but told; what comes after it is forced."""
    child = start_child(PROGRAM, "asyncio", "sleep", "block")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("blocking")
    child.send(SIGTERM)
    child.wait_for("still waiting for block")
    child.process.stdin.write("a line\n")
    ended = child.wait()
    assert ", 3 of 4, for " in ended.err
    assert "sys.stdin.readline()" in ended.err
    assert ended.out[-3:-1] == ["read a line", "sync"]
    assert ended.out[-1].endswith("'block ok', 'print ok']")
    assert ended.status == 143


def test_the_second_signal_abandons_a_callback_in_a_thread(start_child) -> None:
    """R20, R22: with thread=True a sync callback can be left where it is."""
    child = start_child(PROGRAM, "asyncio", "sleep", "hang in a thread")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("blocking")
    child.send(SIGTERM)
    ended = child.wait()
    assert ended.out[-1].endswith("'main.<locals>.wait abandoned', 'print ok']")
    assert ended.status == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_second_signal_cancels_a_main_that_still_drains(start_child, backend: str) -> None:
    """R25: main is cancelled, the unwind is forced, and it is logged where main was."""
    child = start_child(PROGRAM, backend, "drain for ever", "-")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("stuck")
    child.send(SIGINT)
    ended = child.wait()
    assert said(ended)[2:-1] == ["main is left", *ALL]
    assert "WARNING SIGINT, the second signal: forcing the shutdown\n" in ended.err
    assert re.search(
        r"(?s)still waiting for main to return, for \d.\d s, at .*sleep_forever", ended.err
    )
    assert ended.status == 143  # that of the first; and nothing was lost


@pytest.mark.parametrize("backend", ["asyncio", "uvloop"])
def test_the_second_signal_cuts_mains_finally_short(start_child, backend: str) -> None:
    """R25: main is cancelled again (on trio it is in a cancelled scope already)."""
    child = start_child(PROGRAM, backend, "finally", "hang in main")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("closing down")
    child.send(SIGTERM)
    ended = child.wait()
    assert said(ended)[:-1] == ["closing down", "main is left", *ALL]
    assert ended.status == 143


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("main", ["busy", "blocked"])
def test_a_main_that_never_awaits(start_child, backend: str, main: str) -> None:
    """R25: the first signal is logged and waits for an await; the second interrupts main."""
    child = start_child(PROGRAM, backend, main, "-")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("INFO SIGTERM: shutting down")
    child.send(SIGTERM)
    ended = child.wait()
    assert said(ended)[:-1] == ["main is left", *ALL]
    line = "while True:|pass" if main == "busy" else r"time\.sleep\(0\.01\)|while True"
    assert re.search(rf"forcing the shutdown\nmain is left, at .* in main: ({line})", ended.err)
    assert ended.status == 143


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("main", ["busy", "blocked", "drain for ever"])
def test_a_main_that_takes_more_than_half_of_the_grace(
    start_child, backend: str, main: str
) -> None:
    """R25: it is cancelled, or interrupted where it blocks its loop, by one signal alone."""
    child = start_child(PROGRAM, backend, main, "-", "grace=0.4")
    child.wait_for("ready")
    child.send(SIGTERM)
    ended = child.wait()
    assert ended.out[ended.out.index("main is left") :][:-1] == ["main is left", *ALL]
    how = "cancelled" if main == "drain for ever" else "left"
    assert f"half of the grace is over: main is {how}, at " in ended.err
    assert ended.status == 143


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_clock_of_the_grace_starts_at_the_first_signal(start_child, backend: str) -> None:
    """R21, R22, R25: what main has used up of it is not there for the unwind."""
    child = start_child(PROGRAM, backend, "wait", "hang", "grace=0.3")
    child.wait_for("ready")
    child.send(SIGTERM)
    ended = child.wait()
    assert said(ended)[:-1] == [
        *["draining, signal: SIGTERM", "main is left"],
        *["newest", "oldest", "hanging", "hung up", "sync"],
    ]
    assert "of what was left of the grace of 0.3 s" in ended.err
    assert ended.status == 1


def test_a_main_that_blocks_another_thread(run_child) -> None:
    """R24, R25: no signal can interrupt that; it is cancelled where it awaits."""
    ended = run_child(
        """
        import threading
        import anyio
        import lastly

        tried = threading.Event()

        class Handlers(lastly._run.Handlers):
            def interrupt(self):
                super().interrupt()
                tried.set()

        lastly._run.Handlers = Handlers

        async def main():
            lastly.register(print, "unwound")
            lastly.request_shutdown("deploy")
            tried.wait()
            print("not interrupted")
            await anyio.sleep_forever()

        thread = threading.Thread(target=lastly.run, args=(main,), kwargs={"grace": 0.02})
        thread.start()
        thread.join()
        """
    )
    assert ended.out == ["not interrupted", "unwound"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_that_takes_more_than_half_of_the_grace(start_child, backend: str) -> None:
    """R25: it is not main, hence not interrupted; and what tried to is no second signal."""
    child = start_child(
        """
        import signal, sys
        import anyio
        import lastly

        async def block():
            print("blocking")
            sys.stdin.readline()

        async def main():
            ours, handled = signal.getsignal(signal.SIGTERM), []

            def handle(number, frame):
                ours(number, frame)
                handled.append(number)
                print("handled", len(handled))

            for number in signal.SIGINT, signal.SIGTERM:
                signal.signal(number, handle)
            lastly.register(print, "unwound")
            async with anyio.create_task_group() as group:
                group.start_soon(block)
                await lastly.wait_requested()
                await anyio.sleep_forever()

        lastly.run(main, backend=sys.argv[1], grace=0.2)
        """,
        backend,
    )
    child.wait_for("blocking")
    child.send(SIGTERM)
    child.wait_for("handled 2")
    child.process.stdin.write("a line\n")
    ended = child.wait()
    assert ended.out == ["blocking", "handled 1", "handled 2", "unwound"]
    assert ended.err.startswith("half of the grace is over: main is cancelled, at ")
    assert ended.status == 143


def test_a_second_signal_that_trio_must_not_see(run_child) -> None:
    """R25: where trio protects its own code, main is not interrupted, but cancelled."""
    ended = run_child(
        """
        import signal
        import lastly
        import trio

        @trio.lowlevel.enable_ki_protection
        def protected():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            print("protected")

        async def main():
            protected()
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                print("cancelled")
                raise

        lastly.run(main, backend="trio")
        """,
        expect=143,
    )
    assert ended.out == ["protected", "cancelled"]


def test_the_first_signal_after_a_request(start_child) -> None:
    """R25, R28: it is the first; a main that drains is left to, and the status is its own."""
    child = start_child(
        """
        import sys
        import anyio
        import lastly

        async def main():
            async def ask():
                await anyio.wait_all_tasks_blocked()
                lastly.request_shutdown("deploy")
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                print(await lastly.wait_requested(), flush=True)
            print(await anyio.to_thread.run_sync(sys.stdin.readline))

        lastly.register(print, "unwound")
        try:
            lastly.run(main)
        finally:
            print(lastly.last_report().reason)
        """
    )
    child.wait_for("request: deploy")
    child.send(SIGTERM)
    child.process.stdin.write("drained")
    ended = child.wait()
    assert ended.out == ["request: deploy", "drained", "unwound", "request: deploy"]
    assert ended.status == 143


def test_main_is_watched_once_it_is_asked_to_return(start_child) -> None:
    """R23, R25: a main that does not come to its end is logged with where it is."""
    child = start_child(PROGRAM, "asyncio", "drain for ever", "-", "slow_after=0.05")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("still waiting for main to return, for ")
    child.send(SIGTERM)
    assert child.wait().status == 143


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_unwind_of_another_manager_is_forced_too(start_child, backend: str) -> None:
    """R22: it does not matter which manager it is; one of main's own unwinds in its `finally`."""
    child = start_child(PROGRAM, backend, "inner", "-")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("hanging")
    child.send(SIGTERM)
    ended = child.wait()
    assert said(ended)[:-1] == ["hanging", "hung up", "inner", "main is left", *ALL]
    assert ended.status == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_group_on_the_stack(start_child, backend: str) -> None:
    """R8, R25: its children are cancelled when main was; its exit runs in main's task."""
    child = start_child(PROGRAM, backend, "group", "-")
    child.wait_for("ready")
    child.send(SIGTERM)
    ended = child.wait()
    # On trio main and the child are cancelled at once.
    assert sorted(said(ended)[:2]) == ["child cancelled", "main is left"]
    assert said(ended)[2:-1] == ALL
    assert ended.err == "INFO SIGTERM: shutting down\n"
    assert ended.status == 143


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_the_third_signal_kills(start_child, number: signal.Signals) -> None:
    """R25: at once, by that signal; also while a callback blocks the main thread."""
    child = start_child(PROGRAM, "asyncio", "sleep", "block")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("blocking")
    child.send(SIGTERM)
    child.wait_for("still waiting for block")
    child.send(number)
    ended = child.wait()
    assert ended.out[-1] == "blocking"
    assert ended.status == -number


def test_the_third_signal_kills_what_never_comes_back_to_python(start_child) -> None:
    """R25: by then it is the kernel's to handle, and needs no Python code to run."""
    child = start_child(
        """
        import collections, itertools, signal
        import lastly

        async def main():
            signal.raise_signal(signal.SIGTERM)

            @lastly.register
            def stuck():
                signal.raise_signal(signal.SIGTERM)
                print("stuck", flush=True)
                collections.deque(itertools.repeat(None), maxlen=0)  # looks for no signals

        lastly.run(main)
        """
    )
    child.wait_for("stuck")
    child.send(SIGTERM)
    assert child.wait().status == -SIGTERM


TOGETHER = """
import os, signal, sys
import anyio
import lastly

async def callback(name):
    await anyio.sleep(0)
    print(name)

async def main():
    for name in "first", "second":
        lastly.register(callback, name)
    signals = [getattr(signal, name) for name in sys.argv[2:]]
    if sys.argv[1] == "from outside":
        print("ready", flush=True)
    for number in signals:
        signal.raise_signal(number)
    await anyio.sleep_forever()

lastly.run(main)
"""


def test_two_signals_within_a_millisecond(run_child) -> None:
    """R25: both count; main and the unwind are forced, and each callback is called once."""
    ended = run_child(TOGETHER, "-", "SIGTERM", "SIGTERM", expect=1)
    assert ended.out == []  # each was cancelled at its first await
    assert re.findall(r"(?m)^callback callback \(.*\) forced$", ended.err) != []
    assert "1 earlier failure in this unwind" in ended.err


def test_two_signals_from_outside_within_a_millisecond(start_child) -> None:
    """R25: if the kernel makes one of them, that is the first; else the rest is forced."""
    child = start_child(TOGETHER, "from outside")
    child.wait_for("ready")
    child.send(SIGTERM, SIGINT)
    ended = child.wait()
    if "the second signal" in ended.err and ended.status == 1:
        assert ended.out in (["ready"], ["ready", "second"])
    else:
        assert ended.out == ["ready", "second", "first"]
        assert ended.status in {130, 143}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("main", ["sleep", "has a handler"])
def test_a_signal_that_another_thread_gets(run_child, backend: str, main: str) -> None:
    """R25: it wakes the loop all the same, at any rung, and in the rest of its teardown."""
    ended = run_child(
        """
        import asyncio, logging, signal, sys, threading
        import anyio
        import lastly

        backend, main_does = sys.argv[1:]
        options = {"use_uvloop": True} if backend == "uvloop" else None
        fd = signal.set_wakeup_fd(-1)

        class Handler(logging.Handler):
            def emit(self, record):
                print(record.getMessage().splitlines()[0])
                logged.set()

        logging.getLogger("lastly").addHandler(Handler())
        logging.getLogger("lastly").setLevel(logging.INFO)
        logged, hanging, released = (threading.Event() for _ in range(3))

        def signals():
            hanging.wait()
            # Before it waits for the loop to be idle: to this thread, and to no other.
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            logged.wait()
            logged.clear()
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            logged.wait()
            released.set()

        async def hold():
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(released.wait)

        async def when_idle():
            await anyio.wait_all_tasks_blocked()
            hanging.set()

        async def main():
            if main_does == "has a handler" and backend != "trio":
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGUSR1, print)
            threading.Thread(target=signals).start()
            lastly.defer(hold)
            async with anyio.create_task_group() as group:
                group.start_soon(when_idle)
                await anyio.sleep_forever()

        try:
            name = "trio" if backend == "trio" else "asyncio"
            lastly.run(main, backend=name, backend_options=options)
        finally:
            assert signal.set_wakeup_fd(-1) == -1
        """,
        backend,
        main,
        expect=143,
    )
    assert ended.out == [
        "SIGTERM: shutting down",
        "SIGTERM, the second signal: forcing the shutdown",
    ]


def test_sigint_to_the_whole_process_group(start_child) -> None:
    """R25: as a terminal sends it; a child process of the program gets it as well."""
    child = start_child(
        """
        import subprocess, sys
        import anyio
        import lastly

        async def main():
            other = subprocess.Popen(
                [sys.executable, "-c", "print('other', flush=True); import time; time.sleep(60)"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            assert other.stdout.readline() == "other\\n"
            lastly.register(lambda: print("other ended with", other.wait()))
            print("ready")
            await anyio.sleep_forever()

        lastly.run(main)
        """,
    )
    child.wait_for("ready")
    os.killpg(child.process.pid, SIGINT)
    ended = child.wait()
    assert ended.out == ["ready", "other ended with -2"]
    assert ended.err == ""
    assert ended.status == 130


def test_the_second_signal_in_the_rest_of_the_loops_teardown(start_child) -> None:
    """R25: nothing ends a thread of the loop's executor, but it is told; the third kills."""
    child = start_child(
        """
        import asyncio, logging, signal, threading
        import lastly

        logging.basicConfig()

        async def main():
            asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
            lastly.register(print, "unwound", flush=True)

        lastly.run(main)
        """
    )
    child.wait_for("unwound")
    child.send(SIGTERM, SIGINT)
    child.wait_for("still waiting for the event loop to be torn down")
    child.send(SIGTERM)
    assert child.wait().status == -SIGTERM


def test_what_the_second_signal_finds_done(run_child) -> None:
    """R22: a callback that ends by itself after all is `forced` with nothing lost."""
    ended = run_child(
        """
        import signal
        import lastly

        async def callback():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

        async def main():
            lastly.register(callback)

        try:
            lastly.run(main)
        finally:
            print([str(o.status) for o in lastly.last_report().outcomes])
        """,
        expect=143,
    )
    assert ended.out == ["['ok']"]


def test_a_log_handler_that_hangs(run_child) -> None:
    """R22, R25: the second signal forces before it is logged."""
    ended = run_child(
        """
        import logging, os, signal, threading
        import anyio
        import lastly

        class Hangs(logging.Handler):
            def emit(self, record):
                threading.Event().wait()

        logging.getLogger("lastly").addHandler(Hangs())

        async def hang():
            signal.raise_signal(signal.SIGTERM)
            try:
                await anyio.sleep_forever()
            finally:
                os.write(1, b"cut")
                os._exit(7)

        async def main():
            lastly.register(hang)
            signal.raise_signal(signal.SIGTERM)
            await anyio.sleep_forever()

        lastly.run(main)
        """,
        expect=7,
    )
    assert ended.out == ["cut"]


def test_nothing_is_sent_once_a_second_signal_has_come() -> None:
    """R25: by then the kernel handles them, so that it would kill."""
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: handled.append(number))
    try:
        handlers = lastly._signals.Handlers(lambda *_: None, lambda: None)
        handlers.previous = {signal.SIGUSR1: before}
        handlers.received = [SIGTERM, SIGTERM]
        handlers.interrupt()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled == []


def test_the_names_of_signals_in_logs() -> None:
    """R25: a real-time signal has none, and is told by its number."""
    assert lastly._signals._name(SIGTERM) == "SIGTERM"
    assert lastly._signals._name(40) == "signal 40"
