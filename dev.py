"""Set up and run everything: `python3 dev.py COMMAND`.

  demo   start a web app, use it, stop it, and show how it closes
  test   run the tests; what follows is passed on to pytest
  check  format, lint, types, docs, and the tests with coverage
  matrix run every framework on every server, and write the tables of docs/web.md
  soak   restart servers under load for two minutes, twice, and show figures
  mutate change the code in small places, and see whether the tests notice
  bench  measure lastly beside its peers
  docs   build the documentation into site/
  pictures  draw the pictures of the documentation from real runs
  package   build the wheel and the sdist into dist/, and test the wheel where it is installed

Needs Python 3.11 or later with pip, and the package index. Makes .venv at the first run,
and again when pyproject.toml changes. `--python PATH` takes another interpreter, which
gets a .venv of its own, as mutate does.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent
EXTRAS = "test,check,docs"
OTHERS = {"mutate": "test,mutate"}  # commands with an environment of their own
CODE = ["src", "tests", "examples", "docs", "dev.py"]


def run(*command: str | Path, **env: str) -> None:
    shown = " ".join(str(part) for part in command)
    print(f"$ {shown}", flush=True)
    code = subprocess.run([str(c) for c in command], cwd=ROOT, env={**os.environ, **env}).returncode
    if code:
        sys.exit(f"dev.py: failed with exit status {code}: {shown}")


def environment(home: Path, extras: str) -> Path:
    """Return the interpreter of an up-to-date virtual environment."""
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = (ROOT / "pyproject.toml").read_bytes() + f"{extras} {sys.version} {ROOT}".encode()
    digest = hashlib.sha256(wanted).hexdigest()
    stamp = home / "installed"
    if stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"setting up {home.name}, which takes about a minute", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    # Debian splits ensurepip off its Python; its pip can install into a venv without one.
    bare = importlib.util.find_spec("ensurepip") is None
    run(sys.executable, "-m", "venv", *(["--without-pip"] if bare else []), home)
    pip: list[str | Path]
    pip = [sys.executable, "-m", "pip", "--python", python] if bare else [python, "-m", "pip"]
    # Most of what is installed is never imported, and the rest is compiled when it is.
    run(*pip, "install", "--quiet", "--no-compile", "--editable", f".[{extras}]")
    stamp.write_text(digest)
    return python


def test(python: Path, args: list[str]) -> None:
    run(python, "-m", "pytest", *args)


def demo(python: Path, args: list[str]) -> None:
    run(python, "examples/demo.py", *args)


def bench(python: Path, args: list[str]) -> None:
    run(python, "-m", "bench", *args, PYTHONPATH="tests")


def matrix(python: Path, args: list[str]) -> None:
    with TemporaryDirectory() as directory:
        results = str(Path(directory, "results"))
        seen = {"LASTLY_MATRIX": "all", "LASTLY_MATRIX_RESULTS": results}
        run(python, "-m", "pytest", "tests/servers", "-k", "not the_docs", *args, **seen)
        run(python, "tests/servers/page.py", results)


def pictures(python: Path, args: list[str]) -> None:
    run(python, "tests/pictures.py", *args)


def soak(python: Path, args: list[str]) -> None:
    run(python, "-m", "pytest", "-s", "tests/servers/test_soak.py", *args, LASTLY_SOAK="120")


def mutate(python: Path, args: list[str]) -> None:
    run(python, "tests/mutate.py", *args)


def docs(python: Path, args: list[str]) -> None:
    run(python, "-m", "mkdocs", "build", "--strict", "--quiet", *args, NO_MKDOCS_2_WARNING="1")
    if found := sorted(set(loads(ROOT / "site"))):
        sys.exit("dev.py: the site would load from the network: " + ", ".join(found))
    print("wrote site/index.html")


def package(python: Path, args: list[str]) -> None:
    run(python, "tests/package.py", *args)


# What a browser fetches by itself; a link is for whoever follows it.
FETCHED = re.compile(
    r"""(?:<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=|\burl\(|@import )"""
    r"""["']?((?:https?:)?//[^"')> ]+)"""
)


def loads(site: Path) -> Iterator[str]:
    """Yield the addresses that the pages of a site load something from."""
    for path in site.rglob("*"):
        if path.suffix in (".html", ".css", ".svg"):
            yield from FETCHED.findall(path.read_text())


def check(python: Path, args: list[str]) -> None:
    run(python, "-m", "ruff", "format", "--check", *CODE)
    run(python, "-m", "ruff", "check", *CODE)
    run(python, "-m", "mypy")
    pyright = (python, "-m", "pyright", "--pythonpath", python)
    run(*pyright)
    run(*pyright, "--verifytypes", "lastly", "--ignoreexternal", PYTHONPATH="src")
    docs(python, [])
    run(python, "-m", "coverage", "erase")
    run(python, "-m", "coverage", "run", "-m", "pytest", "-n", "auto", *args)
    run(python, "-m", "coverage", "combine", "--quiet")
    run(python, "-m", "coverage", "report")


COMMANDS = {
    command.__name__: command
    for command in [demo, test, check, matrix, soak, mutate, bench, docs, pictures, package]
}


def main() -> None:
    if sys.version_info < (3, 11):
        version = sys.version.split()[0]
        sys.exit(f"dev.py: this is Python {version}, and lastly needs 3.11 or later: --python PATH")
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--python", help="the interpreter to use, instead of this one")
    options, rest = parser.parse_known_args()
    home = ROOT / ".venv"
    chosen: str | None = options.python
    if chosen:
        other = shutil.which(chosen)
        if other is None:
            sys.exit(f"dev.py: there is no interpreter {chosen!r}; write its path")
        if os.environ.get("LASTLY_DEV_PYTHON") != other:
            os.environ["LASTLY_DEV_PYTHON"] = other
            sys.exit(subprocess.run([other, __file__, *sys.argv[1:]]).returncode)
        home = ROOT / f".venv-{sys.implementation.name}-{'.'.join(map(str, sys.version_info[:3]))}"
    # The tests on another interpreter need no linters.
    of_tests = "test" if chosen and options.command == "test" else EXTRAS
    extras = OTHERS.get(options.command, of_tests)
    if options.command in OTHERS:
        home = home.with_name(f"{home.name}-{options.command}")
    COMMANDS[options.command](environment(home, extras), rest)


if __name__ == "__main__":
    main()
