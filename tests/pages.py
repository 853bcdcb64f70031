"""The code blocks of README.md, CONTRIBUTING.md and docs/: read, run as a reader would, compared.

A fence says what its block is; there are no others, and none by indentation:

  python                  a whole program; a `text` block after it is its exact output
  python title="In [1]"   a cell of a notebook; a `text` block after it is its output
  any    title="app.py"   a file of the page's project, from there on
  console                 typed into a shell in the project's directory, after `$ `; the lines
                          below a command are its output, `...` standing for what may differ,
                          and `^C` is pressed when all before it has been seen
  sh                      for the reader alone: what it installs or runs has to exist; what
                          README.md and the tutorial install, tests/package.py installs
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TIMEOUT = 60

_FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str

    @property
    def kind(self) -> str:
        if self.language in ("console", "sh", "text"):
            return self.language
        if self.title.startswith("In ["):
            return "cell"
        return "file" if self.title else "program" if self.language == "python" else "unknown"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = [Block(*match) for match in _FENCE.findall(text)]
    others = re.findall(
        r"^.*(?:```|~~~).*$|^ {0,3}\t.*$|^ {4}.*$", _FENCE.sub("", text), re.MULTILINE
    )
    assert others == [], f"{page.name} has blocks that are not seen"
    return found


def with_output(page: Path, kind: str) -> list[tuple[str, str]]:
    """Return the text of each block of this kind, and that of the `text` block after it."""
    found = blocks(page)
    following = [*found[1:], Block("", "", "")]
    return [
        (block.text, after.text if after.kind == "text" else "")
        for block, after in zip(found, following, strict=False)
        if block.kind == kind
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def follow(page: Path, directory: Path) -> None:
    """Do what the page says: write its files, and type what its console blocks show."""
    port = str(free_port())  # others may have what is at 8000
    for block in blocks(page):
        text = block.text.replace("8000", port)
        if block.kind == "file":
            (directory / block.title).write_text(text)
        elif block.kind == "console":
            with Terminal(directory) as terminal:
                terminal.follow(text)


class Terminal:
    """A shell in this directory, whose commands come from a page."""

    def __init__(self, directory: Path) -> None:
        script, self._commands = os.pipe()
        self._shell = subprocess.Popen(
            ["bash", "--norc", f"/dev/fd/{script}"],
            pass_fds=[script],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                "PYTHONUNBUFFERED": "1",
                "PYTHONWARNINGS": "error::RuntimeWarning",
                "NO_COLOR": "1",
            },
        )
        os.close(script)
        self._type("set -m")  # job control: each command is a process group, which ^C is for
        self._seen: list[str] = []
        self._skipping = False
        self._limit = threading.Timer(TIMEOUT, self._kill)

    def __enter__(self) -> Terminal:
        self._limit.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._limit.cancel()
        self._kill()
        with self._shell:
            pass

    def follow(self, transcript: str) -> None:
        for line in transcript.splitlines():
            if line.startswith("$ "):
                self._type(line[2:])
            elif line == "^C":
                os.killpg(self._jobs()[-1], signal.SIGINT)
            elif line == "...":
                self._skipping = True
            else:
                self._expect(line)
        os.close(self._commands)
        rest = list(self._read())
        assert self._skipping or not rest, self._told("nothing more")

    def _type(self, command: str) -> None:
        os.write(self._commands, f"{command}\n".encode())

    def _expect(self, line: str) -> None:
        pattern = re.compile(".*".join(map(re.escape, line.split("..."))))
        for said in self._read():
            if pattern.fullmatch(said):
                self._skipping = False
                return
            assert self._skipping, self._told(line)
        raise AssertionError(self._told(line))

    def _read(self) -> Iterator[str]:
        assert self._shell.stdout is not None
        for said in self._shell.stdout:
            self._seen.append(said.rstrip("\n"))
            yield self._seen[-1]

    def _told(self, expected: str) -> str:
        return "\n".join([f"the page has {expected!r} here, but this was seen:", *self._seen])

    def _jobs(self) -> list[int]:
        pid = self._shell.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _kill(self) -> None:
        if self._shell.poll() is None:
            for job in self._jobs():
                os.killpg(job, signal.SIGKILL)
            self._shell.kill()
