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


def test_registering_while_the_interpreter_exits(run_child) -> None:
    """R2, R16: also what an atexit callback registers before lastly's turn comes is run."""
    ended = run_child(
        """
        import atexit, lastly

        lastly.defer(print, "early")
        atexit.register(lastly.register, print, "late")

        @lastly.register
        def again():
            lastly.ShutdownManager().defer(print, "another manager, during the unwind")
        """
    )
    assert ended.out == ["late", "early", "another manager, during the unwind"]


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
    assert (ended.out, ended.err) == (["closed"], "")


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
    assert manager._exit_interpreter in _interpreter._callbacks
    manager.close()
    assert calls == ["raced", "ran"]
