"""atexit for a world with event loops: cleanup callbacks, sync and async, newest first.

The functions are the methods of one default `ShutdownManager`. A number such as R9 in a
docstring is that of a rule in docs/guarantees.md.
"""

from __future__ import annotations

from ._manager import ShutdownManager
from ._manager import default as _default
from ._outcome import CleanupTimeout, Outcome, Reason, Report, Status
from ._registration import Registration
from ._run import run
from ._signals import install_signal_handlers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "CleanupTimeout",
    "Outcome",
    "Reason",
    "Registration",
    "Report",
    "ShutdownManager",
    "Status",
    "aclose",
    "close",
    "configure",
    "defer",
    "enter_async_context",
    "enter_context",
    "install_signal_handlers",
    "last_report",
    "lifespan",
    "pending",
    "register",
    "request_shutdown",
    "run",
    "together",
    "unregister",
    "wait_requested",
]

register: Final = _default.register
unregister: Final = _default.unregister
defer: Final = _default.defer
together: Final = _default.together
enter_context: Final = _default.enter_context
enter_async_context: Final = _default.enter_async_context
pending: Final = _default.pending
close: Final = _default.close
aclose: Final = _default.aclose
lifespan: Final = _default.lifespan
configure: Final = _default.configure
request_shutdown: Final = _default.request_shutdown
wait_requested: Final = _default.wait_requested
last_report: Final = _default.last_report

del annotations, TYPE_CHECKING
