"""A script with no event loop at all: everything closes when the interpreter exits.

As with `atexit`, except that a callback may be async: it gets an event loop of its own, on
which even `asyncio.to_thread` works, although by now the interpreter starts no more work
in its own thread pools.
"""

import asyncio
import tempfile
from pathlib import Path

import lastly

directory = tempfile.TemporaryDirectory()
journal = Path(directory.name, "journal.txt").open("w+")


@lastly.register
def remove_directory() -> None:
    directory.cleanup()
    print(f"removed the directory: {not Path(directory.name).exists()}")


@lastly.register
async def close_journal() -> None:
    journal.seek(0)
    entries = await asyncio.to_thread(journal.readlines)
    journal.close()
    print(f"closed the journal with {len(entries)} entries")


journal.writelines(["began\n", "worked\n", "ended\n"])
print("the script is done")
