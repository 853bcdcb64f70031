"""R30: how a report looks: summary, blame, timeline, SVG."""

from __future__ import annotations

import io
import os
import re
import sys
import unicodedata
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from lastly import Outcome, Reason, Report, Status

summary, blame, timeline, to_svg = str, Report.blame, Report.timeline, Report.to_svg


def outcome(
    name: str = "close",
    status: str = "ok",
    start: float = 0.0,
    duration: float = 0.0,
    exception: BaseException | None = None,
    filename: str = "/srv/app.py",
    line: int = 7,
) -> Outcome:
    code = outcome.__code__.replace(co_filename=filename, co_firstlineno=line)
    return Outcome(name, (code, 0), Status(status), start, duration, exception)


def report_of(*outcomes: Outcome, duration: float = 0.0, reason: Reason | None = None) -> Report:
    return Report(reason or Reason("close", "deploy"), outcomes, duration)


STATUSES = ["ok", "failed", "timed_out", "forced", "abandoned", "interrupted"]

SEVEN = report_of(
    outcome("flush", "ok", 0.0, 0.1203, line=11),
    outcome("cache", "ok", 0.1203, 0.000085, line=12),
    outcome("pool", "timed_out", 0.1204, 5.003, TimeoutError("too long\n\nat app.py:3"), line=13),
    outcome("app.<locals>.stop_all", "ok", 5.1234, 1.8, line=14),
    outcome("mail", "failed", 6.9234, 0.0123, ValueError("boom"), line=15),
    outcome("连接池", "forced", 6.9357, 0.4, line=16),
    outcome("log", "ok", 7.3357, 0.0002, line=17),
    duration=7.3361,
)
TOGETHER = report_of(
    *(outcome(f"w{n}", s, 0.01 * n, 0.4 + 0.3 * n) for n, s in enumerate(STATUSES)), duration=2.0
)
MANY = report_of(
    *(
        outcome(
            ["a", "名" * n, "x" * n, "e\u0301" * n, "<&>\x1b[31m\n\x00\ud800\ufffe", ""][n % 6],
            STATUSES[n % 5],
            n * 0.7,
            [0, 1e-6, 3e-4, 0.02, 1.5, 9, 80][n % 7],
            ValueError("]]> & \x00") if n % 5 else None,
        )
        for n in range(200)
    ),
    duration=200.0,
)
EMPTY = report_of(duration=0.000003, reason=Reason("interpreter exit"))
REPORTS = {
    "seven": SEVEN,
    "together": TOGETHER,
    "many": MANY,
    "empty": EMPTY,
    "one": report_of(outcome("pool.close", "ok", 0.00001, 0.00034), duration=0.0004),
    "wordy": report_of(outcome(), duration=1.0, reason=Reason("close", "<&> 再见 " * 30)),
    "instant": report_of(outcome(), outcome("b", "failed")),
}
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


# What is the same in all of them


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0us"),
        (0.0000004, "0us"),
        (0.000085, "85us"),
        (0.00099949, "999us"),
        (0.0009995, "1.0ms"),
        (0.00123, "1.2ms"),
        (0.00994, "9.9ms"),
        (0.00996, "10ms"),
        (0.12, "120ms"),
        (0.9994, "999ms"),
        (0.9996, "1.000s"),
        (5.003, "5.003s"),
        (59.9994, "59.999s"),
        (59.9996, "1min 0.000s"),
        (125.003, "2min 5.003s"),
        (6000.5, "100min 0.500s"),
    ],
)
def test_durations_are_for_people(seconds: float, told: str) -> None:
    """R30: a duration is given in the unit that suits it, and rounding never says 1000ms."""
    assert blame(report_of(outcome(duration=seconds))) == f"{told} close (/srv/app.py:7)"


HOSTILE = "a\nb\r\x1b[31m\x9b\u2028\u202e\u200b\x00\ud800"
TAMED = r"a\nb\r\x1b[31m\x9b\u2028\u202e\u200b\x00\ud800"


def test_control_characters_are_neutralised() -> None:
    """R30: no name, file or reason breaks a line or steers the terminal; all are still told."""
    bad = outcome(HOSTILE, "failed", exception=ValueError(HOSTILE), filename=HOSTILE)
    report = report_of(bad, reason=Reason("close", HOSTILE))
    for text in (summary(report), blame(report), timeline(report, width=300, ascii_only=False)):
        assert all(char.isprintable() or char == "\n" for char in text)
        assert f"{TAMED}" in text
    assert len(blame(report).splitlines()) == 1
    assert len(timeline(report, width=300).splitlines()) == 3
    assert f"{TAMED} ({TAMED}:7)" in blame(report)
    assert summary(report).startswith(f"lastly unwound on close ({TAMED}) in 0us: 1 callback,")


# The summary


def test_summary_tells_what_went_wrong() -> None:
    """R30: the summary counts, then tells what was not ok as it ran, then what was slow."""
    assert summary(SEVEN) == "\n".join(
        [
            "lastly unwound on close (deploy) in 7.336s: "
            "7 callbacks, 4 ok, 1 timed_out, 1 failed, 1 forced",
            "  timed_out after 5.003s: pool (/srv/app.py:13)",
            "    TimeoutError: too long",
            "",
            "    at app.py:3",
            "  failed after 12ms: mail (/srv/app.py:15)",
            "    ValueError: boom",
            "  forced after 400ms: 连接池 (/srv/app.py:16)",
            "  slow but ok after 1.800s: app.<locals>.stop_all (/srv/app.py:14)",
        ]
    )


def test_summary_of_what_went_well_is_one_line() -> None:
    """R30: with nothing wrong and nothing slow, the summary is one line."""
    told = "lastly unwound on scope exit in 20ms: "
    one = report_of(outcome(), duration=0.02, reason=Reason("scope exit"))
    two = report_of(outcome(), outcome(), duration=0.02, reason=Reason("scope exit"))
    assert summary(one) == f"{told}1 callback, all ok"
    assert summary(two) == f"{told}2 callbacks, all ok"
    assert summary(EMPTY) == "lastly unwound on interpreter exit in 3us: no callbacks"
    assert summary(report_of(outcome(status="failed"))).splitlines()[0].endswith("0 ok, 1 failed")


def test_summary_names_the_three_slowest() -> None:
    """R30: the summary names at most three slow callbacks, the slowest first."""
    durations = [1.0, 0.99, 3.0, 2.0, 4.0]
    slow = [outcome(f"n{n}", duration=duration) for n, duration in enumerate(durations)]
    names = re.findall(r"slow but ok after .*: (n\d)", summary(report_of(*slow)))
    assert names == ["n4", "n2", "n3"]
    assert "n0" in summary(report_of(*slow[:2]))
    assert "n1" not in summary(report_of(*slow[:2]))


def test_summary_of_an_exception_without_text() -> None:
    """R30: an exception whose str() raises, or that has tabs in it, is told as well as it can be."""

    class BadError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    bad = outcome(status="failed", exception=BadError())
    tabs = outcome(status="failed", exception=ValueError("a\n\tb"))
    told = summary(report_of(bad, tabs))
    assert "BadError: <its text cannot be shown>" in told
    assert told.endswith("    ValueError: a\n        b")


# Blame


def test_blame_lists_the_slowest_first() -> None:
    """R30: blame() lists the slowest first: duration, name, origin, and status unless ok."""
    assert blame(SEVEN).splitlines() == [
        "5.003s pool (/srv/app.py:13) timed_out",
        "1.800s app.<locals>.stop_all (/srv/app.py:14)",
        " 400ms 连接池 (/srv/app.py:16) forced",
        " 120ms flush (/srv/app.py:11)",
        "  12ms mail (/srv/app.py:15) failed",
        " 200us log (/srv/app.py:17)",
        "  85us cache (/srv/app.py:12)",
    ]


def test_blame_keeps_the_order_of_equals() -> None:
    """R30: what took equally long is listed in the order in which it ran."""
    names = ["c", "a", "b"]
    told = blame(report_of(*(outcome(name, duration=1.0) for name in names)))
    assert re.findall(r"s (\w) ", told) == names


def test_blame_of_nothing() -> None:
    """R30: blame() of no callbacks says so."""
    assert blame(EMPTY) == "no callbacks"


# The timeline


def columns(line: str) -> int:
    """Count a line's columns, independently of the code under test."""
    wide = sum(unicodedata.east_asian_width(char) in {"W", "F"} for char in line)
    return len(line) + wide - sum(unicodedata.combining(char) > 0 for char in line)


def test_timeline_draws_bars_where_they_were() -> None:
    """R30: timeline() has a header, a row per outcome as it ran with its bar, and a scale."""
    report = report_of(
        outcome("first", "ok", 0.0, 2.0),
        outcome("second", "timed_out", 2.0, 5.0),
        outcome("third", "ok", 7.0, 0.0001),
        outcome("fourth", "failed", 10.0, 0.0),
        duration=10.0,
    )
    assert timeline(report, width=44, ascii_only=False).splitlines() == [
        "unwound on close (deploy) in 10.000s",
        "first  ok        2.000s ████",
        "second timed_out 5.000s     ▒▒▒▒▒▒▒▒▒▒",
        "third  ok         100us               ▏",
        "fourth failed       0us                    ▒",
        "                        0            10.000s",
    ]
    assert timeline(report, width=44, ascii_only=True).splitlines() == [
        "unwound on close (deploy) in 10.000s",
        "first  ok        2.000s ####",
        "second timed_out 5.000s     xxxxxxxxxx",
        "third  ok         100us               |",
        "fourth failed       0us                    x",
        "                        0            10.000s",
    ]


def test_timeline_header_tells_what_there_is_room_for() -> None:
    """R30: the header has the reason and the total, and the counts where they fit."""
    header = lambda width: timeline(SEVEN, width=width, ascii_only=False).splitlines()[0]
    whole = summary(SEVEN).splitlines()[0].removeprefix("lastly ")
    assert header(len(whole)) == whole
    assert header(len(whole) - 1) == "unwound on close (deploy) in 7.336s"
    assert header(35) == "unwound on close (deploy) in 7.336s"
    assert header(21) == "unwound on… in 7.336s"


def test_timeline_shows_what_overlaps() -> None:
    """R30: bars that overlap in time lie under each other."""
    report = report_of(outcome("a", "ok", 0, 8), outcome("b", "ok", 4.3, 7.7), duration=12.0)
    first, second = timeline(report, width=36, ascii_only=True).splitlines()[1:3]
    begins = first.index("#")
    assert (first.count("#"), second.count("#")) == (16, 15)
    assert second.index("#") == begins + 8


def test_timeline_holds_what_outlived_the_unwind() -> None:
    """R30: an outcome that ends after the report does is drawn whole."""
    report = report_of(outcome("a", "ok", 1.0, 3.0), duration=2.0)
    rows = timeline(report, width=36, ascii_only=True).splitlines()
    assert rows[1].endswith(" " * 6 + "#" * 18)
    assert rows[2].endswith(" 4.000s")
    assert "in 2.000s" in rows[0]


@every_report
@pytest.mark.parametrize("ascii_only", [True, False])
def test_timeline_keeps_to_its_width(report: Report, ascii_only: bool) -> None:
    """R30: no line is ever wider than the width asked for, and every outcome has its line."""
    for width in [-1, 0, *range(1, 50), 79, 80, 81, 120, 300]:
        lines = timeline(report, width=width, ascii_only=ascii_only).split("\n")
        assert len(lines) == (1 if report is EMPTY else len(report.outcomes) + 2)
        assert all(columns(line) <= max(width, 0) for line in lines)
        assert all(line == line.rstrip() for line in lines)
        if width > 3:
            assert all(line[-1] in "█▒▏#x|" for line in lines[1:-1])


def test_timeline_in_little_room() -> None:
    """R30: in little room the duration goes first, then the status; name and bar stay."""
    row = lambda width: timeline(SEVEN, width=width, ascii_only=True).splitlines()[3]
    assert row(37) == "pool     timed_out 5.003s xxxxxxxx"
    assert row(36) == "pool       timed_out xxxxxxxxxx"
    assert row(30) == "pool     timed_out xxxxxxxx"
    assert row(29) == "pool        xxxxxxxxxxxx"
    scale = lambda width: timeline(SEVEN, width=width, ascii_only=True).splitlines()[-1].split()
    assert scale(17) == ["0", "7.336s"]
    assert scale(12) == ["0"]


def test_timeline_cuts_long_names_in_the_middle() -> None:
    """R30: of a long name both ends are shown, since a qualified name's end says the most."""
    report = report_of(outcome("create_app.<locals>.stop_consumers", duration=1.0), duration=1.0)
    row = timeline(report, width=41, ascii_only=False).splitlines()[1]
    assert row.startswith("create…umers ok 1.000s █")


def test_timeline_aligns_wide_and_combining_characters() -> None:
    """R30: bars begin in the same column whatever the names are written in."""
    names = ["abcdef", "连接池", "e\u0301e\u0301abcd", "Ａb名c", "ab❤\ufe0fcde"]
    report = report_of(*(outcome(name, duration=1.0) for name in names), duration=1.0)
    rows = timeline(report, width=50, ascii_only=False).splitlines()[1:-1]
    begins = {columns(row[: row.index("█")]) for row in rows[:4]}
    assert begins == {18}
    # An emoji made wide by U+FE0F has a column to spare, for terminals differ.
    assert len(rows[4].partition("█")[0]) == 18


@every_report
def test_timeline_in_ascii(report: Report) -> None:
    """R30: in ASCII every character is, names and reason included."""
    odd = Report(Reason("close", "再见"), report.outcomes, report.duration)
    drawn = timeline(odd, width=200, ascii_only=True)
    assert drawn.isascii()
    assert r"(\u518d\u89c1)" in drawn
    assert (r"\u540d" in drawn) == (report is MANY)


@pytest.mark.parametrize(
    ("encoding", "blocks"),
    [
        ("utf-8", True),
        ("ascii", False),
        ("latin-1", False),
        ("cp437", False),
        (None, False),
        ("no such encoding", False),
        (7, False),
    ],
)
def test_timeline_asks_what_stdout_can_print(
    monkeypatch: pytest.MonkeyPatch, encoding: object, blocks: bool
) -> None:
    """R30: where standard output cannot take the blocks, the timeline is in ASCII."""
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding=encoding))
    drawn = timeline(SEVEN, width=80)
    assert drawn == timeline(SEVEN, width=80, ascii_only=not blocks)
    assert ("█" in drawn) == blocks
    assert "█" in timeline(SEVEN, width=80, ascii_only=False)


def test_timeline_minds_names_that_stdout_cannot_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """R30: where standard output has the blocks but not a name, the timeline is in ASCII."""
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="cp437"))
    named = lambda name: timeline(report_of(outcome(name, duration=1.0), duration=1.0), width=60)
    assert "█" in named("pool")
    assert named("连接池").isascii()


def test_timeline_without_a_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """R30: a standard output that is None, closed or broken is no error."""
    closed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    closed.close()

    class Broken:
        @property
        def encoding(self) -> str:
            raise ValueError("underlying buffer has been detached")

    for stdout, plain in ((None, True), (Broken(), True), (closed, False)):
        monkeypatch.setattr(sys, "stdout", stdout)
        assert timeline(SEVEN, width=80).isascii() == plain


def test_timeline_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """R30: without a width the timeline takes the terminal's."""
    monkeypatch.setenv("COLUMNS", "63")
    assert timeline(SEVEN, ascii_only=True) == timeline(SEVEN, width=63, ascii_only=True)
    monkeypatch.setenv("COLUMNS", "101")
    assert timeline(SEVEN, ascii_only=True) == timeline(SEVEN, width=101, ascii_only=True)
    assert os.environ["COLUMNS"] == "101"


# The picture

SVG = "{http://www.w3.org/2000/svg}"


def picture(report: Report) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(report).encode())


def rows_of(root: ElementTree.Element) -> list[ElementTree.Element]:
    return root.findall(f"{SVG}g")


def box(element: ElementTree.Element) -> tuple[float, float, float, float]:
    """Return the left, right, top and bottom of a text or a rectangle."""
    if element.tag == f"{SVG}rect":
        x, y = float(element.get("x", "0")), float(element.get("y", "0"))
        return x, x + float(element.get("width")), y, y + float(element.get("height"))
    x, y, long = (float(element.get(name)) for name in ("x", "y", "textLength"))
    left = x - {"start": 0, "middle": long / 2, "end": long}[element.get("text-anchor")]
    return left, left + long, y - 12, y + 4


def texts_of(element: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{SVG}text")]


@every_report
def test_nothing_in_the_picture_overlaps(report: Report) -> None:
    """R30: in the picture no label covers another, nor a bar, nor leaves the picture."""
    root = picture(report)
    _, _, width, height = map(float, root.get("viewBox").split())
    assert (root.get("width"), root.get("height")) == (f"{width:.0f}", f"{height:.0f}")
    labels = [box(text) for text in root.iter(f"{SVG}text")]
    assert {text.get("lengthAdjust") for text in root.iter(f"{SVG}text")} == {"spacingAndGlyphs"}
    bars = [box(rect) for row in rows_of(root) for rect in row.findall(f"{SVG}rect")[1:]]
    for left, right, top, bottom in labels + bars:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    by_line: dict[float, list[tuple[float, float]]] = {}
    for left, right, top, _ in labels:
        by_line.setdefault(top, []).append((left, right))
    for spans in by_line.values():
        spans.sort()
        assert all(a[1] + 4 < b[0] for a, b in zip(spans, spans[1:], strict=False))
    tops = sorted(by_line)
    assert all(b - a >= 16 for a, b in zip(tops, tops[1:], strict=False))
    labelled = max((box(t)[1] for row in rows_of(root) for t in row.iter(f"{SVG}text")), default=0)
    assert all(left > labelled for left, *_ in bars)


@every_report
def test_the_picture_has_a_row_for_each_outcome(report: Report) -> None:
    """R30: each row of the picture has name, status as a word, duration and a bar, as it ran."""
    rows = rows_of(picture(report))
    assert len(rows) == len(report.outcomes)
    shades = [row.find(f"{SVG}rect").get("class") for row in rows]
    assert shades == [("even", "odd")[n % 2] for n in range(len(rows))]
    for row, told in zip(rows, report.outcomes, strict=True):
        name, status, duration = texts_of(row)
        assert status == told.status
        assert blame(report_of(told)).startswith(f"{duration} ")
        assert name == told.name or not told.name.isprintable() or "…" in name
        band, bar, *pattern = row.findall(f"{SVG}rect")
        assert box(band)[:2] == (10.0, 950.0)
        assert told.status in bar.get("class").split()
        assert box(bar)[1] - box(bar)[0] >= 3
        assert told.status == "ok" or row.findall(f"{SVG}text")[1].get("class") == (
            f"word {told.status}"
        )
        assert bool(pattern) == (told.status != "ok" and box(bar)[1] - box(bar)[0] > 4)
        for inner in pattern:  # a rim of the bar is left around it
            assert [a - b for a, b in zip(box(inner), box(bar), strict=True)] == pytest.approx(
                [2, -2, 2, -2], abs=0.02
            )
        assert all(p.get("fill") == f"url(#lastly-{told.status})" for p in pattern)


def test_bars_lie_on_the_time_axis() -> None:
    """R30: in the picture, bars are where the axis says that they were."""
    root = picture(TOGETHER)
    ticks = [t for t in root.findall(f"{SVG}text") if t.get("text-anchor") == "middle"]
    assert [tick.text for tick in ticks] == ["0", "500ms", "1s", "1.5s", "2s"]
    zero, half = (float(tick.get("x")) for tick in ticks[:2])
    lines = re.findall(r"M([\d.]+) ", root.find(f"{SVG}path").get("d"))
    assert [float(line) for line in lines] == [float(tick.get("x")) for tick in ticks]
    for row, told in zip(rows_of(root), TOGETHER.outcomes, strict=True):
        left, right, *_ = box(row.findall(f"{SVG}rect")[1])
        assert left == pytest.approx(zero + told.start * (half - zero) / 0.5, abs=0.1)
        assert right - left == pytest.approx(told.duration * (half - zero) / 0.5, abs=0.1)


@pytest.mark.parametrize(
    ("duration", "ticks"),
    [
        (0, "0 1us"),
        (0.0000035, "0 1us 2us 3us"),
        (0.0005, "0 100us 200us 300us 400us 500us"),
        (0.0026, "0 500us 1ms 1.5ms 2ms 2.5ms"),
        (0.3, "0 50ms 100ms 150ms 200ms 250ms 300ms"),
        (0.7, "0 200ms 400ms 600ms"),
        (2.6, "0 500ms 1s 1.5s 2s 2.5s"),
        (50, "0 10s 20s 30s 40s 50s"),
        (100, "0 20s 40s 1min 1min,20s 1min,40s"),
        (150, "0 30s 1min 1min,30s 2min 2min,30s"),
        (600, "0 2min 4min 6min 8min 10min"),
        (9000, "0 30min 60min 90min 120min 150min"),
        (36000, "0 120min 240min 360min 480min 600min"),
    ],
)
def test_ticks_are_round(duration: float, ticks: str) -> None:
    """R30: the time axis has few ticks, at round times, whatever the duration."""
    root = picture(report_of(outcome("x" * 50, "interrupted", 0, duration), duration=duration))
    labels = [t.text for t in root.findall(f"{SVG}text") if t.get("text-anchor") == "middle"]
    assert [label.replace(" ", ",") for label in labels] == ticks.split()


def test_a_tall_picture_has_its_axis_at_the_bottom_too() -> None:
    """R30: whoever scrolls a long picture finds the time at its other end as well."""
    count = lambda n: [*texts_of(picture(report_of(*[outcome()] * n, duration=1.0)))].count("1s")
    assert (count(25), count(26)) == (1, 2)
    assert "0" not in texts_of(picture(EMPTY))


def test_the_picture_tells_all_of_a_row() -> None:
    """R30: a row's tooltip has the whole name, the origin, the times and the exception."""
    long = "module.Class.method_" * 9
    bad = outcome(long, "failed", 0.25, 1.5, ValueError("one <two>\nthree & \x1b[0m"))
    root = picture(report_of(bad, duration=2.0))
    (row,) = rows_of(root)
    assert row.find(f"{SVG}title").text.splitlines() == [
        f"failed after 1.500s: {long} (/srv/app.py:7)",
        "began at 250ms",
        "ValueError: one <two>",
        r"three & \x1b[0m",
    ]
    assert texts_of(row)[0] == "module.Class.metho…ule.Class.method_"


@every_report
def test_the_picture_is_accessible(report: Report) -> None:
    """R30: the picture is one image with a title, and the summary describes it."""
    root = picture(report)
    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    first = summary(report).splitlines()[0]
    assert first.startswith(f"{root[0].text}: ")
    assert root[1].text == summary(report)


def test_the_picture_stands_alone() -> None:
    """R30: the picture asks for no script, font, style or file, and is valid XML throughout."""
    svg = to_svg(MANY)
    root = ElementTree.fromstring(svg.encode())
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags == set("svg title desc style defs pattern path rect text g".split())
    assert not re.search(r"href|@import|@font-face|url\((?!#)|<script|<!", svg)
    assert svg.count("http") == 1
    assert all(char.isprintable() or char == "\n" for char in svg)
    used = set(re.findall(r"url\(#([^)]+)\)", svg))
    assert used == {"lastly-failed", "lastly-timed_out", "lastly-forced", "lastly-abandoned"}
    patterns = {p.get("id"): p[0].get("d") for p in root.iter(f"{SVG}pattern")}
    assert used <= patterns.keys()
    assert len(set(patterns.values())) == len(patterns) == 5


def luminance(colour: str) -> float:
    """Return the relative luminance as the WCAG defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_can_be_read(theme: str) -> None:
    """R30: in light and in dark, every text has a contrast of 4.5 to 1 with its background."""
    light, _, dark = picture(TOGETHER).find(f"{SVG}style").text.partition("@media")
    assert dark.startswith(" (prefers-color-scheme:dark){")
    chosen = light if theme == "light" else dark
    fills = dict(re.findall(r"\.lastly (\S+)\{fill:(#\w{6})\}", chosen))
    page = fills.pop(".page")
    band = [int(page[at : at + 2], 16) * 0.9 + 0.1 * c for at, c in ((1, 128), (3, 144), (5, 160))]
    band_colour = "#" + "".join(f"{round(part):02x}" for part in band)
    assert fills.keys() == {"text", ".quiet", *(f".{status}" for status in STATUSES)}
    for name, colour in fills.items():
        for background in (page, band_colour):
            dark_one, light_one = sorted([luminance(colour), luminance(background)])
            assert (light_one + 0.05) / (dark_one + 0.05) >= 4.5, name
