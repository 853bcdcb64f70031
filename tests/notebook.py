"""Run the cells of a notebook in a real kernel: their sources on stdin, what they say on stdout.

A program of its own: the client leaves files and a process to the garbage collector.
"""

import json
import sys
from functools import partial
from typing import Any

from jupyter_client.manager import start_new_kernel


def hear(said: list[str], message: dict[str, Any]) -> None:
    content = message["content"]
    match message["msg_type"]:
        case "stream":
            said.append(content["text"])
        case "execute_result":
            said.append(content["data"]["text/plain"] + "\n")
        case "error":
            said.append(f"{content['ename']}: {content['evalue']}\n")


def main() -> None:
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=60)
    outputs: list[str] = []
    try:
        for source in json.load(sys.stdin):
            said: list[str] = []
            client.execute_interactive(source, timeout=60, output_hook=partial(hear, said))
            outputs.append("".join(said))
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    print(json.dumps(outputs))


main()
