"""Draw the docs' pictures from real runs: `python3 dev.py pictures` runs this.

docs/demo.svg is the report of the demo's shutdown, docs/exit.svg the order of a program's end.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, DOCS = ROOT / "examples", ROOT / "docs"

# In pixels, and narrow, for a phone shows it at about nine tenths of this.
WIDTH, ROW, TOP, LINE = 380, 30, 64, 22
STYLE = """\
.exit text{font:14px system-ui,"Segoe UI",Helvetica,Arial,sans-serif}
.exit .title,.exit .ours{font-weight:bold}
.exit .line{stroke-width:2}
"""
THEMES = {
    "light": {"page": "#ffffff", "ink": "#1f2328", "dim": "#59636e", "ours": "#00609a"},
    "dark": {"page": "#0d1117", "ink": "#e6edf3", "dim": "#a3acb7", "ours": "#6cc0f5"},
}
# Where a phase begins, and what it is.
PHASES = {
    "main returns": "asyncio.run tears the loop down",
    "the main module ends": "the interpreter exits",
}
OURS = "lastly: "


def order_of_an_exit() -> list[str]:
    command = [sys.executable, str(EXAMPLES / "exit_order.py")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def colours(theme: str) -> str:
    of = THEMES[theme]
    return (
        f".exit .page{{fill:{of['page']}}}.exit text{{fill:{of['ink']}}}"
        f".exit .phase{{fill:{of['dim']}}}.exit .line{{stroke:{of['dim']}}}"
        f".exit .dot{{fill:{of['page']};stroke:{of['dim']};stroke-width:2}}"
        f".exit .ours{{fill:{of['ours']};stroke:none}}"
    )


def draw(steps: Sequence[str], caption: str) -> str:
    """Return the picture: a line from the top to the bottom, and lastly's places on it."""
    height = TOP + ROW * (len(steps) + len(PHASES))

    def parts() -> Iterator[str]:
        yield f'<svg xmlns="http://www.w3.org/2000/svg" class="exit" role="img" width="{WIDTH}" '
        yield f'height="{height}" viewBox="0 0 {WIDTH} {height}">'
        yield f"<title>{escape(caption)}: {escape('; '.join(steps))}</title>\n<style>\n{STYLE}"
        yield f"{colours('light')}\n@media(prefers-color-scheme:dark){{{colours('dark')}}}\n"
        yield f'</style>\n<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>\n'
        yield f'<text class="title" x="12" y="28">{escape(caption)}</text>\n'
        yield f'<path class="line" d="M{LINE} {TOP - 12}V{height - ROW}"/>\n'
        y = TOP
        for step in steps:
            if step in PHASES:
                yield f'<rect class="page" x="{LINE - 2}" y="{y - 16}" width="4" height="{ROW - 4}"/>'
                yield f'<text class="phase" x="12" y="{y + 4}">{escape(PHASES[step])}</text>\n'
                y += ROW
            kind = "ours" if step.startswith(OURS) else "theirs"
            radius = 7 if kind == "ours" else 5
            yield f'<circle class="dot {kind}" cx="{LINE}" cy="{y}" r="{radius}"/>'
            yield f'<text class="{kind}" x="{LINE + 18}" y="{y + 5}">{escape(step)}</text>\n'
            y += ROW
        yield "</svg>\n"

    return "".join(parts())


# The demo's app, which draws as narrow as this: a report's picture is as wide as a desk's screen.
NARROW = """\
import runpy
from lastly import _picture
_picture._PICTURE = {width}
runpy.run_path({app!r}, run_name="__main__")
"""


def draw_demo(path: Path) -> None:
    with TemporaryDirectory() as directory:
        app = Path(directory, "webapp.py")
        app.write_text(NARROW.format(width=WIDTH, app="examples/webapp.py"))
        demo = [sys.executable, str(EXAMPLES / "demo.py"), str(app), "--svg", str(path)]
        subprocess.run(demo, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    draw_demo(DOCS / "demo.svg")
    (DOCS / "exit.svg").write_text(draw(order_of_an_exit(), "How a program ends"))
    print("wrote docs/demo.svg and docs/exit.svg")


if __name__ == "__main__":
    main()
