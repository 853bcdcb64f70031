"""The README's and the docs' code blocks run, and docs/guarantees.md is true.

`python tests/test_docs.py` writes docs/guarantees.md anew.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RULES = {
    1: "One order: sync and async registrations run newest first, one at a time.",
    2: "Registering while unwinding is allowed; what is newest runs next.",
    3: "Each registration runs exactly once or was cancelled, whatever triggers fire.",
    4: "What is registered inside of `together` shares one place, and runs side by side.",
    5: "A callback is async when calling it returned an awaitable.",
    6: "`register` and `unregister` have `atexit`'s signatures and meaning.",
    7: "A handle cancels, and tells its name, origin, home and status.",
    8: "A context manager's exit runs as `async with` would run it.",
    9: "Nothing that a callback raises stops the unwind.",
    10: "Each failure is logged once, with its traceback, name and origin.",
    11: "The final exception is re-raised, with a note on the earlier ones.",
    12: "Control flow on its way out is never replaced.",
    13: "`close` and `aclose` may be called any number of times, from anywhere.",
    14: "What belongs to a loop unwinds in that loop's teardown, while everything works.",
    15: "The same at the end of a trio run.",
    16: "What is left unwinds at interpreter exit, and what asks for it before the threads end.",
    17: "A callback runs on its home loop, wherever that is.",
    18: "Scopes unwind the whole manager, in their loop and task, shielded.",
    19: "A forked child keeps what is the interpreter's; children of multiprocessing unwind.",
    20: "Past its timeout a callback is cancelled, and `on_timeout` runs in its place.",
    21: "One unwind has one grace, and no callback gets more than four fifths of what is left.",
    22: "Past the grace the rest is forced: called, and cancelled at its first await.",
    23: "What takes long is logged, with the line that it waits at.",
    24: "`run` runs a main, and unwinds everything on its loop before that is torn down.",
    25: "The first signal ends main in order, the second forces, the third kills.",
    26: "The exit status tells the truth, and the interpreter is always finalised.",
    27: "In any program, a signal that would have killed becomes a normal exit.",
    28: "`request_shutdown` is a first signal from code, with a reason.",
    29: "Each unwind leaves a report.",
    30: "A report can be read as blame, as a timeline in text, and as a picture.",
    31: "`LASTLY_REPORT` names a file that each unwind's report is written to.",
    32: "Bad input is refused at the call, with what to write instead.",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


PROGRAMS = [
    pytest.param(
        code,
        found[n + 1][1] if found[n + 1 : n + 2] and found[n + 1][0] == "text" else "",
        id=f"{page.stem}-{n}",
    )
    for page in PAGES
    if page.stem != "testing"  # whose blocks are files of one project: see below
    for found in [blocks(page)]
    for n, (language, code) in enumerate(found)
    if language == "python"
]


@pytest.mark.parametrize(("code", "output"), PROGRAMS)
def test_the_code_runs_and_prints_what_the_page_says(run_child, code: str, output: str) -> None:
    """Every Python block is a whole program; a text block after it is its exact output."""
    assert run_child(code).out == output.splitlines()


def test_the_tests_on_the_page_about_tests_pass(pytester: pytest.Pytester) -> None:
    """Each block of docs/testing.md begins with its file's name, and its tests are run."""
    for language, code in blocks(ROOT / "docs/testing.md"):
        name = re.match(r"# (\w+)\.py\n", code)
        assert language == "python" and name
        pytester.makepyfile(**{name[1]: code})
    result = pytester.runpytest_subprocess("-q", "-W", "error", "-p", "no:asyncio")
    result.assert_outcomes(passed=9)  # the async ones on two backends


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run(page: Path) -> None:
    """A page has Python blocks and their output, and no block that no test would run."""
    languages = [language for language, _ in blocks(page)]
    for before, language in zip(["", *languages], languages, strict=False):
        assert language == "python" or (language == "text" and before == "python")


@pytest.mark.parametrize("page", PAGES[:1], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of the project's names one that exists."""
    targets = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert targets
    assert [target for target in targets if not (page.parent / target).exists()] == []


def named_tests() -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    tests = Path(__file__).parent
    for path in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "test" in node.name:
                rules, _, _ = (ast.get_docstring(node) or "").partition(":")
                for first, last in re.findall(r"\bR(\d+)(?: to R(\d+))?", rules):
                    for rule in range(int(first), int(last or first) + 1):
                        found[rule].append(f"{path.relative_to(tests)}::{node.name}")
    return found


def guarantees() -> str:
    found = named_tests()
    text = (ROOT / "docs/guarantees.md").read_text().partition("## The rules")[0]
    lines = ["## The rules", ""]
    for rule, says in RULES.items():
        lines += [f"### R{rule}", "", says, ""]
        lines += [f"- `{test}`" for test in sorted(set(found[rule]))]
        lines.append("")
    return text + "\n".join(lines)


def test_the_guarantees_name_their_tests() -> None:
    """docs/guarantees.md lists every rule that is kept, with every test that names it."""
    found = named_tests()
    assert all(found[rule] for rule in RULES)
    assert found.keys() == RULES.keys()
    written = (ROOT / "docs/guarantees.md").read_text()
    assert written == guarantees(), "run tests/test_docs.py to write it anew"


if __name__ == "__main__":
    sys.stdout.write(guarantees())
    (ROOT / "docs/guarantees.md").write_text(guarantees())
