"""Charts: numbers in, an SVG element out; colours and fonts come from the page's style sheet.

Every function takes what it is given: empty lists, equal, huge, negative or not finite values give a chart all the
same, with finite coordinates. Widths are those of `WIDTH` or `WIDE` units, a unit being about a pixel.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.words import printable

WIDTH, WIDE = 440, 900
MATRIX_WIDE = 14  # more classes than this need the whole width
PALEST, DARKEST = 0.08, 0.38  # opacity of the cells of a matrix
LETTER = 7.2  # about the width of a letter, in the wider of the usual fonts
_LABELS = (40.0, 190.0)  # units left of horizontal bars, at least and at most
_ROW = 22
_TITLE_LENGTH = 60
_TINY = 1e-12
_HUGE = 1e150  # further apart than twice this, numbers have no finite difference


@dataclass(frozen=True)
class Bar:
    """A horizontal bar: `kind` is its style, `mark` another value shown as a line across it."""

    label: str
    value: float | None
    text: str
    kind: str = "after"
    mark: float | None = None


@dataclass(frozen=True)
class Point:
    """A point of a scatter chart: where, how large (radius 0..1), its interval upwards, and how much it matters."""

    x: float
    y: float
    size: float
    label: str
    kind: str = "faint"  # chosen, front, faint or original
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Scale:
    """A straight line from values to coordinates."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place a value; what lies outside is placed at the nearer end."""
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)


def escape(text: str) -> str:
    """Make any text safe inside an element or a quoted attribute."""
    return html.escape(printable(text).replace("\n", " "), quote=True)


def clip(text: str, length: int) -> str:
    """Shorten a text in its middle: names of layers and classes differ at their ends."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Give round values from `low` to `high`, about `count` of them, 1, 2 or 5 times a power of ten apart."""
    if not math.isfinite(high - low):
        return [low] if math.isfinite(low) else []
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # steps would be lost in rounding
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 0.0
    if power == 0 or not math.isfinite(power):
        return [low]
    step = power * next(
        factor for factor, most in ((1, 2), (2, 10), (5, 50), (10, 101)) if (rough / power) ** 2 <= most
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step + 0.0 for number in range(first, last + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Write ticks with as many decimals as tell them apart."""
    if len(values) < 2:
        return [f"{value:.4g}" for value in values]
    step = values[1] - values[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 6 or max(abs(value) for value in values) >= 1e7:
        return [f"{value:.3g}" for value in values]
    return [f"{value:,.{decimals}f}" for value in values]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Give 1, 2 and 5 times powers of ten within `low`..`high`, both above 0; fewer of them when they are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def span(values: Iterable[float], margin: float = 0.0) -> tuple[float, float]:
    """Give the lowest and the highest finite value, made apart when they are equal, with a margin (a share)."""
    known = [max(-_HUGE, min(_HUGE, value)) for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(low) * 0.1 or 0.5
        low, high = low - half, high + half
    gap = (high - low) * margin
    return low - gap, high + gap


def finite(value: float | None, instead: float = 0.0) -> float:
    """Give a number that can be placed."""
    return value if value is not None and math.isfinite(value) else instead


def svg(width: float, height: float, title: str, desc: str, body: str) -> str:
    """Wrap drawn elements, with what is read aloud instead of them."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {xy(width)} {xy(height)}" role="img">'
    return f"{head}<title>{escape(title)}</title><desc>{escape(desc)}</desc>{body}</svg>"


def xy(value: float) -> str:
    """Write a coordinate."""
    return f"{round(finite(value), 1):g}" if abs(finite(value)) < 1e5 else f"{finite(value):.0f}"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    """Write words at a place; anchor: middle or end, the start if not given."""
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{xy(x)}" y="{xy(y)}"{attributes}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Draw a straight line."""
    return f'<path class="{kind}" d="M{xy(x1)} {xy(y1)}L{xy(x2)} {xy(y2)}"/>'


def rect(x: float, y: float, width: float, height: float, kind: str, opacity: float | None = None) -> str:
    """Draw a filled rectangle."""
    shade = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
    size = f'width="{xy(max(0.0, width))}" height="{xy(max(0.0, height))}"'
    return f'<rect class="{kind}" x="{xy(x)}" y="{xy(y)}" {size}{shade}/>'


def axis_below(scale: Scale, y: float, values: Sequence[float], name: str, top: float | None = None) -> str:
    """Draw ticks, their numbers and the name of a horizontal axis at `y`; with `top` also lines up to there."""
    parts = [line(scale.start, y, scale.end, y, "axis")]
    for value, words in zip(values, tick_texts(values), strict=True):
        x = scale(value)
        parts.append(line(x, y, x, y + 4, "axis") if top is None else line(x, top, x, y + 4, "grid"))
        parts.append(text(x, y + 16, words, "small", "middle"))
    parts.append(text((scale.start + scale.end) / 2, y + 33, name, "small", "middle"))
    return "".join(parts)


def axis_left(scale: Scale, x: float, values: Sequence[float], right: float, unit: str = "") -> str:
    """Draw the numbers of a vertical axis left of `x`, and lines from there to `right`."""
    parts = []
    for value, words in zip(values, tick_texts(values), strict=True):
        y = scale(value)
        parts.append(line(x, y, right, y, "grid"))
        parts.append(text(x - 6, y + 4, unit.format(words) if unit else words, "small", "end"))
    return "".join(parts)


def bars(title: str, desc: str, rows: Sequence[Bar], *, high: float | None = None) -> str:
    """Draw horizontal bars from 0; values below 0 or not finite have no length."""
    top = finite(high if high is not None else max((finite(row.value) for row in rows), default=0.0))
    widest = max((len(row.text) for row in rows), default=0) * LETTER + 12
    labels = min(_LABELS[1], max(_LABELS[0], *(len(row.label) * LETTER + 12 for row in rows), 0.0))
    scale = Scale(0.0, top if top > 0 else 1.0, labels, WIDTH - widest)
    parts = []
    for number, row in enumerate(rows):
        y = number * _ROW + 4
        x = scale(finite(row.value))
        parts.append(text(labels - 8, y + 12, clip(row.label, int((labels - 10) / LETTER)), "", "end"))
        parts.append(rect(labels, y, x - labels, _ROW - 6, f"fill-{row.kind}"))
        reach = x
        if row.mark is not None:
            at = scale(finite(row.mark))
            parts.append(line(at, y - 2, at, y + _ROW - 4, "mark"))
            reach = max(x, at)
        parts.append(text(reach + 6, y + 12, row.text, "small"))
    return svg(WIDTH, len(rows) * _ROW + 6, title, desc, "".join(parts))


def histograms(
    title: str,
    desc: str,
    edges: Sequence[float],
    counts: tuple[Sequence[float], Sequence[float]],
    medians: tuple[tuple[float, str], tuple[float, str]],
    name: str,
) -> str:
    """Draw two histograms over the same edges, on top of each other, each with its median and a label.

    edges: above 0, growing by the same factor; so the axis is logarithmic.
    """
    left, right, top, bottom = 8.0, WIDTH - 8.0, 46.0, 190.0
    low, high = span(max(edge, _TINY) for edge in edges)
    low = max(low, _TINY)
    scale = Scale(math.log10(low), math.log10(high), left, right)

    def across(value: float) -> float:
        return scale(math.log10(max(value, _TINY)))

    # Shares, so that unequal numbers of runs can be compared.
    totals = [sum(finite(count) for count in each) or 1.0 for each in counts]
    shares = [[finite(count) / total for count in each] for each, total in zip(counts, totals, strict=True)]
    upward = Scale(0.0, max((share for each in shares for share in each), default=0.0) or 1.0, bottom, top)
    parts = [line(left, bottom, right, bottom, "axis"), text((left + right) / 2, bottom + 33, name, "small", "middle")]
    for value in log_ticks(low, high) if high > 3 * low else ticks(low, high):
        parts.append(line(across(value), bottom, across(value), bottom + 4, "axis"))
        parts.append(text(across(value), bottom + 16, f"{value:g}", "small", "middle"))
    labels = []
    for kind, each, (median, label), y in zip(("before", "after"), shares, medians, (14, 32), strict=True):
        steps = [f"M{xy(across(edges[0]))} {xy(bottom)}"] if each else []
        for start, end, share in zip(edges, edges[1:], each, strict=False):
            steps.append(f"L{xy(across(start))} {xy(upward(share))}L{xy(across(end))} {xy(upward(share))}")
        if steps:
            parts.append(f'<path class="area-{kind}" d="{"".join(steps)}L{xy(across(edges[-1]))} {xy(bottom)}"/>')
        x = across(finite(median, low))
        parts.append(line(x, y + 4, x, bottom, f"median-{kind}"))
        is_right = x > (left + right) / 2
        labels.append(text(x + (-4 if is_right else 4), y, label, f"ink-{kind}", "end" if is_right else ""))
    parts += labels  # over the lines
    return svg(WIDTH, bottom + 38, title, desc, "".join(parts))


def scatter(
    title: str,
    desc: str,
    points: Sequence[Point],
    names: tuple[str, str],
    lines: Sequence[float] = (),
    limits: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> str:
    """Draw points over two axes, the chosen one ringed, those that matter labelled.

    `lines` are levels of y; `limits` are least values of x and of y, drawn as lines with what falls short shaded; those
    that are far from all points are drawn at the edge.
    """
    left, right, top, bottom = 44.0, WIDTH - 12.0, 26.0, 262.0
    heights = [value for one in points for value in (one.y, one.low, one.high) if value is not None]
    across = Scale(*span((one.x for one in points), 0.12), left, right)
    upward = Scale(*span([*heights, *lines], 0.1), bottom, top)
    parts = [
        *(rect(left, top, across(x) - left, bottom - top, "beyond") for x in limits[0]),
        *(rect(left, upward(y), right - left, bottom - upward(y), "beyond") for y in limits[1]),
        axis_left(upward, left, ticks(upward.low, upward.high), right, "x{}"),
        axis_below(across, bottom, ticks(across.low, across.high, 4), names[0]),
        text(4, 12, names[1], "small"),
        *(line(left, upward(level), right, upward(level), "level") for level in lines),
        *(line(across(x), top, across(x), bottom, "limit") for x in limits[0]),
        *(line(left, upward(y), right, upward(y), "limit") for y in limits[1]),
    ]
    order = {"faint": 0, "original": 1, "front": 2, "chosen": 3}
    drawn = sorted(points, key=lambda one: order[one.kind])
    radii = [4 + 7 * math.sqrt(min(1.0, max(0.0, finite(one.size)))) for one in drawn]
    places = [(across(finite(p.x)), upward(finite(p.y)), radius) for p, radius in zip(drawn, radii, strict=True)]
    for one, (x, y, radius) in zip(drawn, places, strict=True):
        parts.append(_dot(one, x, y, radius, upward))
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in places]
    for one, (x, y, radius) in reversed(list(zip(drawn, places, strict=True))):
        if one.kind != "faint":
            parts.append(_label(one, x, y, radius, taken, (left, top - 12, right, bottom)))
    return svg(WIDTH, bottom + 38, title, desc, "".join(parts))


def _dot(one: Point, x: float, y: float, radius: float, upward: Scale) -> str:
    hint = f"<title>{escape(clip(one.label, _TITLE_LENGTH))}</title>"
    parts = []
    if one.low is not None and one.high is not None:
        parts.append(line(x, upward(finite(one.low)), x, upward(finite(one.high)), f"whisker {one.kind}"))
    if one.kind == "original":
        parts.append(f'<path class="cross" d="M{xy(x - 5)} {xy(y)}h10m-5 -5v10">{hint}</path>')
        return "".join(parts)
    parts.append(f'<circle class="dot {one.kind}" cx="{xy(x)}" cy="{xy(y)}" r="{xy(radius)}">{hint}</circle>')
    if one.kind == "chosen":
        parts.append(f'<circle class="ring" cx="{xy(x)}" cy="{xy(y)}" r="{xy(radius + 4)}"/>')
    return "".join(parts)


def _label(
    one: Point,
    x: float,
    y: float,
    radius: float,
    taken: list[tuple[float, float, float, float]],
    frame: tuple[float, float, float, float],
) -> str:
    """Write a point's name where it covers nothing, or not at all; a chosen one's always."""
    words = clip(one.label, 40)
    width, gap = len(words) * LETTER, radius + 8
    spots = [(x + gap, y + 4), (x - gap - width, y + 4), (x - width / 2, y - gap), (x - width / 2, y + gap + 10)]
    spots += [(x + gap, y - 10), (x - gap - width, y - 10), (x + gap, y + 18), (x - gap - width, y + 18)]
    for start, base in spots:
        box = (start, base - 10, start + width, base + 3)
        inside = box[0] >= frame[0] and box[2] <= frame[2] and box[1] >= frame[1] and box[3] <= frame[3]
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return text(start, base, words, f"label {one.kind}")
    if one.kind != "chosen":
        return ""
    is_right = x > (frame[0] + frame[2]) / 2
    return text(x + (-gap if is_right else gap), y + 4, words, f"label {one.kind}", "end" if is_right else "")


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def profile(
    title: str,
    desc: str,
    values: Sequence[float | None],
    kinds: Sequence[str],
    shares: Sequence[float],
    notes: Sequence[tuple[int, str]],
) -> str:
    """Draw a net from its first layer to its last: decibels as bars, a lane for int8 and one for float, shares of time.

    `values`: None where there are none, else cut at -20 and 80. `kinds`: int8 or float; other layers are in neither
    lane. `notes`: places of the costliest layers with what to say of them, at most a handful.
    """
    left, right = 56.0, WIDE - 10.0
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(0.0, max(-20.0, min(known, default=0.0))), max(10.0, min(80.0, max(known, default=10.0)))
    upward, step = Scale(low, high, 176.0, 24.0), (right - left) / max(1, len(values))
    thick = f'stroke-width="{xy2(max(0.4, step * 0.8))}"'
    middles = [left + (place + 0.5) * step for place in range(len(values))]
    parts = [text(left, 12, "SQNR of each layer's output, dB (higher is nearer to the original)", "small")]
    parts.append(axis_left(upward, left, ticks(low, high), right))
    for name, kind, y in (("int8", "after", 196.0), ("float", "float", 212.0)):
        own = [place for place, one in enumerate(kinds) if one == name]
        tall = [(place, finite(values[place])) for place in own if values[place] is not None]
        drawn = [f"M{xy2(middles[place])} {xy(upward(0.0))}V{xy(upward(value))}" for place, value in tall]
        drawn += [f"M{xy2(middles[place])} {xy(y)}v8" for place in own]
        parts.append(f'<path class="bar-{kind}" {thick} d="{"".join(drawn)}"/>')
        parts.append(text(left - 6, y + 8, name, "small", "end"))
    time = Scale(0.0, max((finite(share) for share in shares), default=0.0) or 1.0, 300.0, 246.0)
    parts.append(text(left, 238, "share of the time", "small"))
    columns = (f"M{xy2(x)} 300V{xy(time(finite(share)))}" for x, share in zip(middles, shares, strict=True))
    parts.append(f'<path class="bar-before" {thick} d="{"".join(columns)}"/>' + line(left, 300, right, 300, "axis"))
    for number, (place, words) in enumerate(notes, 1):
        parts.append(text(middles[place], time(finite(shares[place])) - 3, str(number), "label", "middle"))
        parts.append(text(left, 304 + 17 * number, f"{number}  {clip(words, 130)}", "small"))
    return svg(WIDE, 312 + 17 * len(notes), title, desc, "".join(parts))


def xy2(value: float) -> str:
    """Write a coordinate of a chart whose columns are narrower than a unit."""
    return f"{round(finite(value), 2):g}"


def matrix(
    title: str, desc: str, names: Sequence[str], answers: Sequence[str], cells: Mapping[tuple[int, int], int]
) -> str:
    """Draw a confusion matrix: a row a label, a column an answer, shaded by its share of the row."""
    room, left, top = WIDE if len(names) > MATRIX_WIDE else WIDTH, 112.0, 96.0
    side = min(38.0, max(8.0, (room - left - 50.0) / max(1, len(answers))))
    width, height = left + side * len(answers), top + side * len(names)
    totals = [sum(cells.get((row, column), 0) for column in range(len(answers))) for row in range(len(names))]
    parts = [rect(left, top, width - left, height - top, "sheet")]
    for (row, column), count in cells.items():
        x, y = left + column * side, top + row * side
        share = count / totals[row] if totals[row] else 0.0
        kind, power = ("fill-after", 1.0) if row == column else ("fill-bad", 0.5)
        # Even a rare confusion is to be seen; and figures stay readable on the darkest.
        shade = PALEST + (DARKEST - PALEST) * share**power
        parts.append(rect(x + 0.5, y + 0.5, side - 1, side - 1, kind, shade))
        if side >= 20 and count < 10 ** int(side / 7):
            parts.append(text(x + side / 2, y + side / 2 + 4, str(count), "small ink", "middle"))
    for row, name in enumerate(names):
        parts.append(text(left - 6, top + (row + 0.5) * side + 4, clip(name, 16), "small", "end"))
    for column, name in enumerate(answers):
        x = left + (column + 0.5) * side
        words = f'<text class="small" transform="translate({xy(x + 4)} {xy(top - 6)}) rotate(-60)">'
        parts.append(f"{words}{escape(clip(name, 14))}</text>")
    parts.append(text(left - 6, top - 6, "label / answer", "small ink", "end"))
    return svg(max(room, width + 50), height + 4, title, desc, "".join(parts))
