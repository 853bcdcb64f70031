"""Start the web app, use it, stop it with SIGTERM, and check what lastly closed.

`python3 dev.py demo` runs this. Any other app that talks like webapp.py can be given
instead; whatever is not as it should be ends the demo with a message and exit status 1.
"""

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

say = partial(print, flush=True)  # the app's stderr goes to the same place

WEBAPP = Path(__file__).with_name("webapp.py")
NOTES = ["remember the milk", "call the plumber about the tap", "sleep"]


class Failed(Exception):
    pass


class App:
    """The app in a child process, which tells line by line what it opens and closes."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.report: dict[str, Any] = {}
        self.timeline: list[str] = []

    def listen(self, until: str | None = None) -> str | None:
        """Read what the app says; return what follows `until`, or None at its end."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if line.startswith("{"):
                self.report = json.loads(line)
                continue
            if self.report:
                self.timeline.append(line)
                continue
            say("  ", line, end="")
            verb, _, rest = line.rstrip("\n").partition(" ")
            if verb == "opened":
                self.opened.append(rest)
            elif verb == "closed":
                self.closed.append(rest)
            elif verb == until:
                return rest
        return None


@contextmanager
def running(script: Path, database: Path, picture: Path, seconds: float) -> Generator[App]:
    """Run the app, for so many seconds at most, and leave no process behind."""
    command = [sys.executable, str(script), "--port", "0"]
    environment = {**os.environ, "WEBAPP_DB": str(database), "LASTLY_REPORT": str(picture)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        limit = threading.Timer(seconds, child.kill)
        limit.start()
        try:
            yield App(child)
        finally:
            limit.cancel()
            child.kill()


def use(url: str) -> None:
    # A proxy from the environment cannot reach this machine's loopback.
    with httpx.Client(base_url=url, trust_env=False) as client:
        for note in NOTES:
            show(client.post("/notes", content=note))
        show(client.get("/health"))
        listed = client.get("/notes").raise_for_status().json()
    if [note["text"] for note in listed] != NOTES:
        raise Failed(f"GET /notes answers something else than what was posted: {listed}")


def show(response: httpx.Response) -> None:
    request = response.request
    say(f"   {request.method:4} {request.url.path:8} {response.status_code} {response.text}")
    response.raise_for_status()


def tell(app: App, picture: Path) -> None:
    for line in app.timeline:
        say("  ", line, end="")
    say("\n   registered at")
    for outcome in app.report["outcomes"]:
        say(f"   {outcome['name']:15} {Path(outcome['origin']).name}")
        if outcome["exception"]:
            say(f"      {outcome['exception']}")
    if picture.exists():
        say(f"\n   LASTLY_REPORT has drawn the same as a picture, {picture}")


def faults(app: App, database: Path) -> Iterator[str]:
    """Say what is wrong with how the app has ended."""
    for name in app.opened:
        if name not in app.closed:
            yield f"left open: {name}"
    for name in dict.fromkeys(app.closed):
        if app.closed.count(name) > app.opened.count(name):
            yield f"closed more often than opened: {name}"
    if sorted(app.closed) == sorted(app.opened) and app.closed != app.opened[::-1]:
        yield f"closed out of order: {', '.join(app.closed)}"
    if not app.report:
        yield "the app has printed no report"
    elif not app.report["ok"]:
        yield "the report is not ok"
    if app.child.returncode != 128 + signal.SIGTERM:
        yield f"the app ended with exit status {app.child.returncode}, not 143 for SIGTERM"
    with closing(sqlite3.connect(database)) as connection:
        [[waiting]] = connection.execute("SELECT count(*) FROM note WHERE words IS NULL")
    if waiting:
        yield f"the worker has left {waiting} of {len(NOTES)} jobs undone"


def demo(script: Path, database: Path, picture: Path, seconds: float) -> None:
    with running(script, database, picture, seconds) as app:
        say(f"1. Start {script.name} on a free port of this machine")
        url = app.listen(until="serving")
        if url is not None:
            say("\n2. Send it requests")
            use(url.removeprefix("on "))
            say("\n3. Stop it with SIGTERM, and it closes what it opened, newest first")
            app.child.terminate()
            app.listen()
        code = app.child.wait()
        if code == -signal.SIGKILL:
            raise Failed(f"the app was killed: it had not ended after {seconds:g} s")
        if url is None:
            raise Failed(f"the app ended before it was serving, with exit status {code}")
    if app.report:
        say("\n4. What lastly reports")
        tell(app, picture)
    say("\n5. Check")
    if found := list(faults(app, database)):
        raise Failed("\n  ".join(found))
    say(f"   {len(app.opened)} resources were opened, and each was closed once, newest first")
    say("   every job of the worker was done before its database was closed")
    say("   every callback ended ok, and the exit status is 143, for SIGTERM")


def main() -> None:
    parser = argparse.ArgumentParser(description="Show and check how an app closes.")
    parser.add_argument("app", nargs="?", type=Path, default=WEBAPP, help="default: webapp.py")
    parser.add_argument(
        "--svg",
        type=Path,
        help="where to draw the shutdown (default: in a new temporary directory, which stays)",
    )
    parser.add_argument("--limit", type=float, default=30, help="seconds until the app is killed")
    options = parser.parse_args()
    picture = options.svg or Path(tempfile.mkdtemp(prefix="lastly-demo-"), "shutdown.svg")
    with tempfile.TemporaryDirectory() as directory:
        try:
            picture.unlink(missing_ok=True)  # that of an earlier demo
            demo(options.app, Path(directory, "notes.db"), picture.absolute(), options.limit)
        except Failed as exc:
            sys.exit(f"\ndemo failed:\n  {exc}")
        except (httpx.HTTPError, sqlite3.Error, json.JSONDecodeError) as exc:
            sys.exit(f"\ndemo failed:\n  {type(exc).__name__}: {exc}")


if __name__ == "__main__":
    main()
