"""The table: which cases there are, and what is known of each server's ways to end."""

from __future__ import annotations

from servers.running import Case

FRAMEWORKS = {
    "fastapi": "FastAPI",
    "starlette": "Starlette",
    "litestar": "Litestar",
    "quart": "Quart",
    "django": "Django",
    "asgi": "plain ASGI",
}
ENDINGS = [
    "SIGTERM",
    "SIGINT",
    "two SIGINTs",
    "start-up fails",
    "cleanup fails",
    "cleanup hangs",
    "in flight",
]
POOLS = ["asyncpg", "SQLAlchemy", "psycopg", "aiosqlite", "redis", "httpx", "aiohttp", "task group"]

SERVERS = [
    "uvicorn",
    "uvicorn --workers 2",
    "hypercorn",
    "granian",
    "gunicorn, uvicorn's worker",
    "gunicorn, its own worker",
]

# What unwinds everything, and the server's exit status.
ENDS: dict[str, dict[str, tuple[str, int]]] = {
    "uvicorn": {
        **dict.fromkeys(ENDINGS, ("lifespan", -15)),
        "SIGINT": ("lifespan", 0),
        "two SIGINTs": ("lifespan, cancelled", 0),
        "start-up fails": ("lifespan", 3),
    },
    "uvicorn --workers 2": dict.fromkeys(ENDINGS, ("lifespan", 0)),
    "uvicorn --reload": {"reload": ("lifespan", 0)},
    "hypercorn": dict.fromkeys(ENDINGS, ("lifespan", 0)),
    "granian": {
        **dict.fromkeys(ENDINGS, ("lifespan", 0)),
        "start-up fails": ("lifespan", 1),
    },
    "gunicorn, uvicorn's worker": {
        **dict.fromkeys(ENDINGS, ("lifespan", 0)),
        "two SIGINTs": ("lifespan, cancelled, forced", 0),
        "start-up fails": ("lifespan", 3),
    },
    "gunicorn, its own worker": {
        **dict.fromkeys(ENDINGS, ("lifespan", 0)),
        "SIGINT": ("lifespan, cancelled", 0),
        "two SIGINTs": ("lifespan, cancelled", 0),
        "start-up fails": ("lifespan", 3),
    },
    "daphne": {e: ("interpreter exit", 0) for e in ENDINGS if e != "start-up fails"},
    "aiohttp": {
        **dict.fromkeys(ENDINGS, ("lifespan", 0)),
        "two SIGINTs": ("loop teardown", 1),
        "start-up fails": ("lifespan", 1),
        "cleanup fails": ("lifespan", 1),
        "cleanup hangs": ("lifespan", 1),
    },
}


def expected(case: Case) -> tuple[str, int]:
    how, status = ENDS[case.server][case.ending]
    if case.framework in ("asgi", "django_alone") or "quart" in case.framework:
        # A Quart that is cancelled leaves its generators to the loop's teardown.
        cancelled = "loop teardown" if "quart" in case.framework else "lifespan"
        how = how.replace("lifespan, cancelled", cancelled)
    return how, status


def is_typical(case: Case) -> bool:
    """Tell whether this framework's lifespan ends as the server wants it."""
    return expected(case) == ENDS[case.server][case.ending]


# Django on daphne, which knows no lifespan, opens its pool with the first request; aiohttp has
# a server of its own.
ALONE = {"daphne": "django_alone", "aiohttp": "aiohttp"}


def cases() -> list[Case]:
    """Return each framework on each server once, and each ending on each server."""
    found: list[Case] = []
    for row, framework in enumerate(FRAMEWORKS):
        for column, server in enumerate(SERVERS):
            ending = ENDINGS[(row + column) % len(ENDINGS)]
            if framework == "asgi" and ending == "start-up fails":  # it has no start-up
                ending = ENDINGS[(row + column + 1) % len(ENDINGS)]
            found.append(case(framework, server, ending, len(found)))
        found.append(case(framework, "uvicorn --reload", "reload", len(found)))
    found += [
        case(framework, server, ending, number)
        for server, framework in ALONE.items()
        for number, ending in enumerate(ENDINGS)
        if (server, ending) != ("daphne", "start-up fails")
    ]
    for server in SERVERS:
        seen = {case.ending for case in found if case.server == server and is_typical(case)}
        missing = [ending for ending in ENDINGS if ending not in seen]
        found += [case("starlette", server, ending, len(found)) for ending in missing]
    # The shape that has no start-up code.
    for framework in ("fastapi", "starlette", "litestar", "quart"):
        found.append(case(f"plain_{framework}", "uvicorn", "in flight", len(found)))
    found.append(case("plain_aiohttp", "aiohttp", "in flight", len(found)))
    return found


def case(framework: str, server: str, ending: str, number: int) -> Case:
    pool = POOLS[number % len(POOLS)]
    if pool == "task group" and (framework in ("asgi", "django_alone") or "plain" in framework):
        pool = "asyncpg"  # there is no start-up that could hold one open
    if "loop teardown" in expected(Case(framework, server, ending))[0]:
        pool = "asyncpg"  # others cannot close there (test_limits.py)
    handlers = (server, ending) == ("gunicorn, uvicorn's worker", "two SIGINTs")
    return Case(framework, server, ending, pool, handlers)


# What runs by default: each server and each framework, the quick endings.
FEW = [
    Case("fastapi", "uvicorn", "in flight"),
    Case("starlette", "uvicorn", "two SIGINTs", "SQLAlchemy"),
    Case("litestar", "uvicorn --workers 2", "SIGTERM", "aiosqlite"),
    Case("starlette", "uvicorn --reload", "reload", "httpx"),
    Case("quart", "hypercorn", "in flight", "psycopg"),
    Case("starlette", "granian", "cleanup fails", "task group"),
    Case("django", "gunicorn, uvicorn's worker", "in flight", "aiohttp"),
    Case("asgi", "gunicorn, its own worker", "SIGINT"),
    Case("django_alone", "daphne", "SIGTERM"),
    Case("aiohttp", "aiohttp", "start-up fails", "task group"),
]
