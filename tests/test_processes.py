"""R19: forks, multiprocessing and process pools, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

# Says who runs what: "parent" is the process that the test has started.
SAY = """
import os, sys

if __name__ == "__main__":
    os.environ.setdefault("PARENT", str(os.getpid()))

def say(*words):
    who = "parent" if os.getpid() == int(os.environ["PARENT"]) else "child"
    os.write(1, (" ".join(map(str, (who, *words))) + "\\n").encode())
"""

FORK = f"""{SAY}
import asyncio
import lastly

class Pool:
    async def close(self):
        say("closes the pool")

    def __del__(self):
        if sys is not None and not sys.is_finalizing():
            say("drops the pool")

@lastly.register
async def module():
    say("module")

lastly.defer(say, "sync, module")

def child():
    lastly.defer(say, "its own")
    if sys.argv[1] == "run":
        async def main():
            lastly.defer(say, "its own, in main")
            await asyncio.to_thread(say, "main")
        asyncio.run(main())
    if sys.argv[1] == "os._exit":
        os._exit(4)
    sys.exit(3)

async def main():
    lastly.register(Pool().close)
    lastly.defer(say, "sync, in main")
    if (pid := os.fork()) == 0:
        child()
    say("child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

if sys.argv[2] == "asyncio":
    asyncio.run(main())
elif sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    import trio
    trio.run(main)
"""

ITS_OWN = ["child its own", "child sync, module", "child module"]
PARENTS = [
    "parent sync, in main",
    "parent closes the pool",
    "parent drops the pool",
    "parent sync, module",
    "parent module",
]


EXIT = [*ITS_OWN, "parent child ended with 3"]
DIE = ["parent child ended with 4"]


@pytest.mark.parametrize(
    ("loop", "how", "childs"),
    [
        ("asyncio", "sys.exit", EXIT),
        ("uvloop", "sys.exit", EXIT),
        # With sys.exit the child would tear the run down, and with it the parent's epoll set.
        ("trio", "os._exit", DIE),
        ("asyncio", "os._exit", DIE),
        ("uvloop", "os._exit", DIE),
    ],
)
def test_os_fork(run_child, loop: str, how: str, childs: list[str]) -> None:
    """R19: the child keeps what is at home in the interpreter, and its own; os._exit runs none."""
    assert run_child(FORK, how, loop).out == [*childs, *PARENTS]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_os_fork_in_the_main_of_a_run(run_child, backend: str) -> None:
    """R19, R24: the child's status is its own, and its exit unwinds what it has kept."""
    ended = run_child(
        SAY
        + """
import lastly

lastly.defer(say, "module")

async def main():
    lastly.defer(say, "in main")
    if os.fork() == 0:
        lastly.defer(say, "its own")
        sys.exit(3)
    say("child ended with", os.waitstatus_to_exitcode(os.wait()[1]))
    os._exit(0)  # what they share is the child's to tear down, or the parent's; not both's

lastly.run(main, backend=sys.argv[1])
        """,
        backend,
        PYTHONWARNINGS="ignore",
    )
    assert ended.out == ["child its own", "child module", "parent child ended with 3"]


def test_a_loop_of_the_childs_own(run_child) -> None:
    """R14, R19: the parent's loop is not the child's; one that it makes is torn down as any."""
    ended = run_child(
        SAY
        + """
import asyncio
import lastly

lastly.defer(say, "module")

async def main():
    lastly.defer(say, "in main")
    await asyncio.to_thread(say, "main")

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
if os.fork() == 0:
    asyncio.run(main())
    sys.exit()
os.wait()
        """,
        PYTHONWARNINGS="ignore",
    )
    assert ended.out == [
        "parent main",
        *["child main", "child in main", "child module"],
        *["parent in main", "parent module"],
    ]


MULTIPROCESSING = f"""{SAY}
import asyncio, multiprocessing
from concurrent.futures import ProcessPoolExecutor
import lastly

@lastly.register
async def module():
    say("module")

async def close_pool():
    say("closes the pool")

def work(ending):
    async def close():
        await asyncio.sleep(0)
        say("async")
    lastly.register(close)
    lastly.defer(say, "sync")
    if ending == "raises":
        sys.stderr = None
        raise ValueError
    if ending == "exits":
        sys.exit(7)
    return ending

async def main():
    lastly.register(close_pool)
    context = multiprocessing.get_context(sys.argv[1])
    if sys.argv[2] == "pool":
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            loop = asyncio.get_running_loop()
            say("has", await loop.run_in_executor(pool, work, "a result"))
    else:
        process = context.Process(target=work, args=(sys.argv[2],))
        process.start()
        process.join()
        say("child ended with", process.exitcode)

if __name__ == "__main__":
    asyncio.run(main())
"""

CHILDS = ["child sync", "child async", "child module"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    ("ending", "before", "after"),
    [
        ("returns", [], ["parent child ended with 0"]),
        ("raises", [], ["parent child ended with 1"]),
        ("exits", [], ["parent child ended with 7"]),
        ("pool", ["parent has a result"], []),
    ],
)
def test_multiprocessing(
    run_child, method: str, ending: str, before: list[str], after: list[str]
) -> None:
    """R19: children and pool workers unwind when they end, whatever started them."""
    ended = run_child(MULTIPROCESSING, method, ending, PYTHONWARNINGS="ignore")
    parents = ["parent closes the pool", "parent module"]
    assert ended.out == [*before, *CHILDS, *after, *parents]
    assert ended.err == ""


def test_lastly_is_new_to_the_child(run_child) -> None:
    """R19: also where the parent has registered nothing, or has not even loaded it."""
    ended = run_child(
        SAY
        + """
import multiprocessing

def work():
    import lastly
    lastly.defer(say, "unwinds")

def fork_again():
    import lastly
    lastly.defer(say, "unwinds, too")
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()

process = multiprocessing.get_context("fork").Process(target=fork_again)
process.start()
process.join()
        """
    )
    # What a child has registered outside of loops is kept by its own children, in turn.
    assert ended.out == ["child unwinds", "child unwinds, too", "child unwinds, too"]


def test_a_failure_in_a_childs_unwind(run_child) -> None:
    """R10, R19: it is logged, and printed by who called; the exit status is the target's."""
    ended = run_child(
        """
        import multiprocessing
        import lastly

        def fail():
            raise LookupError("the pool was gone")

        def work():
            lastly.register(print, "unwound", flush=True)
            lastly.register(fail)

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        print(process.exitcode)
        """
    )
    assert ended.out == ["unwound", "0"]
    assert "callback fail (" in ended.err
    assert ended.err.count("LookupError: the pool was gone") == 2


def test_a_queue_can_be_used_in_callbacks(run_child) -> None:
    """R19: multiprocessing's own finalizers, which close its queues, come after."""
    ended = run_child(
        """
        import multiprocessing
        import lastly

        def work(queue):
            queue.put("from work")
            lastly.defer(queue.put, "from a callback")

        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=work, args=(queue,))
        process.start()
        print(queue.get(timeout=30))
        print(queue.get(timeout=30))
        process.join()
        """
    )
    assert ended.out == ["from work", "from a callback"]


def test_a_fork_beside_an_unwind_in_the_same_loop(run_child) -> None:
    """R13, R19: close() in the child does not wait for it; it is the parent's to go on with."""
    ended = run_child(
        SAY
        + """
import asyncio
import lastly

async def callback():
    await goes_on.wait()
    say("callback")

async def main():
    global goes_on
    goes_on = asyncio.Event()
    lastly.register(callback)
    unwind = asyncio.create_task(lastly.aclose())
    await asyncio.sleep(0)
    if os.fork() == 0:
        lastly.close()
        os._exit(0)
    assert os.wait()[1] == 0
    goes_on.set()
    await unwind

lastly.defer(say, "module")
asyncio.run(main())
        """,
        PYTHONWARNINGS="ignore",
    )
    assert ended.out == ["child module", "parent callback", "parent module"]


def test_a_fork_while_another_thread_unwinds(run_child) -> None:
    """R19: that unwind is the parent's; the child runs what it has kept, and waits for nobody."""
    ended = run_child(
        SAY
        + """
import threading
import lastly

began, goes_on = threading.Event(), threading.Event()

def callback():
    began.set()
    goes_on.wait()
    say("callback")

lastly.defer(say, "oldest")
lastly.register(callback)
thread = threading.Thread(target=lastly.close)
thread.start()
began.wait()
if os.fork() == 0:
    lastly.close()
    os._exit(len(lastly._unwind.in_progress))
status = os.wait()[1]
goes_on.set()
thread.join()
assert status == 0
        """,
        PYTHONWARNINGS="ignore",
    )
    assert ended.out == ["child oldest", "parent callback", "parent oldest"]


def test_a_fork_inside_of_a_callback(run_child) -> None:
    """R19, R23: both go on with the unwind, as with atexit; the child's is watched, too."""
    ended = run_child(
        SAY
        + """
import logging, threading
import lastly

lastly.configure(slow_after=0.01)
logged = threading.Event()

class Handler(logging.Handler):
    def emit(self, record):
        if "still waiting for fork (" in record.getMessage():
            logged.set()

logging.getLogger("lastly").addHandler(Handler())

@lastly.register
def oldest():
    say("oldest")

@lastly.register
def fork():
    if pid := os.fork():
        os.waitpid(pid, 0)
    logged.clear()
    logged.wait()

lastly.close()
        """,
        PYTHONWARNINGS="ignore",
    )
    assert ended.out == ["child oldest", "parent oldest"]


def test_forks_while_other_threads_are_busy_with_the_stack(run_child) -> None:
    """R3, R19: nothing of lastly's is left locked in a child, whenever it is forked."""
    ended = run_child(
        """
        import os, sys, threading
        import lastly

        sys.setswitchinterval(1e-6)
        ends = threading.Event()

        def busy():
            while not ends.is_set():
                manager = lastly.ShutdownManager()
                handles = [manager.defer(int) for _ in range(10)]
                handles[5].cancel()
                manager.unregister(str)
                manager.close()
                lastly.request_shutdown()
                lastly._ladder.signals.reset()

        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        lastly.defer(os.write, 1, b"kept ")
        for _ in range(50):
            if os.fork() == 0:
                lastly.defer(os.write, 1, b"own ")
                lastly.close()
                lastly._aside.settle()
                os._exit(0)
        for _ in range(50):
            assert os.wait()[1] == 0
        ends.set()
        for thread in threads:
            thread.join()
        """,
        PYTHONWARNINGS="ignore",
        COVERAGE_PROCESS_CONFIG="",  # it has a lock of its own
    )
    assert sorted(ended.out[0].split()) == ["kept"] * 51 + ["own"] * 50


def test_fork_while_another_thread_loads_logging(run_child) -> None:
    """R3, R19: the fork waits for it, and does not hold the lock that it needs."""
    ended = run_child(
        SAY
        + """
import threading
import lastly

assert "logging" not in sys.modules
half_loaded = threading.Event()
forks = threading.Event()
a_lock = threading.RLock

def lock_of_a_handler():
    if sys._getframe(1).f_code.co_name == "createLock":
        half_loaded.set()
        forks.wait()
    return a_lock()

threading.RLock = lock_of_a_handler
os.register_at_fork(before=forks.set)  # comes after logging's, and before lastly's
thread = threading.Thread(target=lastly.defer, args=(say, "unwound"))
thread.start()
half_loaded.wait()
if os.fork() == 0:
    lastly.close()
    os._exit(0)
assert os.wait()[1] == 0
thread.join()
        """,
        PYTHONWARNINGS="ignore",
    )
    assert ended.out == ["child unwound", "parent unwound"]


def test_fork_at_every_line_of_a_ladder_that_is_made(run_child) -> None:
    """R19: what was requested of the parent is forgotten in the child all the same."""
    ended = run_child(
        """
        import os, sys
        import lastly
        from lastly._ladder import Ladder

        forks = 0

        def fork(frame, event, arg):
            global forks
            if frame.f_code is not Ladder.__init__.__code__:
                return None
            if os.fork() == 0:
                os._exit(lastly._default._ladder.request is not None)
            assert os.wait()[1] == 0
            forks += 1
            return fork

        lastly.request_shutdown()
        sys.settrace(fork)
        lastly.ShutdownManager()
        sys.settrace(None)
        print(forks > 5)
        """,
        COVERAGE_PROCESS_CONFIG="",  # there is one tracer only
    )
    assert ended.out == ["True"]
    assert "Exception ignored" not in ended.err  # the rest is 3.12, which warns of fork


TERMINATED = f"""{SAY}
import multiprocessing, signal, time
import anyio
import lastly

def work(pipe):
    lastly.defer(say, "unwound")
    pipe.send("ready")
    time.sleep(600)

def terminate():
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(theirs,))
    process.start()
    ours.recv()
    process.terminate()
    process.join()
    say("child ended with", process.exitcode)

async def main():
    async with anyio.create_task_group() as group:
        group.start_soon(lastly.wait_requested)
        await anyio.wait_all_tasks_blocked()
        if sys.argv[1] == "requested":
            lastly.request_shutdown()
        terminate()
        group.cancel_scope.cancel()

if sys.argv[1] == "installed":
    lastly.install_signal_handlers()
    anyio.run(main)
else:
    lastly.run(main)
"""


@pytest.mark.parametrize(
    ("handlers", "out"),
    [
        ("run", ["parent child ended with -15"]),
        ("requested", ["parent child ended with -15"]),
        ("installed", ["child unwound", "parent child ended with 143"]),
    ],
)
def test_a_child_that_is_terminated(run_child, handlers: str, out: list[str]) -> None:
    """R19, R27: run's handlers are the parent's alone, and nobody waits in the child."""
    assert run_child(TERMINATED, handlers).out == out


def test_the_handlers_in_a_child(run_child) -> None:
    """R19, R27: those of run are put back to what they were; the others count anew."""
    ended = run_child(
        SAY
        + """
import signal
import lastly

lastly.install_signal_handlers(signal.SIGUSR1)
before = signal.getsignal(signal.SIGTERM)

async def main():
    try:
        signal.raise_signal(signal.SIGUSR1)
    except SystemExit:
        say("first")
    if os.fork() == 0:
        say(signal.getsignal(signal.SIGTERM) == before)
        try:
            signal.raise_signal(signal.SIGUSR1)
        except SystemExit:
            say("first of its own", lastly._signals._installed.received)
        os._exit(0)
    os.wait()

lastly.run(main)
        """,
        expect=138,
        PYTHONWARNINGS="ignore",
    )
    assert ended.out[-2:] == ["child True", f"child first of its own [{signal.SIGUSR1:d}]"]


def test_what_a_signal_handler_has_set_aside_is_the_parents(run_child) -> None:
    """R19: no child waits for a thread that it does not have."""
    ended = run_child(
        """
        import os, threading
        from lastly import _aside

        goes_on = threading.Event()
        _aside.aside(goes_on.wait)
        if os.fork() == 0:
            assert not _aside._going
            os._exit(5)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        goes_on.set()
        """,
        PYTHONWARNINGS="ignore",
    )
    assert ended.out == ["5"]


def test_a_child_runs_although_its_parent_was_asked_to_end(run_child) -> None:
    """R19, R28: a request is the parent's."""
    ended = run_child(
        SAY
        + """
import lastly

async def main():
    say("main")

manager = lastly.ShutdownManager()
manager.defer(say, "unwound")
manager.request_shutdown("of the parent's")
empty = lastly.ShutdownManager()
empty.request_shutdown("of the parent's")
lastly.request_shutdown()
if os.fork() == 0:
    lastly.run(main)
    assert empty._ladder.request is None
    manager.close()
    with manager:
        manager.defer(int)
    say(manager.last_report().reason)
    os._exit(0)
assert os.wait()[1] == 0
lastly.run(main)
        """,
        PYTHONWARNINGS="ignore",
    )
    assert ended.out == ["child main", "child unwound", "child scope exit", "parent unwound"]


GUNICORN = f"""{SAY}
import asyncio
import lastly

os.environ["PARENT"] = str(os.getpid())

@lastly.register
async def module():
    say("module")

async def open_pool():
    async def close_pool():
        say("closes the pool")
    lastly.register(close_pool)

asyncio.new_event_loop().run_until_complete(open_pool())

def app(environ, start_response):
    lastly.defer(say, "its own")
    start_response("200 OK", [])
    return [b"answered"]
"""


def test_gunicorn(tmp_path: Path) -> None:
    """R19: under --preload, what the master opened on a loop is closed by it, and only by it."""
    (tmp_path / "program.py").write_text(GUNICORN)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = ["-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [sys.executable, *command, "program:app"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PARENT"},
    )
    killer = threading.Timer(60, process.kill)
    killer.start()
    with process:
        booted, told = 0, ""
        while booted < 2 and (line := process.stderr.readline()):
            told += line
            booted += "Booting worker" in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}") as response:
            assert response.read() == b"answered"
        process.send_signal(signal.SIGTERM)
        out, err = process.stdout.read(), process.stderr.read()
    killer.cancel()
    assert process.returncode == 0, told + err
    assert sorted(out.splitlines()) == [
        "child its own",
        "child module",
        "child module",
        "parent closes the pool",
        "parent module",
    ]
