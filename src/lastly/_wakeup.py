"""Wake an idle event loop when a signal comes, so that its handler gets to run.

Python runs handlers in the main thread alone. A signal that the kernel gives to another one, as it
may with the second of two, wakes that; and one just before the loop begins to wait wakes nobody.
Is loaded where a loop runs, for it loads sockets. Imports nothing of lastly's.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from socket import socketpair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def wake_on_signals(loop: Any) -> Callable[[], object]:
    """Have signals wake the loop that runs here; return what takes that back."""
    # uvloop, trio and the proactor of Windows do it themselves. This one does while it has a
    # handler of its own, and then forgets about it: there is no telling when.
    if not isinstance(loop, asyncio.SelectorEventLoop):
        return lambda: None
    reader, writer = socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    loop.add_reader(reader, reader.recv, 4096)

    def take_back() -> None:
        with suppress(ValueError, OSError):  # closed since, by who owned it
            now = signal.set_wakeup_fd(before)
            if now not in (-1, writer.fileno()):
                signal.set_wakeup_fd(now)
        reader.close()
        writer.close()

    return take_back
