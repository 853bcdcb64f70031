"""How cost grows with the number of callbacks, as an SVG picture that stands alone.

Both axes are logarithmic. Is told what to draw; imports nothing of the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

# In pixels, and narrow, for a phone shows it at about two thirds of this.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 340, 58, 20, 62, 46
# In light and in dark, and a sign for those who cannot tell the colours apart.
COLOURS = [("#0072b2", "#56b4e9"), ("#b3401a", "#ff9466"), ("#59636e", "#a3acb7")]
SIGNS = ["M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-4-4h8v8h-8z", "M0-5l5 9h-10z"]
STYLE = """\
.growth text{font:13px system-ui,"Segoe UI",Helvetica,Arial,sans-serif}
.growth .title{font-size:14px;font-weight:bold}
.growth .line{fill:none;stroke-width:2}
"""
THEMES = (
    {"page": "#ffffff", "ink": "#1f2328", "grid": "#d1d9e0"},
    {"page": "#0d1117", "ink": "#e6edf3", "grid": "#303843"},
)

Points = Sequence[tuple[int, float]]  # how many, and the seconds for each of them


def colours(dark: bool) -> str:
    theme = THEMES[dark]
    rules = [
        f".growth .page{{fill:{theme['page']}}}",
        f".growth text{{fill:{theme['ink']}}}",
        f".growth .grid{{stroke:{theme['grid']}}}",
    ]
    for n, pair in enumerate(COLOURS):
        rules.append(f".growth .l{n}{{stroke:{pair[dark]}}}.growth .s{n}{{fill:{pair[dark]}}}")
    return "\n".join(rules)


def decades(values: Sequence[float]) -> range:
    """Return the powers of ten that hold all of the values."""
    low, high = (math.log10(value) for value in (min(values), max(values)))
    return range(math.floor(low), max(math.ceil(high), math.floor(low) + 1) + 1)


def human(power: int) -> str:
    """Return ten to this power of seconds, as in "10 us"."""
    unit = max(-3, power // 3)
    return f"{10 ** (power - 3 * unit)} {('s', 'ms', 'us', 'ns')[-unit]}"


def draw(lines: Mapping[str, Points], caption: str) -> str:
    """Return the picture: a line for each contestant, at most as many as there are colours."""
    across = decades([n for points in lines.values() for n, _ in points])
    up = decades([seconds for points in lines.values() for _, seconds in points])

    def x(power: float) -> float:
        return LEFT + (power - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT)

    def y(power: float) -> float:
        return HEIGHT - BOTTOM - (power - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)

    def parts() -> Iterator[str]:
        yield f'<svg xmlns="http://www.w3.org/2000/svg" class="growth" role="img" width="{WIDTH}" '
        yield f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"><title>{escape(caption)}</title>\n'
        yield f"<style>\n{STYLE}{colours(False)}\n"
        yield f"@media(prefers-color-scheme:dark){{\n{colours(True)}\n}}\n</style>\n"
        yield f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>\n'
        yield f'<text class="title" x="14" y="24">{escape(caption)}</text>\n'
        for power in up:
            yield f'<path class="grid" d="M{LEFT} {y(power):.1f}H{WIDTH - RIGHT}"/>'
            yield f'<text x="{LEFT - 8}" y="{y(power) + 4:.1f}" text-anchor="end">'
            yield f"{human(power)}</text>\n"
        for power in across:
            yield f'<path class="grid" d="M{x(power):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
            yield f'<text x="{x(power):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            yield f"{label(power)}</text>\n"
        middle = (LEFT + WIDTH - RIGHT) / 2
        yield f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">callbacks</text>\n'
        start = 14.0
        for n, (who, points) in enumerate(lines.items()):
            at = [(x(math.log10(count)), y(math.log10(seconds))) for count, seconds in points]
            path = "L".join(f"{across:.1f} {up:.1f}" for across, up in at)
            yield f'<path class="line l{n}" d="M{path}"/>'
            for where in [*at, (start + 5, 43.0)]:
                yield f'<path class="s{n}" transform="translate({where[0]:.1f} {where[1]:.1f})" '
                yield f'd="{SIGNS[n]}"/>'
            yield f'\n<text x="{start + 16}" y="47">{escape(who)}</text>\n'
            start += 36 + 7.5 * len(who)
        yield "</svg>\n"

    return "".join(parts())


def label(power: int) -> str:
    return f"{10**power:,}" if power < 6 else f"{10 ** (power - 6):,} M"
