"""How a report reads: as a summary, as blame, as a timeline in text.

Imports nothing of lastly's at run time: a report loads this module when somebody wants to
see it.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._outcome import Outcome, Report

_SLOW = 1.0  # seconds from which on a summary mentions a callback that ended ok
_NARROW = 20  # columns: with fewer for a name and its bar, a timeline leaves out the rest
# A bar that is ok, one that is not, a mark for next to nothing, and what stands for text cut out.
_BLOCKS, _ASCII = "█▒▏…", "#x|~"

# Up to which duration a unit is used, how long it is, and its decimals: limits lie where
# rounding would reach the next unit, so that there is no "1000ms".
_UNITS = [(0.9995e-3, "us", 1e-6, 0), (9.95e-3, "ms", 1e-3, 1), (0.9995, "ms", 1e-3, 0)]


def summary(report: Report) -> str:
    """Return what to paste into an incident: one line, and all that was not ok or was slow."""
    lines = [f"lastly {headline(report)}: {counts(report)}"]
    for outcome in report.failures:
        lines.append("  " + sentence(outcome.status.value, outcome))
        lines += [f"    {line}".rstrip() for line in exception_lines(outcome)]
    slow = [o for o in _slowest(report) if o.status.value == "ok" and o.duration >= _SLOW]
    lines += ["  " + sentence("slow but ok", outcome) for outcome in slow[:3]]
    return "\n".join(lines)


def blame(report: Report) -> str:
    """Return a line for each outcome, the slowest first."""
    outcomes = _slowest(report)
    durations = [human(outcome.duration) for outcome in outcomes]
    wide = longest(durations)
    lines: list[str] = []
    for outcome, duration in zip(outcomes, durations, strict=True):
        status = "" if outcome.status.value == "ok" else f" {outcome.status.value}"
        lines.append(f"{duration:>{wide}} {_named(outcome)}{status}")
    return "\n".join(lines) or "no callbacks"


def timeline(report: Report, *, width: int | None = None, ascii_only: bool | None = None) -> str:
    """Return bars in text, in the order of running; no line is wider than `width` columns.

    By default the terminal's width, and ASCII where standard output cannot take the rest.
    """
    columns = shutil.get_terminal_size().columns if width is None else width
    if not ascii_only:
        drawn = _draw(report, columns, _BLOCKS)
        # The names count as well: a code page may know the blocks and not the letters.
        if ascii_only is not None or _can_be_printed(drawn):
            return drawn
    return _draw(report, columns, _ASCII)


def _draw(report: Report, columns: int, ink: str) -> str:
    """Draw the timeline with these characters."""
    plain, span = ink.isascii(), span_of(report)
    names = [clean(outcome.name, plain=plain) for outcome in report.outcomes]
    statuses = [outcome.status.value for outcome in report.outcomes]
    durations = [human(outcome.duration) for outcome in report.outcomes]
    word, number = longest(statuses), longest(durations)
    brief = [f"{status:{word}} " for status in statuses]
    full = [f"{fact}{text:>{number}} " for fact, text in zip(brief, durations, strict=True)]
    fitting = (facts for facts in (full, brief) if columns - longest(facts) >= _NARROW)
    facts = next(fitting, [""] * len(names))
    room = columns - longest(facts)
    beside = min(longest(names), room * 2 // 5)
    cells = max(room - beside - 1, 1)
    heading = headline(report, plain=plain)
    whole = f"{heading}: {counts(report)}"
    lines = [whole if width_of(whole) <= columns else fit(heading, columns, ink[3])]
    for name, fact, outcome in zip(names, facts, report.outcomes, strict=True):
        label = fit(name, beside, ink[3])
        gap = " " * (beside - width_of(label) + 1)
        lines.append(label + gap + fact + _bar(outcome, span, cells, ink))
    end = f" {human(span)}"
    if names:
        scale = "0" + (end if len(end) < cells else "").rjust(cells - 1)
        lines.append(" " * (columns - cells) + scale)
    return "\n".join(_cut(line, columns).rstrip() for line in lines)


def _bar(outcome: Outcome, span: float, cells: int, ink: str) -> str:
    fill = ink[0] if outcome.status.value == "ok" else ink[1]
    left = min(int(outcome.start / span * cells), cells - 1)
    long = round(outcome.duration / span * cells)
    if long == 0:
        # Of what is not ok even a trace is filled in, for it has to be found.
        return " " * left + (ink[2] if fill == ink[0] else fill)
    return " " * left + fill * long


def _can_be_printed(text: str) -> bool:
    try:
        # A program may have no standard output, or have put anything in its place.
        text.encode(getattr(sys.stdout, "encoding", "ascii"))
    except (LookupError, TypeError, ValueError):
        return False
    return True


def headline(report: Report, *, plain: bool = False) -> str:
    reason = report.reason
    detail = "" if reason.detail is None else f" ({reason.detail})"
    told = clean(f"{reason.trigger}{detail}", plain=plain)
    return f"unwound on {told} in {human(report.duration)}"


def counts(report: Report) -> str:
    total = len(report.outcomes)
    if total == 0:
        return "no callbacks"
    counts = Counter(outcome.status.value for outcome in report.outcomes)
    good = counts.pop("ok", 0)
    told = [
        f"{good} ok" if counts else "all ok",
        *(f"{n} {status}" for status, n in counts.items()),
    ]
    return ", ".join([f"{total} callback{'s' if total > 1 else ''}", *told])


def sentence(status: str, outcome: Outcome) -> str:
    return f"{status} after {human(outcome.duration)}: {_named(outcome)}"


def _named(outcome: Outcome) -> str:
    return clean(f"{outcome.name} ({outcome.origin})")


def exception_lines(outcome: Outcome) -> list[str]:
    """Return the lines of what `describe` says, fit to be shown."""
    text: str | None = outcome.to_dict()["exception"]
    return [clean(line) for line in (text or "").expandtabs(4).splitlines()]


def _slowest(report: Report) -> list[Outcome]:
    return sorted(report.outcomes, key=lambda outcome: outcome.duration, reverse=True)


def span_of(report: Report) -> float:
    """Return the seconds that a timeline shows: at least a microsecond, for it divides by them."""
    ends = (outcome.start + outcome.duration for outcome in report.outcomes)
    return max(1e-6, report.duration, *ends)


def human(seconds: float) -> str:
    """Return a duration as people read it: 85us, 1.2ms, 120ms, 5.003s, 2min 5.003s."""
    for limit, unit, size, decimals in _UNITS:
        if seconds < limit:
            return f"{seconds / size:.{decimals}f}{unit}"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}min {rest:.3f}s" if minutes else f"{rest:.3f}s"


def clean(text: str, *, plain: bool = False) -> str:
    """Escape what would break a line, steer a terminal or spoil XML; if `plain`, all but ASCII."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    clean = "".join(shown)
    return clean.encode("ascii", "backslashreplace").decode() if plain else clean


def width_of(text: str) -> int:
    """Return how many columns a text takes: East Asian letters two, combining marks none."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.east_asian_width(char) in "WF":
        return 2
    # U+FE0F can make the emoji before it wide, so it gets the column that this takes.
    return 0 if unicodedata.category(char) in ("Mn", "Me") and char != "\ufe0f" else 1


def longest(texts: Iterable[str]) -> int:
    return max(map(width_of, texts), default=0)


def _cut(text: str, columns: int) -> str:
    """Return as much of the text's beginning as fits."""
    used = 0
    for index, char in enumerate(text):
        used += _cells(char)
        if used > columns:
            return text[:index]
    return text


def fit(text: str, columns: int, mark: str = "…") -> str:
    """Cut out the middle of what is too long: both ends of a qualified name say something."""
    if width_of(text) <= columns:
        return text
    tail = _cut(text[::-1], (columns - 1) // 2)[::-1]
    return _cut(_cut(text, columns - 1 - width_of(tail)) + mark + tail, columns)
