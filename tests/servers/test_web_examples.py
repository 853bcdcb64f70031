"""The examples for each framework, run as their first lines say."""

from __future__ import annotations

import ast
import signal
from pathlib import Path

import pytest
from servers.running import Server

EXAMPLES = Path(__file__).parents[2] / "examples" / "web"
PORTS = {
    "uvicorn": "--port 0",
    "hypercorn": "--bind 127.0.0.1:0",
    "granian": "--port {port}",
    "gunicorn": "--bind 127.0.0.1:0",
}


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example(example: Path, tmp_path: Path, postgres: str) -> None:
    """R18: it answers from its database, and closes that when it is asked to end."""
    docstring = ast.get_docstring(ast.parse(example.read_text()))
    url, _, command = docstring.splitlines()[-1].removeprefix("DATABASE_URL=").partition(" ")
    command = command.removeprefix("python -m ").replace("-P 8000", "-H 127.0.0.1 -P 0")
    command = f"{command} {PORTS.get(command.split()[0], '')}"
    env = {
        "DATABASE_URL": postgres.replace("postgresql:", url.partition("//")[0]),
        "PYTHONPATH": str(EXAMPLES),
    }
    server = Server(command, tmp_path, env)
    try:
        server.ask("42").close()
        server.send(signal.SIGTERM)
        status = server.end()
    finally:
        server.kill()
    log = server.log()
    assert log.count("closed the ") == 1, log
    assert "Traceback" not in log
    # hypercorn ends with 0 in any case.
    tells = "hypercorn" not in command and "install_signal_handlers" in example.read_text()
    assert status == (143 if tells else 0)
