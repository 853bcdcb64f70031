"""README.md's and docs/' code blocks run, see pages.py, and docs/guarantees.md is true.

`python tests/test_docs.py` writes docs/guarantees.md anew.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

import dockerfile_parse
import kubernetes_validate
import pytest
import yaml
from pages import PAGES, ROOT, Block, blocks, follow, with_output

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


def check_manifest(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(manifest, "1.30", strict=True)


def check_unit(path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("this machine has no systemd-analyze")
    # It looks whether that program is there.
    path.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", path.read_text()))
    verify = ["systemd-analyze", "verify", "--man=no", str(path)]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if path.name in line]) == (
        0,
        [],
    )


def check_dockerfile(path: Path) -> None:
    parsed = dockerfile_parse.DockerfileParser(str(path)).structure
    known = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "CMD"}
    assert {instruction["instruction"] for instruction in parsed} == known
    [command] = [i["value"] for i in parsed if i["instruction"] == "CMD"]
    assert isinstance(yaml.safe_load(command), list), (
        "the shell form hides signals from the program"
    )


CHECKS = {".yaml": check_manifest, ".service": check_unit, "Dockerfile": check_dockerfile}


def check_command(line: str) -> None:
    """Check that what a reader would install or run does exist."""
    match line.split():
        case ["pip" | "pip3", "install", *packages] if packages:
            assert all(
                p in (".", "../lastly") or importlib.metadata.version(p) for p in packages
            ), line
        case ["python3", "-m", "venv", "venv"] | [".", "venv/bin/activate"]:
            pass
        case ["python3", "dev.py", command, *_]:
            spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
            assert spec and spec.loader
            dev = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(dev)
            assert command in dev.COMMANDS, line
        case _:
            raise AssertionError(f"no check for {line!r}")


PROGRAMS = [
    pytest.param(code, output, id=f"{page.stem}-{n}")
    for page in PAGES
    for n, (code, output) in enumerate(with_output(page, "program"))
]
PROJECTS = [page for page in PAGES if any(block.kind == "console" for block in blocks(page))]
FILES = [
    pytest.param(block, id=f"{page.stem}-{block.title}")
    for page in PAGES
    for block in blocks(page)
    if block.kind == "file" and not block.title.endswith(".py")
]


@pytest.mark.parametrize(("code", "output"), PROGRAMS)
def test_a_program_prints_what_the_page_says(run_child, code: str, output: str) -> None:
    """A Python block without a title is a whole program; a text block after it is its output."""
    assert run_child(code).out == output.splitlines()


@pytest.mark.parametrize("page", PROJECTS, ids=lambda page: page.stem)
def test_a_project_does_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """Blocks with a title are files, and what console blocks show is what a shell shows."""
    follow(page, tmp_path)


@pytest.mark.parametrize("block", FILES)
def test_a_file_for_another_program_is_one_that_it_takes(block: Block, tmp_path: Path) -> None:
    """Manifests fit the schema of Kubernetes, units are what systemd knows, and so on."""
    path = tmp_path / block.title
    path.write_text(block.text)
    CHECKS[path.suffix or path.name](path)


def test_the_seconds_add_up() -> None:
    """What docs/deploy.md gives a pod and a unit is more than its service takes."""
    files = {block.title: block.text for block in blocks(ROOT / "docs" / "deploy.md")}
    [grace] = map(int, re.findall(r"grace=(\d+)", files["service.py"]))
    pod = yaml.safe_load(files["deployment.yaml"])["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    [stop] = map(int, re.findall(r"TimeoutStopSec=(\d+)", files["lastly-example.service"]))
    assert before + grace < pod["terminationGracePeriodSeconds"]
    assert grace < stop


def run_files(found: list[Block]) -> set[str]:
    """Name the Python files of a page that its commands run, or that what they run imports."""
    files = {b.title.removesuffix(".py"): b.text for b in found if b.title.endswith(".py")}
    commands = "\n".join(b.text for b in found if b.kind == "console")
    words = set(re.findall(r"\w+", "\n".join(re.findall(r"(?m)^\$ (.*)", commands))))
    run = {stem for stem in files if stem in words}
    if "pytest" in words:
        run |= {stem for stem in files if stem == "conftest" or stem.startswith("test_")}
    while True:
        running = "\n".join(files[stem] for stem in run)
        imported = set(re.findall(r"(?m)^ *(?:import|from) (\w+)", running)) & files.keys()
        if imported <= run:
            return {f"{stem}.py" for stem in run}
        run |= imported


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run(page: Path) -> None:
    """There is no block that no test would run, and no output but that of what is run."""
    found = blocks(page)
    for before, block in zip([Block("", "", ""), *found], found, strict=False):
        assert block.kind != "unknown", block
        assert block.kind != "text" or before.kind in ("program", "cell"), block
        if block.kind == "file" and block.title.endswith(".py"):
            assert block.title in run_files(found), block
        if block.kind == "sh":
            for line in block.text.splitlines():
                check_command(line)


def test_only_what_is_run_counts_as_run() -> None:
    """A file is run by its whole name, on a line that is typed, or where what is run imports it."""
    page = [
        Block("python", "app.py", ""),
        Block("python", "apply.py", "import helper"),
        Block("python", "helper.py", ""),
        Block("python", "test_app.py", ""),
        Block("console", "", "$ python apply.py\napp"),
    ]
    assert run_files(page) == {"apply.py", "helper.py"}
    typed = Block("console", "", "$ python -m pytest")
    assert run_files([*page, typed]) == {"apply.py", "helper.py", "test_app.py"}


@pytest.mark.parametrize(
    "hidden", ["    print(1)", "\tprint(1)", "- one\n\n  ```python\n  1\n  ```", "~~~\n1\n~~~"]
)
def test_no_block_is_hidden(tmp_path: Path, hidden: str) -> None:
    """What Markdown takes for a block, and no test would see, is an error."""
    page = tmp_path / "page.md"
    page.write_text(f"```python\nif True:\n    print(1)\n```\n\n{hidden}\n")
    with pytest.raises(AssertionError, match=r"page\.md has blocks that are not seen"):
        blocks(page)


NOTEBOOKS = [page for page in PAGES if any(block.kind == "cell" for block in blocks(page))]


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_cells_print_what_the_page_says(page: Path) -> None:
    """The cells of a page are run in a real kernel of Jupyter's, one after the other."""
    cells = with_output(page, "cell")
    assert run_notebook([code for code, _ in cells]) == [output for _, output in cells]


def test_what_is_left_when_a_kernel_ends(tmp_path: Path) -> None:
    """R16: in Jupyter, too, on the notebook's own loop."""
    trace = tmp_path / "trace"
    cell = f"""
        import asyncio, lastly, pathlib
        loop = asyncio.get_running_loop()

        @lastly.register
        async def close():
            same = asyncio.get_running_loop() is loop
            await asyncio.to_thread(pathlib.Path({str(trace)!r}).write_text, str(same))
    """
    assert run_notebook([textwrap.dedent(cell)]) == [""]
    assert trace.read_text() == "True"


def run_notebook(cells: list[str]) -> object:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "notebook.py"],
        input=json.dumps(cells),
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


LINKING = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of the project's names one that exists."""
    text = page.read_text()
    targets = re.findall(r"\]\((?!http)([^)#]+)", text)
    targets += (
        [] if page.parent != ROOT else re.findall(r"`((?:docs|tests|examples)/[\w./]+)`", text)
    )
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
