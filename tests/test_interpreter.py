"""R16: interpreter exit, in real child processes."""

from __future__ import annotations

import sys

import pytest

import lastly
from lastly import _interpreter, _threads

THREADS_START_AT_EXIT = not (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 1)


def test_module_level_callbacks_run_at_exit(run_child) -> None:
    """R16: a script that never starts a loop: async ones on a fresh loop, sync ones on none."""
    ended = run_child(
        """
        import asyncio, sys, lastly

        @lastly.register
        def sync():
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                print("sync, no loop")

        @lastly.register
        async def names():
            print("name", bool(await asyncio.get_running_loop().getaddrinfo("localhost", 80)))

        @lastly.register
        async def threads():
            print("threads", await asyncio.gather(*(asyncio.to_thread(int, n) for n in "123")))

        @lastly.register
        async def fails_in_a_thread():
            try:
                await asyncio.to_thread(int, "x")
            except ValueError as exc:
                print(exc)

        @lastly.register
        async def processes():
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
            print("process", await process.wait())

        @lastly.register
        async def same_loop():
            print(loops == [asyncio.get_running_loop()])

        @lastly.register
        async def loop():
            loops.append(asyncio.get_running_loop())

        loops = []
        lastly.register(lambda: asyncio.run(same_as_ever()))

        async def same_as_ever():
            print("asyncio.run")

        print("main")
        """
    )
    assert ended.out == [
        "main",
        "asyncio.run",
        "True",
        "process 0",
        "invalid literal for int() with base 10: 'x'",
        "threads [1, 2, 3]",
        "name True",
        "sync, no loop",
    ]
    assert ended.err == ""


@pytest.mark.skipif(
    not THREADS_START_AT_EXIT, reason="3.12.0 and 3.12.1 start no thread at interpreter exit"
)
def test_anyio_at_exit(run_child) -> None:
    """R16: anyio.to_thread works there, too."""
    ended = run_child(
        """
        import anyio.to_thread, lastly

        @lastly.register
        async def close():
            print(await anyio.to_thread.run_sync(int, "7"))
        """
    )
    assert (ended.out, ended.err) == (["7"], "")


@pytest.mark.skipif(THREADS_START_AT_EXIT, reason="what 3.12.0 and 3.12.1 cannot do")
def test_anyio_at_exit_where_no_thread_can_start(run_child) -> None:
    """R16: on 3.12.0 and 3.12.1 anyio.to_thread fails clearly, and the others still run."""
    ended = run_child(
        """
        import anyio.to_thread, lastly

        lastly.defer(print, "bottom")

        @lastly.register
        async def close():
            print(await anyio.to_thread.run_sync(int, "7"))
        """
    )
    assert ended.out == ["bottom"]
    assert "can't create new thread at interpreter shutdown" in ended.err


def test_the_executor_works_inline_where_no_thread_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R16: where starting a thread fails, the function runs in the calling thread."""

    class NoThread:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

    executor = _threads.plain_threads()
    assert executor.submit(int, "7").result(60) == 7
    assert isinstance(executor.submit(sys.exit, 3).exception(60), SystemExit)
    monkeypatch.setattr(_threads, "Thread", NoThread)
    assert executor.submit(int, "8").result(0) == 8
    with pytest.raises(ValueError, match="invalid"):
        executor.submit(int, "x").result(0)


def test_a_loop_that_was_never_closed_is_used_at_exit(run_child) -> None:
    """R16: async callbacks run on their home loop if it is open, sync ones with none running."""
    ended = run_child(
        """
        import asyncio, lastly

        loop = asyncio.new_event_loop()

        @lastly.register
        async def module_level():
            print("home", asyncio.get_running_loop() is loop)

        async def main():
            @lastly.register
            def sync():
                try:
                    asyncio.get_running_loop()
                except RuntimeError:
                    print("sync, no loop")

            @lastly.register
            async def close():
                print("home", asyncio.get_running_loop() is loop)
                print("thread", await asyncio.to_thread(int, "1"))

            @lastly.register
            async def fails():
                raise KeyboardInterrupt

        loop.run_until_complete(main())
        """
    )
    assert ended.out == ["home True", "thread 1", "sync, no loop", "home False"]
    assert "KeyboardInterrupt" in ended.err


def test_after_the_non_daemon_threads_and_in_atexits_order(run_child) -> None:
    """R16: the unwind comes where atexit calls it: after the threads, in atexit's own order."""
    ended = run_child(
        """
        import atexit, threading, lastly

        atexit.register(print, "atexit, registered before")
        lastly.defer(print, "lastly")
        atexit.register(print, "atexit, registered after")
        thread = threading.Thread(target=lambda: (gate.wait(), print("thread")))
        gate = threading.Event()
        thread.start()
        print("main")
        gate.set()
        """
    )
    assert ended.out == [
        "main",
        "thread",
        "atexit, registered after",
        "lastly",
        "atexit, registered before",
    ]


def test_failures_at_exit_are_logged_and_the_final_one_is_handed_to_atexit(run_child) -> None:
    """R9 to R11, R16: each is logged, the rest run, and the interpreter prints the final one."""
    ended = run_child(
        """
        import sys, lastly

        lastly.defer(print, "bottom")

        @lastly.register
        async def two():
            raise ValueError("two")

        @lastly.register
        def one():
            raise KeyError("one")

        other = lastly.ShutdownManager()
        other.defer(print, "other")
        other.defer(sys.exit, 3)
        sys.exit(7)
        """,
        expect=7,
    )
    assert ended.out == ["other", "bottom"]
    assert ended.err.count("KeyError: 'one'") == 1
    assert ended.err.count("ValueError: two") == 2
    assert "Exception ignored in atexit callback" in ended.err
    assert "unwind_at_exit" in ended.err


def test_a_dropped_manager_is_unwound_at_exit(run_child) -> None:
    """R16: a manager that nobody refers to keeps its promise; an emptied one is let go."""
    ended = run_child(
        """
        import gc, weakref, lastly

        lastly.ShutdownManager().defer(print, "dropped")

        empty = lastly.ShutdownManager()
        handle = empty.defer(print, "never")
        assert handle.cancel()
        closed = lastly.ShutdownManager()
        closed.defer(print, "closed")
        closed.close()
        gone = [weakref.ref(empty), weakref.ref(closed)]
        del empty, closed, handle
        gc.collect()
        print([ref() for ref in gone])
        """
    )
    assert ended.out == ["closed", "[None, None]", "dropped"]


def test_a_manager_keeps_its_turn(run_child) -> None:
    """R16: the manager that was used first comes last, also if one of its callbacks was cancelled."""
    ended = run_child(
        """
        import lastly

        older, newer = lastly.ShutdownManager(), lastly.ShutdownManager()
        older.defer(print, "older")
        newer.defer(print, "newer")
        older.defer(print, "never").cancel()
        """
    )
    assert ended.out == ["newer", "older"]


def test_registering_while_the_interpreter_exits(run_child) -> None:
    """R2, R16: also what an atexit callback registers before lastly's turn comes is run."""
    ended = run_child(
        """
        import atexit, lastly

        lastly.defer(print, "early")
        atexit.register(lastly.register, print, "late")
        atexit.register(lastly.defer, print, "with a handle")

        @lastly.register
        def again():
            lastly.ShutdownManager().defer(print, "another manager, during the unwind")
        """
    )
    assert ended.out == ["late", "with a handle", "early", "another manager, during the unwind"]


def test_the_first_registration_while_the_interpreter_exits(run_child) -> None:
    """R16: it comes too late for atexit, but registering and closing by hand still work."""
    ended = run_child(
        """
        import atexit, lastly

        @atexit.register
        def late():
            @lastly.register
            async def close():
                print("closed")
            lastly.close()
        """
    )
    assert ended.out == ["closed"]
    assert "callback late.<locals>.close (" in ended.err
    assert ") was registered when the unwind at interpreter exit was over" in ended.err


def test_registering_when_the_unwind_at_exit_is_over(run_child) -> None:
    """R3, R16: nothing calls that any more, and the log says so; unless it is closed by hand."""
    ended = run_child(
        """
        import atexit, lastly

        @atexit.register
        def late():  # atexit calls it after lastly's own hook, which is newer
            lastly.defer(print, "never", name="one")
            manager = lastly.ShutdownManager()
            manager.defer(print, "by hand")
            manager.close()

        lastly.defer(print, "in time")
        """
    )
    assert ended.out == ["in time", "by hand"]
    assert ") was registered when the unwind at interpreter exit was over: it will not" in ended.err
    assert ended.err.startswith("callback one (")


def test_os_exit_runs_nothing(run_child) -> None:
    """R16: os._exit ends the process on the spot, as it does for atexit."""
    ended = run_child("import os, lastly; lastly.defer(print, 'never'); os._exit(3)", expect=3)
    assert ended.out == []


def test_a_daemon_thread_that_unwinds_is_waited_for(run_child) -> None:
    """R13, R16: the exit hook joins an unwind that another thread has begun."""
    ended = run_child(
        """
        import threading, lastly

        began, go_on = threading.Event(), threading.Event()

        def slow():
            began.set()
            go_on.wait()
            print("slow")

        lastly.defer(print, "bottom")
        lastly.register(slow)
        threading.Thread(target=lastly.close, daemon=True).start()
        began.wait()
        import atexit
        atexit.register(go_on.set)
        """
    )
    assert ended.out == ["slow", "bottom"]


def test_an_emptied_manager_hooks_in_again_if_something_is_registered_meanwhile() -> None:
    """R3, R16: the hook is forgotten with an empty stack, never with a full one."""
    manager = lastly.ShutdownManager()
    calls: list[str] = []

    class Racing(type(manager._stack)):
        """A stack on which another thread registers just after it was seen empty."""

        def __bool__(self) -> bool:
            seen = super().__bool__()
            if not seen and not calls:
                calls.append("raced")
                manager.defer(calls.append, "ran")
            return seen

    manager._stack = Racing()
    manager.defer(int).cancel()
    assert manager in _interpreter._managers
    manager.close()
    assert calls == ["raced", "ran"]


# -- before the threads ---------------------------------------------------------------

SQLITE = """
import asyncio, logging, os, sys, threading
import aiosqlite
import lastly

what = sys.argv[1]

class Handler(logging.Handler):
    def emit(self, record):
        os.write(1, (record.getMessage() + "\\n").encode())
        if what == "without":
            os._exit(3)

logging.getLogger("lastly").addHandler(Handler())
if what == "without":
    lastly.configure(slow_after=0.05)

async def main():
    global connection
    connection = await aiosqlite.connect(":memory:")
    cursor = await connection.execute("SELECT 7")
    print(*await cursor.fetchone(), flush=True)

asyncio.run(main())
lastly.defer(print, "after the threads")
lastly.defer(connection.close, name="close", before_threads=what == "with")
assert not all(t.daemon for t in threading.enumerate() if t is not threading.main_thread())
"""


def test_a_callback_that_ends_a_thread(run_child) -> None:
    """R16: an unclosed aiosqlite connection is closed, and the process ends."""
    ended = run_child(SQLITE, "with")
    assert (ended.out, ended.err) == (["7", "after the threads"], "")


@pytest.mark.skipif(
    not THREADS_START_AT_EXIT, reason="3.12.0 and 3.12.1 start no thread, hence no watch"
)
def test_the_log_when_a_thread_holds_the_exit(run_child) -> None:
    """R16, R23: without it, the log names the thread and what has yet to run."""
    ended = run_child(SQLITE, "without", expect=3)
    assert ended.out[:2] == [
        "7",
        "the interpreter is still waiting for 1 thread to end, for 0.1 s",
    ]
    said = "\n".join(ended.out[2:])
    assert "_connection_worker_thread" in said
    assert "close (" in said
    assert "print (" in said
    assert said.count(" has yet to run") == 2


def test_nothing_else_comes_before_the_threads(run_child) -> None:
    """R16: neither the exit of a context manager nor what has keyword arguments does."""
    ended = run_child(
        """
        import contextlib, threading, lastly

        @contextlib.contextmanager
        def connection():
            yield
            print("closed")

        def work():
            ends.wait()
            print("worker ends")

        ends = threading.Event()
        threading._register_atexit(ends.set)  # before lastly, and so after it
        lastly.enter_context(connection())
        lastly.register(print, "flushed", end=".\\n")
        threading.Thread(target=work).start()
        """
    )
    assert ended.out == ["worker ends", "flushed.", "closed"]


def test_before_threads_among_others(run_child) -> None:
    """R1, R16: those come first at interpreter exit, newest first; and nowhere else."""
    ended = run_child(
        """
        import threading, lastly

        gate, last = threading.Event(), threading.Event()
        threading._register_atexit(last.set)  # before lastly, and so after it
        other = lastly.ShutdownManager()
        for manager in lastly, other:
            for name in "12":
                manager.defer(print, name, before_threads=True)
                manager.defer(print, name, "afterwards")

        @lastly.defer(before_threads=True)
        async def threads():
            print([t.name for t in threading.enumerate() if t.name == "worker"])

        with lastly.ShutdownManager() as manager:
            manager.defer(print, "older", before_threads=True)
            manager.defer(print, "newer")

        def work():
            gate.wait()
            last.wait()
            print("worker ends")

        lastly.defer(gate.set, before_threads=True)
        threading.Thread(target=work, name="worker").start()
        lastly.defer(print, "gate opens", before_threads=True)
        """
    )
    assert ended.out == [
        *["newer", "older"],
        *["2", "1"],
        *["gate opens", "['worker']", "2", "1"],
        "worker ends",
        *["2 afterwards", "1 afterwards"] * 2,
    ]


def test_registering_before_the_threads(run_child) -> None:
    """R2, R16: also by a callback, and on a manager whose turn has been."""
    ended = run_child(
        """
        import queue, threading, lastly

        older, newer = lastly.ShutdownManager(), lastly.ShutdownManager()

        def start():
            work = queue.Queue()
            threading.Thread(target=work.get).start()
            newer.defer(work.put, None, before_threads=True)

        older.defer(start, before_threads=True)
        newer.defer(print, "newer", before_threads=True)
        """
    )
    assert ended.out == ["newer"]


def test_failures_before_the_threads(run_child) -> None:
    """R11, R16: the threads are waited for all the same, and the final one is raised at last."""
    ended = run_child(
        """
        import sys, threading, lastly

        def fails(kind):
            raise kind("before the threads")

        for kind in ValueError, SystemExit, KeyboardInterrupt:
            lastly.defer(fails, kind, before_threads=True)
        gate = threading.Event()
        lastly.defer(gate.set, before_threads=True)
        threading.Thread(target=lambda: (gate.wait(), print("thread"))).start()
        lastly.defer(print, "afterwards")
        """
    )
    assert ended.out == ["thread", "afterwards"]
    assert "Exception ignored in atexit callback" in ended.err
    assert "ValueError: before the threads" in ended.err.split("atexit callback")[1]


def test_a_signal_while_what_comes_before_the_threads_runs(run_child) -> None:
    """R16, R27: it is raised when that is done, and the wait for threads is broken off."""
    ended = run_child(
        """
        import os, signal, threading, lastly

        lastly.install_signal_handlers()

        @lastly.defer(before_threads=True)
        def callback():
            os.kill(os.getpid(), signal.SIGTERM)
            print("callback")

        gate = threading.Event()
        lastly.defer(gate.set)
        threading.Thread(target=gate.wait, args=[5]).start()  # no longer, if all else fails
        """
    )
    assert ended.out == ["callback"]
    assert "SystemExit: 143" in ended.err


def test_an_interpreter_without_the_hook(run_child) -> None:
    """R16: what is lost is said, once for each that asks for it; all still run at exit."""
    ended = run_child(
        """
        import concurrent.futures.thread, threading
        del threading._register_atexit
        import lastly

        lastly.defer(print, "still run")
        lastly.defer(print, "runs late", before_threads=True)
        """
    )
    assert ended.out == ["runs late", "still run"]
    assert ended.err.startswith("callback print (")
    assert "before_threads=True has no effect" in ended.err


def test_before_threads_is_the_first_thing_that_lastly_is_told(run_child) -> None:
    """R16: there is a hook as soon as somebody asks for it."""
    ended = run_child("import lastly; lastly.defer(print, 'ran', before_threads=True)")
    assert (ended.out, ended.err) == (["ran"], "")
