"""The tables of docs/web.md: `python tests/servers/page.py RESULTS` writes what the tests saw."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from servers.running import Case
from servers.table import ALONE, ENDINGS, FRAMEWORKS, POOLS, SERVERS, cases, is_typical

PATH = Path(__file__).parents[2] / "docs" / "web.md"
BEGIN, MIDDLE, END = "<!-- tables -->", "<!-- versions -->", "<!-- end -->"
PACKAGES = (
    "uvicorn hypercorn granian gunicorn uvicorn-worker daphne aiohttp fastapi starlette litestar "
    "quart django asyncpg sqlalchemy psycopg psycopg-pool aiosqlite redis httpx anyio"
).split()


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables(seen: dict[Case, tuple[str, int]]) -> str:
    pairs = {(case.framework, case.server): case.ending for case in reversed(seen)}
    columns = [*SERVERS, "uvicorn --reload"]
    frameworks = [
        [name, *(pairs[framework, server] for server in columns)]
        for framework, name in FRAMEWORKS.items()
    ]
    ends = {
        (case.server, case.ending): f"{how}; {status}"
        for case, (how, status) in seen.items()
        if is_typical(case)
    }
    endings = [
        [server, *(ends.get((server, ending), "-") for ending in ENDINGS)]
        for server in [*SERVERS, *ALONE]
    ]
    pools = [
        [pool, "; ".join(sorted({case.server for case in seen if case.pool == pool}))]
        for pool in POOLS
    ]
    return "\n".join(
        [
            table(["", *columns], frameworks),
            table(["", *ENDINGS], endings),
            table(["", "on"], pools),
        ]
    )


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} (not installed)")
    return f"Python {platform.python_version()} on {platform.system()}; {', '.join(found)}.\n"


def main() -> None:
    lines = Path(sys.argv[1]).read_text().splitlines()
    seen = {Case(*case): (how, status) for case, how, status in map(json.loads, lines)}
    assert set(seen) >= set(cases()), "not every case has passed"
    text = PATH.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    # In the order of the table, whichever of them was done first.
    found = tables({case: seen[case] for case in cases()})
    PATH.write_text(f"{before}{BEGIN}\n\n{found}\n{MIDDLE}\n\n{versions()}\n{END}{after}")
    print(f"wrote docs/{PATH.name}: {len(seen)} cases")


if __name__ == "__main__":
    main()
