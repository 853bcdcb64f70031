"""What a manager can be told: its time limits, what comes out of it, and its clock.

May import _clock only.
"""

from __future__ import annotations

from ._clock import Clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Errors = Literal["last", "group", "log"]


class Settings:
    """Hold a manager's settings; an unwind in progress reads them as it goes.

    `grace`, `timeout` and `slow_after` are seconds, or None for no limit and no log.
    """

    __slots__ = ("clock", "errors", "grace", "slow_after", "timeout")

    def __init__(self) -> None:
        self.clock = Clock()
        self.errors: Errors = "last"
        self.grace: float | None = None
        self.timeout: float | None = None
        self.slow_after: float | None = None
