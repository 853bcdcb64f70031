"""Change the code in one small place at a time, and see whether a test notices.

`python3 dev.py mutate [MINUTES] [MODULE...]` goes on where it was stopped: what it has seen of a
module stays in .mutants/. When that module or one of its tests has changed it begins anew, with the
test that noticed a change the last time. It fails if a change has survived that tests/mutants.md
does not explain.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from difflib import unified_diff
from functools import cache
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import anyio  # noqa: F401 - for the forks
import hypothesis  # noqa: F401
import pytest
import trio  # noqa: F401
import trustme  # noqa: F401
import uvloop  # noqa: F401
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".mutants"
HANGS = 10  # seconds, for one test
LIMIT = 120  # seconds, for the tests of one change
MEMORY = 8 << 30  # bytes, of addresses; a change may also make them fill it

# The tests that concern it, first the quick ones that notice most; what they have not noticed is
# shown to those behind the bar when all is done.
TESTS = {
    "_stack": "order unregister explicit | together",
    "_registration": "errors explicit calling scopes order unregister | time together | adversity interpreter",
    "_unwind": "errors explicit scopes calling order | time | together | adversity interpreter"
    " | run | processes",
    "_books": "errors explicit scopes calling order | time | together | adversity | run",
    "_manager": "errors explicit scopes calling order unregister report | time together"
    " | interpreter threads watch | adversity | processes run",
    "_loops": "loops trio | adversity | many_loops | run",
    "_index": "unregister | order",
    "_place": "together | order",
    "_together": "together | order",
}
# cosmic-ray exchanges an operator for each of the others. These changes only reach annotations,
# or say nothing that the rest do not.
IDLE = re.compile(
    r"core/(ReplaceBinaryOperator_(?!(Add_Sub|Sub_Add|Mul_Div|Div_Mul)$)"
    r"|ReplaceComparisonOperator_(Is_(?!IsNot$)|IsNot_(?!Is$)|(Eq|NotEq)_(?!NotEq$|Eq$)"
    r"|(Lt|LtE|Gt|GtE)_(Eq|NotEq|Is|IsNot)$)"
    r"|ReplaceUnaryOperator_\w+_(UAdd|Invert)$)"
)
# They are about pytest's plugins, and those that it finds by itself are not loaded.
DESELECTED = [
    "tests/test_loops.py::test_the_loops_of_pytest_asyncio",
    "tests/test_many_loops.py::test_test_runners",
]
HANGING = [f"-ofaulthandler_timeout={HANGS}", "-ofaulthandler_exit_on_timeout=true"]
SURVIVED = "survived stage {}"
FAILED = re.compile(r"^FAILED (\S+?::.+?)(?: - .*)?$", re.MULTILINE)
PLUGINS = ["anyio.pytest_plugin", "pytest_asyncio.plugin", "no:cacheprovider"]


def run(tests: Sequence[Path | str]) -> tuple[int, str]:
    """Run them until the first fails; return pytest's exit status, and what it said.

    In a fork of this process, which has loaded all that the tests use but lastly: to load that
    takes longer than most changes live.
    """
    plugins = [f"-p{plugin}" for plugin in PLUGINS]
    deselected = [f"--deselect={test}" for test in DESELECTED]
    options = ["-x", "-q", "-m", "not slow", *HANGING, *plugins, *deselected]
    with TemporaryFile() as output:
        if not (child := os.fork()):
            try:
                os.setsid()
                for descriptor in (1, 2):
                    os.dup2(output.fileno(), descriptor)
                os._exit(pytest.main([*options, *map(str, tests)]))
            finally:
                os._exit(1)  # else it would go on as this process, and take down its directory
        ended = os.pidfd_open(child)
        select([ended], [], [], LIMIT)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # and what a test has left running
        os.close(ended)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read().decode(errors="replace")


def session(module: str, paths: list[Path]) -> Path:
    """Return the file of what is known of the module and these tests of it."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]
    path = HOME / f"{module}-{digest}.sqlite"
    if not path.exists():
        with use_db(path, WorkDB.Mode.create) as database:
            init(paths[:1], database, {})
    return path


def noticed(module: str) -> dict[str, str]:
    """Return which test has noticed a change, in whatever state of the module and its tests."""
    found: dict[str, str] = {}
    for path in sorted(HOME.glob(f"{module}-*.sqlite"), key=lambda path: path.stat().st_mtime):
        with use_db(path, WorkDB.Mode.open) as database:
            for _, result in database.completed_work_items:
                if failed := FAILED.search(result.output or ""):
                    found[changed(result.diff or "")] = failed[1]
    return found


def is_idle(mutation: MutationSpec) -> bool:
    source, place = mutation.module_path.read_text(), mutation.start_pos[0]
    block = next(line for line in reversed(source.splitlines()[:place]) if line[:1].strip())
    is_for_checkers = "TYPE_CHECKING" in block or place in overloads(source)
    return is_for_checkers or bool(IDLE.match(mutation.operator_name))


@cache
def overloads(source: str) -> set[int]:
    """Return the lines of the signatures that only type checkers read."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        decorators = getattr(node, "decorator_list", [])
        if "overload" in map(ast.unparse, decorators):
            found.update(range(decorators[0].lineno, node.end_lineno + 1))
    return found


def mutate(database: WorkDB, tests: list[list[Path]], first: dict[str, str], until: float) -> int:
    """Make one change after another; return how many are left when the time is over."""
    left = [item for item in database.pending_work_items if not is_idle(*item.mutations)]
    for stage, some in enumerate(tests):
        while left:
            if time.monotonic() > until:
                return len(left)
            item = left.pop()
            database.set_result(item.job_id, result_of(item, some, {} if stage else first, stage))
        done = list(database.completed_work_items)
        left = [item for item, result in done if result.output == SURVIVED.format(stage)]
    return 0


def result_of(item: WorkItem, tests: list[Path], first: dict[str, str], stage: int) -> WorkResult:
    (mutation,) = item.mutations
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    with use_mutation(mutation.module_path, operator, mutation.occurrence) as (before, after):
        if after is None:
            return WorkResult(WorkerOutcome.NO_TEST)
        diff = "\n".join(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))
        status, output = run([test]) if (test := first.get(changed(diff))) else (0, "")
        if status != pytest.ExitCode.TESTS_FAILED:  # or it is there no more
            status, output = run(tests)
    if status:
        return WorkResult(WorkerOutcome.NORMAL, output, TestOutcome.KILLED, diff)
    said = SURVIVED.format(stage)
    return WorkResult(WorkerOutcome.NORMAL, said, TestOutcome.SURVIVED, diff)


def outcome(result: WorkResult) -> str:
    if result.worker_outcome is not WorkerOutcome.NORMAL:
        return "impossible"
    if not result.is_killed:
        return "survived"
    return "hung" if "Timeout (0:" in (result.output or "") else "killed"


def changed(diff: str) -> str:
    """Return the lines that were taken away and put in their place."""
    lines = diff.splitlines()
    return "\n".join(l for l in lines if l[:1] in ("-", "+") and l[:3] not in ("---", "+++"))


def tell(module: str, results: list[tuple[Any, WorkResult]], left: int) -> int:
    """Print what came of it; return how many have survived that nobody has explained."""
    explained = (ROOT / "tests/mutants.md").read_text()
    counts = Counter(outcome(result) for _, result in results)
    unexplained = 0
    for item, result in results:
        change = changed(result.diff or "")
        if outcome(result) in ("killed", "impossible") or change in explained:
            continue
        unexplained += outcome(result) == "survived"
        (mutation,) = item.mutations
        place = f"{module}.py:{mutation.start_pos[0]} in {mutation.definition_name}"
        print(f"\n{outcome(result)}: {place}\n{change}")
    figures = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    print(f"\n{module}: {figures}, {unexplained} unexplained, {left} left to do", flush=True)
    return unexplained


def main(arguments: list[str]) -> None:
    minutes = float(arguments.pop(0)) if arguments[:1] and arguments[0][0].isdigit() else 60
    until = time.monotonic() + minutes * 60
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    HOME.mkdir(exist_ok=True)
    with TemporaryDirectory() as directory:
        unexplained = [mutated(Path(directory), module, until) for module in arguments or TESTS]
    sys.exit(any(unexplained))


def mutated(directory: Path, module: str, until: float) -> int:
    """Work on a copy, for a change is one of a file; return how many are not explained."""
    tree = directory / module
    for name in ("src", "tests", "docs"):
        shutil.copytree(ROOT / name, tree / name)
    shutil.copy(ROOT / "pyproject.toml", tree)
    os.chdir(tree)
    source = str(tree / "src")
    sys.path[0] = source
    os.environ.update(PYTHONPATH=source, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    tests = [
        [Path("tests", f"test_{name}.py") for name in some.split()]
        for some in TESTS[module].split("|")
    ]
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for some in tests:  # which also compiles them
        status, output = run(some)
        if status:
            sys.exit(f"the tests of {module} fail as it is:\n{output}")
    # Two changes in one second would be taken for one.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    first = noticed(module)
    with use_db(
        session(module, [Path("src/lastly", f"{module}.py"), *sum(tests, [])]), WorkDB.Mode.open
    ) as database:
        left = mutate(database, tests, first, until)
        return tell(module, list(database.completed_work_items), left)


if __name__ == "__main__":
    main(sys.argv[1:])
