"""A service whose last line is `lastly.run`: SIGTERM lets it finish what it has begun.

It answers lines on a socket, in capitals. At the first signal it takes no more connections,
answers those that are open, and closes what it opened; a second one forces it, a third kills.
"""

import asyncio

import lastly


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def main() -> None:
    lastly.configure(grace=25)  # Kubernetes kills after 30 seconds
    lastly.defer(print, "closed everything", name="goodbye")
    connections = set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(answer(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print("serving on port", server.sockets[0].getsockname()[1], flush=True)
    reason = await lastly.wait_requested()
    print("draining,", reason, flush=True)
    server.close()
    await asyncio.gather(*connections)
    print("answered everybody")


lastly.run(main)
