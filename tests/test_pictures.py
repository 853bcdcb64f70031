"""The docs' pictures show what really happens; `python3 dev.py pictures` draws them anew."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from pictures import DOCS, WIDTH, draw, draw_demo, order_of_an_exit


def test_the_order_of_an_exit_is_the_pictures() -> None:
    """R14, R16: on each Python, lastly's callbacks run where docs/exit.svg has them."""
    assert (DOCS / "exit.svg").read_text() == draw(order_of_an_exit(), "How a program ends")


def test_the_demo_closes_what_its_picture_shows(tmp_path: Path) -> None:
    """R30: docs/demo.svg has the callbacks of a run of today, if not its times."""
    shown, drawn = DOCS / "demo.svg", tmp_path / "demo.svg"
    draw_demo(drawn)

    def callbacks(path: Path) -> list[str]:
        assert ElementTree.parse(path).getroot().get("width") == str(WIDTH)
        return re.findall(
            r"<title>ok after [^:]+: (\w+ \(examples/webapp.py:\d+\))", path.read_text()
        )

    assert len(callbacks(shown)) == 3
    assert callbacks(shown) == callbacks(drawn)
