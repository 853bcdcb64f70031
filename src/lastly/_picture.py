"""How a report looks: its timeline as an SVG picture that stands alone.

Loaded when somebody wants to see it. May import _render only.
"""

from __future__ import annotations

import re
from html import escape

from ._render import (
    clean,
    counts,
    exception_lines,
    fit,
    headline,
    human,
    longest,
    sentence,
    span_of,
    summary,
    width_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._outcome import Outcome, Report

# An SVG in pixels (the widths of the picture, its edge, the gap between columns, a letter; the
# heights of the heading and a row; a bar's rim), and at most how many letters, ticks, and rows
# that are seen without scrolling.
_PICTURE, _EDGE, _GAP, _CELL, _TOP, _ROW, _RIM = 960, 20, 18, 7.2, 92, 24, 2
_LETTERS, _TICKS, _SCREEN = 36, 6, 25

# Everything is told from other SVGs on the same page by the class of the whole.
_STYLE = """\
.lastly text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;\
white-space:pre}
.lastly .heading{font-size:15px;font-weight:bold}
.lastly .word{font-weight:bold}
.lastly .even{fill:#8090a0;fill-opacity:.1}
.lastly .odd{fill-opacity:0}
.lastly .hole{fill:none;stroke-width:2}
"""
# In light and in dark.
_COLOURS = {
    ".page{fill": ("#ffffff", "#0d1117"),
    ".hole{stroke": ("#ffffff", "#0d1117"),
    ".grid{stroke": ("#d1d9e0", "#303843"),
    "text{fill": ("#1f2328", "#e6edf3"),
    ".quiet{fill": ("#59636e", "#9198a1"),
    ".ok{fill": ("#0072b2", "#56b4e9"),
    ".failed{fill": ("#b3401a", "#ff9466"),
    ".timed_out{fill": ("#8a5a00", "#f0c541"),
    ".forced{fill": ("#9b3f7d", "#e39ac6"),
    ".abandoned{fill": ("#59636e", "#a3acb7"),
    ".interrupted{fill": ("#00705a", "#3fc39a"),
}
# What is cut out of a bar, in 8 x 8 pixels: a sign for those who cannot tell the colours apart.
_HOLES = {
    "failed": "M-2 2l4-4M0 8l8-8M6 10l4-4",
    "timed_out": "M2 0v8M6 0v8",
    "forced": "M-2 6l4 4M0 0l8 8M6-2l4 4",
    "abandoned": "M1 2h3M5 6h3",
    "interrupted": "M0 4h8",
}

# Round distances between the ticks of a time axis, in seconds.
_STEPS = [
    *(digit * 10.0**power for power in range(-6, 1) for digit in (1, 2, 5)),
    *(10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
    *(digit * 3600.0 * 10.0**power for power in range(12) for digit in (1, 2, 5)),
]


def to_svg(report: Report) -> str:
    """Return the timeline as an SVG picture that needs nothing beside it."""
    names = [fit(clean(outcome.name), _LETTERS) for outcome in report.outcomes]
    words = _EDGE + _CELL * longest(names) + _GAP
    statuses = longest(outcome.status.value for outcome in report.outcomes)
    durations = longest(human(outcome.duration) for outcome in report.outcomes)
    numbers = words + _CELL * (statuses + durations) + _GAP
    bars = numbers + _GAP
    scale = (_PICTURE - 2 * _EDGE - bars) / span_of(report)
    height = _TOP + _ROW * len(names) + _EDGE * 3 // 2
    heading = f"lastly {headline(report)}"
    size = f'width="{_PICTURE}" height="{height}"'
    box = f'class="lastly" role="img" {size} viewBox="0 0 {_PICTURE} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f"<title>{escape(heading)}</title>",
        f"<desc>{escape(summary(report))}</desc>",
        *_definitions(),
        f'<rect class="page" {size}/>',
        _text(_EDGE, 36, fit(heading, 100), "heading", cell=9),
        _text(_EDGE, 58, counts(report), "quiet"),
    ]
    if names:
        parts += _axis(span_of(report), bars, scale, len(names))
    for number, (name, outcome) in enumerate(zip(names, report.outcomes, strict=True)):
        parts += _row(number, outcome, name, (words, numbers, bars), scale)
    return "\n".join([*parts, "</svg>\n"])


def _row(
    number: int, outcome: Outcome, name: str, columns: tuple[float, float, float], scale: float
) -> list[str]:
    words, numbers, bars = columns
    status = outcome.status.value
    y = _TOP + _ROW * number
    x = bars + outcome.start * scale
    long = max(outcome.duration * scale, _RIM + 1)  # nothing is too short to be seen
    # The band is the row's whole width, so that the tooltip shows wherever one points.
    band = f'x="{_EDGE / 2}" y="{y}" width="{_PICTURE - _EDGE}" height="{_ROW}"'
    parts = [
        f"<g><title>{escape(_tooltip(outcome))}</title>",
        f'<rect class="{"odd" if number % 2 else "even"}" {band}/>',
        _text(_EDGE, y + 16, name),
        _text(words, y + 16, status, "quiet" if status == "ok" else f"word {status}"),
        _text(numbers, y + 16, human(outcome.duration), anchor="end"),
        f'<rect class="bar {status}" x="{x:.2f}" y="{y + 5}" width="{long:.2f}" height="14"/>',
    ]
    if status in _HOLES and long > 2 * _RIM:
        inner = f'x="{x + _RIM:.2f}" y="{y + 7}" width="{long - 2 * _RIM:.2f}" height="10"'
        parts.append(f'<rect fill="url(#lastly-{status})" {inner}/>')
    return [*parts, "</g>"]


def _axis(span: float, left: float, scale: float, rows: int) -> list[str]:
    step = next(step for step in _STEPS if span / step <= _TICKS)
    # 0.3 / 0.1 is a little less than 3, and the last tick shall not be lost by that.
    ticks = [number * step for number in range(int(span / step + 1e-9) + 1)]
    bottom = _TOP + _ROW * rows
    heights = [_TOP - 10, bottom + 20] if rows > _SCREEN else [_TOP - 10]
    lines = [f"M{left + tick * scale:.2f} {_TOP - 4}V{bottom + 4}" for tick in ticks]
    labels = [
        _text(left + tick * scale, y, _tick(tick), "quiet", "middle")
        for y in heights
        for tick in ticks
    ]
    return [f'<path class="grid" d="{"".join(lines)}"/>', *labels]


def _definitions() -> list[str]:
    light, dark = (
        "".join(f".lastly {rule}:{colours[theme]}}}\n" for rule, colours in _COLOURS.items())
        for theme in (0, 1)
    )
    query = f"@media (prefers-color-scheme:dark){{\n{dark}}}\n"
    patterns = [
        f'<pattern id="lastly-{status}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<path class="hole" d="{path}"/></pattern>'
        for status, path in _HOLES.items()
    ]
    return [f"<style>{_STYLE}{light}{query}</style>", "<defs>", *patterns, "</defs>"]


def _text(
    x: float, y: float, text: str, kind: str = "", anchor: str = "start", cell: float = _CELL
) -> str:
    # Whatever font there is, the text takes the room that the layout has for it.
    long = f'textLength="{max(width_of(text), 1) * cell:.1f}" lengthAdjust="spacingAndGlyphs"'
    place = f'x="{x:.2f}" y="{y}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place} {long}>{escape(text)}</text>'


def _tooltip(outcome: Outcome) -> str:
    begun = f"began at {human(outcome.start)}"
    return "\n".join([sentence(outcome.status.value, outcome), begun, *exception_lines(outcome)])


def _tick(seconds: float) -> str:
    """Return a round duration without the zeros: 0, 500us, 2ms, 1.5s, 2min."""
    text = human(seconds)
    if "." in text:
        text = re.sub(r"\.?0*(m?s)$", r"\1", text)
    return text.replace("min 0s", "min") if seconds else "0"
