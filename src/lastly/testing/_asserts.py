"""assert_unwound: what has run, in which order, and how it ended.

May import _manager and _outcome.
"""

from __future__ import annotations

from difflib import ndiff

from lastly._manager import default
from lastly._outcome import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._outcome import Report


def assert_unwound(*expected: str | tuple[str, str], report: Report | None = None) -> Report:
    """Assert that the last unwind ran exactly these callbacks, in this order; return its report.

    A name alone stands for a callback that ended `ok`; a pair of name and status for one that
    did not: `("close_pool", "timed_out")`. Given a report, it looks at that instead of the
    default manager's last one.

    Raises `AssertionError`, which shows the difference and each failure.

    >>> import lastly
    >>> from lastly.testing import isolated
    >>> with isolated():
    ...     handle = lastly.defer(print, "closed", name="close_pool")
    ...     lastly.close()
    ...     assert_unwound("close_pool").reason.trigger
    closed
    'close'
    """
    report = default.last_report() if report is None else report
    if report is None:
        names = ", ".join(r.name for r in default.pending()) or "nothing"
        raise AssertionError(
            f"no unwind has run anything; pending: {names}; did you forget `await lastly.aclose()`?"
        )
    pairs = [(e, Status.OK) if isinstance(e, str) else e for e in expected]
    wanted = [f"{name} {Status(status)}" for name, status in pairs]
    ran = [f"{outcome.name} {outcome.status}" for outcome in report.outcomes]
    if ran != wanted:
        lines = [line for line in ndiff(wanted, ran) if not line.startswith("?")]
        raise AssertionError(
            "\n".join(("what ran (+) is not what was expected (-):", *lines, "", str(report)))
        )
    return report
