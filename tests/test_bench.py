"""The bench runs, and tells of each row. How long things take is no test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench.__main__ import growth
from bench.report import as_markdown
from bench.rows import SIZES, rows

ROOT = Path(__file__).resolve().parent.parent
ROWS = rows(SIZES["smoke"])
PARTS = ["how", "{}.{}".format(*sys.version_info), "peers"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a run with next to no callbacks printed, and the folder that it wrote into."""
    folder = tmp_path_factory.mktemp("bench")
    page = "".join(
        f"before\n<!-- bench {part} -->\nwhat was here\n<!-- end -->\n" for part in PARTS
    )
    (folder / "performance.md").write_text(page)
    options = ["--size", "smoke", "--json", folder / "bench.json", "--docs-in", folder]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *options],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, folder


def test_the_table_has_each_row_and_each_contestant(ran) -> None:
    """One table tells of everyone that was measured, with a ratio to each peer."""
    printed = ran[0].splitlines()
    for row in ROWS:
        start = next(n for n, line in enumerate(printed) if line.startswith(f"{row.what} "))
        wanted = {row.ours, *(row.shown or row.contestants)}
        block = printed[start : start + len(wanted)]
        assert block[0].removeprefix(row.what).lstrip().startswith(row.ours)
        for who in wanted:
            [line] = [line for line in block if f"  {who}  " in line]
            assert (" x" in line) == (who == row.against or not who.startswith("lastly"))
            assert (f"{row.goal:g} x, m" in line if row.goal else False) == (who == row.against)


def test_the_json_holds_every_value(ran) -> None:
    """`--json` writes the rows with their medians, ratios and goals, and what was measured where."""
    told = json.loads((ran[1] / "bench.json").read_text())
    assert [row["what"] for row in told["rows"]] == [row.what for row in ROWS]
    assert {"python", "system", "processor", "lastly", "anyio"} <= told["machine"].keys()
    for row, row_told in zip(ROWS, told["rows"], strict=True):
        by_name = {contestant["who"]: contestant for contestant in row_told["contestants"]}
        assert by_name.keys() == row.contestants.keys()
        assert all(min(c["values"]) <= c["median"] <= max(c["values"]) for c in by_name.values())
        if row.goal is not None:
            ratio = by_name[row.ours]["median"] / by_name[row.against]["median"]
            assert by_name[row.against]["ratio"] == pytest.approx(ratio)
            assert row_told["met"] == (ratio <= row.goal)


def test_the_page_is_written_between_its_marks(ran) -> None:
    """`--docs` replaces what is between two lines of the page, and nothing else of it."""
    told = json.loads((ran[1] / "bench.json").read_text())
    page = (ran[1] / "performance.md").read_text()
    assert "what was here" not in page
    assert page.count("before\n<!-- bench ") == page.count("<!-- end -->\n") == len(PARTS)
    assert as_markdown(ROWS, told) in page


def test_the_picture_has_a_point_for_each_count(ran) -> None:
    """The picture of how cost grows is a well-formed SVG, with each count of each contestant."""
    told = json.loads((ran[1] / "bench.json").read_text())
    picture = (ran[1] / "growth.svg").read_text()
    assert picture == growth(ROWS, told)
    svg = ElementTree.fromstring(picture)
    [grown] = [row for row in ROWS if row.shown]
    legend = len(grown.contestants) // len(SIZES["smoke"].growth)
    signs = [path for path in svg.iter() if "transform" in path.attrib]
    assert len(signs) == len(grown.contestants) + legend


@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_the_page_has_a_place_for_what_is_measured(version: str) -> None:
    """docs/performance.md has the marks that `--docs` writes between."""
    page = (ROOT / "docs/performance.md").read_text()
    for part in ["how", version, "peers"]:
        assert page.count(f"<!-- bench {part} -->\n") == 1
