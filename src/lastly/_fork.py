"""Fork: have something done in each forked child, before anything else runs there (R19).

The child has but the thread that forked, and none of the parent's loops. Imports nothing of
lastly's.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def in_child(work: Callable[[], object], *, before: Callable[[], object] | None = None) -> None:
    """Have it done in every child that is forked from here on; and `before`, in the parent."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(before=before or _nothing, after_in_child=work)


def _nothing() -> None:
    pass
