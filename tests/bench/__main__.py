"""Measure lastly beside its peers, and print one table of it.

A whole run takes about two minutes; leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from . import plot
from .report import HOW, as_dict, as_markdown, as_text, peers
from .rows import GROWING, SIZES, TOGETHER, Row, rows
from .runs import measure, work

DOCS = Path(__file__).resolve().parents[2] / "docs"
BEGIN, END = "<!-- bench {} -->", "<!-- end -->"


def growth(found: list[Row], told: dict[str, Any]) -> str:
    """Return the picture of the one row that has its contestants with many counts."""
    lines: dict[str, list[tuple[int, float]]] = {side.name: [] for side in GROWING}
    for row, row_told in zip(found, told["rows"], strict=True):
        for contestant in row_told["contestants"] if row.shown else ():
            who, _, count = contestant["who"].partition(", ")
            lines[who].append((int(count.replace(",", "")), contestant["median"]))
    caption = f"Time of each callback, {told['machine']['python']}"
    return plot.draw(lines, caption)


def replace(page: Path, name: str, text: str) -> None:
    """Put the text between the page's two lines that say so."""
    begin = BEGIN.format(name)
    before, begun, rest = page.read_text().partition(f"{begin}\n")
    _, ended, after = rest.partition(f"{END}\n")
    if not (begun and ended):
        sys.exit(f"bench: {page.name} has no lines {begin!r} and {END!r} to write between")
    page.write_text(f"{before}{begun}\n{text}\n\n{ended}{after}")


def write_docs(docs: Path, found: list[Row], told: dict[str, Any]) -> None:
    """Write this Python version's table into performance.md, and the picture beside it."""
    page = docs / "performance.md"
    replace(page, "how", HOW)
    replace(page, "{}.{}".format(*sys.version_info), as_markdown(found, told))
    replace(page, "peers", peers(told))
    (docs / "growth.svg").write_text(growth(found, told))


def main() -> None:
    parser = argparse.ArgumentParser("dev.py bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", metavar="PATH", type=Path, help="write all of it there, too")
    parser.add_argument("--docs", action="store_true", help="write it into docs/performance.md")
    parser.add_argument("--quick", action="store_true", help="a coarse look, in half a minute")
    parser.add_argument("--size", choices=SIZES, default="full", help=argparse.SUPPRESS)
    parser.add_argument("--worker", metavar="GROUP", help=argparse.SUPPRESS)
    parser.add_argument("--docs-in", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = "quick" if options.quick else options.size
    if options.worker:
        print(json.dumps(work(options.worker, size)))
        return
    found = rows(SIZES[size])
    absent = [] if TOGETHER else ["together(), which this version does not have"]
    told = as_dict(found, measure(size), absent)
    print(as_text(found, told), end="")
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    if options.docs or options.docs_in:
        write_docs(options.docs_in or DOCS, found, told)


if __name__ == "__main__":
    main()
