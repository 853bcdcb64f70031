"""`install_signal_handlers`: programs with another runner, or none, that get real signals."""

from __future__ import annotations

import re
import signal
import sys
import threading
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1

import pytest

import lastly

SYNC = """
import atexit, os, queue, select, signal, socket, subprocess, sys, threading, time
import lastly

does, *which = sys.argv[1:]
lastly.install_signal_handlers(*(getattr(signal, name) for name in which))
lastly.install_signal_handlers(*(getattr(signal, name) for name in which))  # changes nothing
atexit.register(print, "atexit")

@lastly.register
async def asynchronous():
    print("async")

lastly.register(print, "sync")

def say_when_blocked():
    # A signal just before a call blocks would not interrupt that.
    seen = 0
    while seen < 5:
        time.sleep(0.005)
        with open(f"/proc/self/task/{os.getpid()}/stat") as stat:
            seen = seen + 1 if stat.read().rpartition(")")[2].split()[0] == "S" else 0
    print("ready")

class Resource:
    def __enter__(self):
        threading.Thread(target=say_when_blocked, daemon=True).start()
    def __exit__(self, *exc):
        print("left", exc[0].__name__)

def forever():
    match does:
        case "time.sleep":
            time.sleep(600)
        case "queue.get":
            queue.Queue().get()
        case "select":
            select.select([sys.stdin], [], [])
        case "event":
            threading.Event().wait()
        case "accept":
            socket.create_server(("127.0.0.1", 0)).accept()
        case "wait":
            subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL).wait()
        case "input":
            sys.stdin.readline()

with Resource():
    forever()
"""

BLOCKS = ["time.sleep", "queue.get", "select", "event", "accept", "input"]


@pytest.mark.parametrize("does", BLOCKS)
def test_a_sync_program_that_blocks(start_child, does: str) -> None:
    """R27: SIGTERM becomes a normal exit: its `finally`s run, all unwinds, 143, no traceback."""
    child = start_child(SYNC, does)
    child.wait_for("ready")
    child.send(SIGTERM)
    ended = child.wait()
    assert ended.out == ["ready", "left SystemExit", "sync", "async", "atexit"]
    assert (ended.err, ended.status) == ("", 143)


def test_ctrl_c_is_still_pythons(start_child) -> None:
    """R27: the handler that was there raises KeyboardInterrupt, and Python ends as it does."""
    child = start_child(SYNC, "time.sleep")
    child.wait_for("ready")
    child.send(SIGINT)
    ended = child.wait()
    assert ended.out == ["ready", "left KeyboardInterrupt", "sync", "async", "atexit"]
    # Python would die of it in the end, but forgets that when anything is compiled meanwhile.
    assert ended.status in {-SIGINT, 1}


@pytest.mark.parametrize(("number", "status"), [(SIGHUP, 129), (SIGUSR1, 138)])
def test_other_signals(start_child, number: signal.Signals, status: int) -> None:
    """R27: whichever are given, and those alone."""
    child = start_child(SYNC, "time.sleep", number.name)
    child.wait_for("ready")
    child.send(number)
    ended = child.wait()
    assert ended.out[1:] == ["left SystemExit", "sync", "async", "atexit"]
    assert ended.status == status


ASYNC = """
import asyncio, os, signal, sys, threading, time
import lastly

runner, does = sys.argv[1:]
if does != "inside":
    lastly.install_signal_handlers()

@lastly.register
async def module():
    print("module")

async def main():
    if does == "inside":
        lastly.install_signal_handlers()

    @lastly.register
    async def in_loop():
        await asyncio.to_thread(print, "in loop")

    asyncio.get_running_loop().call_soon(print, "ready")
    try:
        if does == "wait":
            print("reason:", await lastly.wait_requested())
        elif does == "busy":
            print("ready", flush=True)
            while True:
                pass
        else:
            await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0)
        print("finally")

if runner == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
print("after")
"""


@pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
@pytest.mark.parametrize("does", ["before", "inside"])
def test_asyncio_run(start_child, runner: str, does: str) -> None:
    """R14, R27: main's `finally` awaits, the loop unwinds in its teardown, the rest at exit."""
    child = start_child(ASYNC, runner, does)
    child.wait_for("ready")
    child.send(SIGTERM)
    ended = child.wait()
    assert ended.out == ["ready", "finally", "in loop", "module"]
    assert (ended.err, ended.status) == ("", 143)


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_asyncio_run_with_a_main_that_waits(start_child, number: signal.Signals) -> None:
    """R25, R27: it is woken, and returns by itself; nothing is raised."""
    child = start_child(ASYNC, "asyncio", "wait")
    child.wait_for("ready")
    child.send(number)
    ended = child.wait()
    assert ended.out[1:] == [
        f"reason: signal: {number.name}",
        "finally",
        "in loop",
        "after",
        "module",
    ]
    assert ended.status == 0


def test_ctrl_c_under_asyncio_run(start_child) -> None:
    """R27: raised by the loop, so that asyncio cancels main, as it does by itself."""
    child = start_child(ASYNC, "asyncio", "before")
    child.wait_for("ready")
    child.send(SIGINT)
    ended = child.wait()
    assert ended.out == ["ready", "finally", "in loop", "module"]
    assert ended.status in {-SIGINT, 1}


def test_the_second_signal_under_asyncio_run(start_child) -> None:
    """R25, R27: a main that never awaits is left where it is; the rest is forced."""
    child = start_child(ASYNC, "asyncio", "busy", PYTHONWARNINGS="ignore")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.send(SIGINT)
    ended = child.wait()
    assert "the second signal: forcing the shutdown\nmain is left, at " in ended.err
    assert ended.status in {1, 143, -SIGINT}


LAST_STEP = """
import asyncio, signal, sys
import lastly

runner, does, *again = sys.argv[1:]
lastly.install_signal_handlers()
lastly.register(print, "module")

async def generate():
    try:
        while True:
            yield
    finally:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        print("generator closed")

async def slow():
    for _ in range(5):
        await asyncio.sleep(0)
    print("in loop")

generator = generate()

def send():
    for _ in (1, *again):
        signal.raise_signal(signal.SIGTERM)

async def wake(event, last):
    event.set()  # main goes on before whatever is called soon from here on
    if does in ("while another is at work", "as it unwinds"):
        send()
    if does == "beside it":
        loop = asyncio.get_running_loop()
        loop.call_soon(send)
        loop.call_soon(last.set_result, None)

async def main():
    lastly.register(slow)
    await anext(generator)
    event, last = asyncio.Event(), asyncio.get_running_loop().create_future()
    waker = asyncio.create_task(wake(event, last))
    await event.wait()
    if does == "in it":
        send()
    elif does == "between":
        asyncio.get_running_loop().call_soon(send)
    elif does == "as it unwinds":
        await lastly.aclose()
    elif does == "beside it":
        await last
    await waker

if runner == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
print("after")
"""


@pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "does", ["in it", "while another is at work", "between", "as it unwinds", "beside it"]
)
def test_a_signal_in_the_last_step_of_main(run_child, runner: str, does: str) -> None:
    """R14, R27: the teardown that follows is whole: all is closed, also generators, and 143.

    uvicorn sends itself the signals that it has got when all is done.
    """
    ended = run_child(LAST_STEP, runner, does, expect=143)
    assert sorted(ended.out) == ["generator closed", "in loop", "module"]
    assert ended.err == ""


@pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
@pytest.mark.parametrize("does", ["in it", "while another is at work"])
def test_two_signals_in_the_last_step_of_main(run_child, runner: str, does: str) -> None:
    """R14, R25, R27: what is left is forced, the generators are closed, and it is 143."""
    ended = run_child(LAST_STEP, runner, does, "again", expect=143)
    assert sorted(ended.out) == ["generator closed", "module"]
    assert "SIGTERM, the second signal: forcing the shutdown" in ended.err
    assert "RuntimeError" not in ended.err
    assert does != "in it" or "never" not in ended.err


SWALLOWED = """
import asyncio, signal, sys
import lastly

lastly.install_signal_handlers()

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

async def main():
    lastly.register(print, "closed")
    if sys.argv[1] == "a finalizer":
        Finalized()
        await asyncio.sleep(60)
    else:
        async with asyncio.TaskGroup():
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["a finalizer", "a task group"])
def test_a_signal_where_an_exception_would_get_lost(run_child, where: str) -> None:
    """R27: it is raised by the loop, whatever main is just at."""
    ended = run_child(SWALLOWED, where, expect=143)
    assert (ended.out, ended.err) == (["closed"], "")


AT_THE_EDGE = """
import signal, sys
import lastly, uvloop

lastly.install_signal_handlers()
lastly.register(print, "module")

def trace(frame, event, arg):
    if frame.f_code.co_name == "_real_close" and frame.f_back.f_back.f_code.co_name == "run":
        sys.setprofile(None)  # uvloop closes the sockets that it has heard signals by
        signal.raise_signal(signal.SIGTERM)

async def close():
    print("never")

async def main():
    lastly.register(close)
    sys.setprofile(trace)

uvloop.run(main())
"""


def test_a_signal_at_the_edge_of_a_run_of_uvloops(run_child) -> None:
    """R9, R17, R27: the loop is broken then, and what is at home there fails; nothing hangs."""
    ended = run_child(AT_THE_EDGE, expect=1)
    assert ended.out == ["module"]
    assert "this event loop is already running" in ended.err


FOREVER = """
import asyncio, signal
import lastly

lastly.install_signal_handlers()
loop = asyncio.new_event_loop()
loop.call_soon(lastly.register, print, "in loop")
loop.call_soon(signal.raise_signal, signal.SIGTERM)
try:
    loop.run_forever()
finally:
    loop.close()
"""


def test_a_loop_that_runs_forever(run_child) -> None:
    """R27: it has no main; the exit comes out of `run_forever`."""
    ended = run_child(FOREVER, expect=143)
    assert (ended.out, ended.err) == (["in loop"], "")


UVICORN = """
import atexit, os, signal, sys, threading
import lastly
import uvicorn

if sys.argv[1] == "with":
    lastly.install_signal_handlers()
atexit.register(print, "atexit")
lastly.register(print, "module")

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    threading.Thread(target=lambda: (serving.wait(), print("serving", flush=True))).start()
    await receive()
    print("lifespan ended")
    await send({"type": "lifespan.shutdown.complete"})

serving = threading.Event()
class Server(uvicorn.Server):
    async def main_loop(self):
        serving.set()
        await super().main_loop()

Server(uvicorn.Config(app, port=0, log_level="warning")).run()
"""


@pytest.mark.parametrize(
    ("handlers", "out", "status"),
    [("with", ["module", "atexit"], 143), ("without", [], -SIGTERM)],
)
def test_uvicorn(start_child, handlers: str, out: list[str], status: int) -> None:
    """R27: it kills its process with the signal in the end; with the handlers that is no death."""
    child = start_child(UVICORN, handlers)
    child.wait_for("serving")
    child.send(SIGTERM)
    ended = child.wait()
    assert ended.out == ["serving", "lifespan ended", *out]
    assert ended.status == status


CLOSING = """
import asyncio, signal, sys
import lastly

lastly.install_signal_handlers()
how, fails = sys.argv[1:]

def callback(name):
    if name == "second":
        signal.raise_signal(signal.SIGTERM)
        if fails == "fails":
            raise ValueError
    print(name)

manager = lastly.ShutdownManager()
for name in "third", "second", "first":
    manager.defer(callback, name)

async def main():
    await manager.aclose()

try:
    manager.close() if how == "close" else asyncio.run(main())
    print("went on")
except SystemExit as exit_:
    print("exit", exit_.code, len(getattr(exit_, "__notes__", [])))
    raise
"""


@pytest.mark.parametrize("how", ["close", "aclose"])
@pytest.mark.parametrize(("fails", "second"), [("-", ["second"]), ("fails", [])])
def test_a_signal_in_the_middle_of_an_unwind(
    run_child, how: str, fails: str, second: list[str]
) -> None:
    """R9, R12, R27: nothing is raised into a callback; it comes out when all have run."""
    ended = run_child(CLOSING, how, fails, expect=143)
    assert ended.out == ["first", *second, "third", f"exit 143 {1 - len(second)}"]


AT_EXIT = """
import asyncio, logging, signal, sys
import lastly

logging.basicConfig()
lastly.install_signal_handlers()

async def oldest():
    print("oldest")

async def hangs():
    for _ in range(int(sys.argv[1])):
        signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(600 if sys.argv[1] == "2" else 0)
    print("ended by itself")

lastly.register(oldest)
lastly.register(print, "sync")
lastly.register(hangs)
"""


def test_signals_while_the_interpreter_exits(run_child) -> None:
    """R22, R27: the first leaves the unwind alone; the second forces it, and is logged."""
    assert run_child(AT_EXIT, "1").out == ["ended by itself", "sync", "oldest"]
    ended = run_child(AT_EXIT, "2")
    assert ended.out == ["sync", "oldest"]
    assert "SIGTERM, the second signal: forcing the shutdown" in ended.err
    assert "was cancelled by a second signal" in ended.err


FINALLY = """
import asyncio, logging, queue, signal, sys, time
import lastly

logging.basicConfig()
lastly.install_signal_handlers()

@lastly.register
async def needs_time():
    print("called")
    await asyncio.sleep(600)

lastly.register(print, "sync")
try:
    print("ready", flush=True)
    while True:  # not in one piece: see above
        time.sleep(0.01)
finally:
    if sys.argv[1] == "3":
        lastly.register(lambda: (print("blocking", flush=True), queue.SimpleQueue().get()))
    print("closing down", flush=True)
    while True:
        time.sleep(0.01)
"""


def test_the_second_signal_ends_a_finally(start_child) -> None:
    """R25, R27: it is raised once more, told where it was, and the unwind is forced."""
    child = start_child(FINALLY, "2")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("closing down")
    child.send(SIGTERM)
    ended = child.wait()
    assert ended.out == ["ready", "closing down", "sync", "called"]
    assert "forcing the shutdown\n" in ended.err
    assert re.search(r"main is left, at .*program0\.py:\d+ in <module>", ended.err)
    assert ended.status == 143


def test_the_third_signal_kills(start_child) -> None:
    """R25, R27: as under `run`."""
    child = start_child(FINALLY, "3")
    child.wait_for("ready")
    child.send(SIGTERM)
    child.wait_for("closing down")
    child.send(SIGTERM)
    child.wait_for("blocking")
    child.send(SIGTERM)
    ended = child.wait()
    assert ended.out[-1] == "blocking"
    assert ended.status == -SIGTERM


def test_the_wait_for_threads_is_broken_off(start_child) -> None:
    """R16, R27: what was going to be waited for would have died of the signal, too."""
    child = start_child(
        """
        import threading
        import lastly

        lastly.install_signal_handlers()
        lastly.register(print, "unwound", flush=True)
        event = threading.Event()
        thread = threading.Thread(target=event.wait)
        thread.start()
        lastly.register(event.set)
        threading._register_atexit(print, "waiting", flush=True)
        """
    )
    child.wait_for("waiting")
    child.send(SIGTERM)
    ended = child.wait()
    assert ended.out == ["waiting", "unwound"]
    assert ended.status == 0  # that of main, which had ended


@pytest.mark.parametrize(
    ("handler", "out"),
    [
        ("print('mine')", ["mine", "went on"]),
        ("raise LookupError", ["raised"]),
        ("sys.exit(7)", ["exit 7"]),
    ],
)
def test_the_handler_that_was_there(run_child, handler: str, out: list[str]) -> None:
    """R27: it is called instead, and what it raises is raised."""
    ended = run_child(
        f"""
        import signal, sys
        import lastly

        def mine(number, frame):
            {handler}

        signal.signal(signal.SIGTERM, mine)
        lastly.install_signal_handlers()
        try:
            signal.raise_signal(signal.SIGTERM)
            print("went on")
        except LookupError:
            print("raised")
        except SystemExit as exit_:
            print("exit", exit_.code)
        """
    )
    assert ended.out == out


def test_a_handler_that_calls_ours(run_child) -> None:
    """R27: to install again on top of it changes nothing; one signal is one rung."""
    ended = run_child(
        """
        import os, signal
        import lastly

        lastly.install_signal_handlers()
        ours = signal.getsignal(signal.SIGTERM)

        def mine(number, frame):
            print("mine")
            ours(number, frame)

        signal.signal(signal.SIGTERM, mine)
        lastly.install_signal_handlers()
        lastly.defer(print, "closed")
        os.kill(os.getpid(), signal.SIGTERM)
        """,
        expect=143,
    )
    assert ended.out == ["mine", "closed"]


@pytest.mark.parametrize("how", ["close", "aclose"])
def test_what_such_a_handler_raises_in_the_middle_of_an_unwind(run_child, how: str) -> None:
    """R9, R27: whatever it is, it comes out when all have run."""
    ended = run_child(
        """
        import asyncio, signal, sys
        import lastly

        class Stop(Exception): ...

        def mine(number, frame):
            raise Stop

        signal.signal(signal.SIGTERM, mine)
        lastly.install_signal_handlers()
        manager = lastly.ShutdownManager()

        async def callback():
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(0)
            print("callback")

        async def main():
            await manager.aclose()

        manager.defer(print, "oldest")
        manager.register(callback)
        try:
            manager.close() if sys.argv[1] == "close" else asyncio.run(main())
        except Stop:
            print("stopped")
        """,
        how,
    )
    assert ended.out == ["callback", "oldest", "stopped"]


def test_a_signal_before_run_whose_exit_was_caught(run_child) -> None:
    """R25, R26: main is not begun, and the status is that of the signal."""
    ended = run_child(
        """
        import os, signal
        import lastly

        lastly.install_signal_handlers()
        lastly.defer(print, "closed")
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            print("caught")

        async def main():
            print("main")

        lastly.run(main)
        """,
        expect=143,
    )
    assert ended.out == ["caught", "closed"]


def test_what_is_ignored_stays_so(run_child) -> None:
    """R27: as nohup and a shell's `trap ""` ask for."""
    ended = run_child(
        """
        import signal, subprocess, sys
        import lastly

        if sys.argv[1:] == []:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            sys.exit(subprocess.run([sys.executable, __file__, "child"]).returncode)
        lastly.install_signal_handlers()
        signal.raise_signal(signal.SIGTERM)
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)
        """
    )
    assert ended.out == ["True"]


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_run_has_handlers_of_its_own(run_child, number: signal.Signals) -> None:
    """R25, R27: the same signal is counted once, by run; the others are back after it."""
    ended = run_child(
        """
        import signal, sys
        import anyio
        import lastly

        lastly.install_signal_handlers()
        before = signal.getsignal(signal.SIGTERM)

        async def main():
            lastly.install_signal_handlers()
            lastly.register(anyio.sleep, 0.001)
            signal.raise_signal(getattr(signal, sys.argv[1]))
            await anyio.sleep(600)

        try:
            lastly.run(main)
        finally:
            print(lastly.last_report())
            print(signal.getsignal(signal.SIGTERM) == before)
        """,
        number.name,
        expect=128 + number,
    )
    assert ended.out[0].endswith("1 callback, all ok")
    assert ended.out[-1] == "True"


TRIO = """
import signal, sys
import lastly
import trio

if sys.argv[2] == "before":
    lastly.install_signal_handlers()
lastly.register(print, "module")

@trio.lowlevel.enable_ki_protection
def in_trio():
    signal.raise_signal(signal.SIGTERM)

async def main():
    if sys.argv[2] == "inside":
        lastly.install_signal_handlers()
    try:
        if sys.argv[1] == "SIGINT in main":
            signal.raise_signal(signal.SIGINT)
        if sys.argv[1] == "SIGTERM in main":
            signal.raise_signal(signal.SIGTERM)
        if sys.argv[1] == "SIGTERM in trio":
            in_trio()
        print("ready", flush=True)
        await trio.sleep_forever()
    finally:
        print("finally")

trio.run(main)
"""


@pytest.mark.parametrize(
    ("does", "where", "status"),
    [
        ("SIGTERM", "before", {1, 143}),  # 143 if it comes in the middle of main's own code
        ("SIGTERM in main", "before", {143}),
        ("SIGTERM in trio", "before", {1}),
        ("SIGINT in main", "inside", {-SIGINT, 1}),
    ],
)
def test_a_trio_run_of_ones_own(start_child, does: str, where: str, status: set[int]) -> None:
    """R27: its `finally`s run, and all unwinds at exit, though the status may be just 1."""
    child = start_child(TRIO, does, where)
    if does == "SIGTERM":
        child.wait_for("ready")
        child.send(SIGTERM)
    ended = child.wait()
    assert ended.out[-2:] == ["finally", "module"]
    assert ended.status in status
    assert ("ready" in ended.out) is not does.endswith("in main")


def test_it_is_for_the_main_thread() -> None:
    """R27, R32: nobody else can install handlers, and says so."""
    raised: list[BaseException] = []

    def install() -> None:
        try:
            lastly.install_signal_handlers()
        except RuntimeError as exc:
            raised.append(exc)

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert "has to be called in the main thread" in str(raised[0])


def test_what_it_refuses() -> None:
    """R27, R32: before it installs anything."""
    before = signal.getsignal(SIGTERM)
    with pytest.raises(TypeError, match="'TERM' is no signal; write one like signal.SIGTERM"):
        lastly.install_signal_handlers(SIGTERM, "TERM")
    with pytest.raises(ValueError, match="no signal that a process can handle"):
        lastly.install_signal_handlers(SIGTERM, signal.SIGSTOP)
    assert signal.getsignal(SIGTERM) is before


INJECTED = """
import os, signal, sys
import asyncio
import lastly

package = os.path.dirname(lastly.__file__)
lines = 0

def trace(frame, event, arg):
    global lines
    if not frame.f_code.co_filename.startswith(package):
        return None
    if event == "line":
        lines += 1
        if lines == moment:
            signal.raise_signal(signal.SIGTERM)
    return trace

def program(ran):
    manager = lastly.ShutdownManager()
    lastly.install_signal_handlers()

    async def asynchronous(name):
        await asyncio.sleep(0)
        ran.append(name)

    sys.settrace(trace)
    for name in "ab":
        manager.defer(ran.append, name + "1")
        manager.defer(asynchronous, name + "2")
    manager.close()

# At every so many lines that lastly runs; each in a child, for a signal counts only once.
moment, first, step = 0, *map(int, sys.argv[1:])
for moment in range(first, 10**6, step):
    if os.fork():
        if os.waitstatus_to_exitcode(os.wait()[1]) == 9:
            break
        continue
    ran, code = [], 9  # 9: there was no such line
    try:
        program(ran)
    except SystemExit as exit_:
        code = exit_.code
    sys.settrace(None)
    lastly._interpreter.unwind_at_exit()
    every = ["b2", "b1", "a2", "a1"]
    if ran != every[4 - len(ran):] or (code == 143 and lastly._unwind.in_progress):
        print("at line", moment, "it ran", ran, flush=True)
    os._exit(code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it forks")
def test_a_signal_at_any_line(run_child) -> None:
    """R3, R9, R27: wherever in lastly it comes, what was registered runs once, in order."""
    assert run_child(INJECTED, "1", "17", PYTHONWARNINGS="ignore").out == []
