"""The HTML report and its charts: whole, harmless, readable, small, and as a browser sees it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import NASTY, bare, full

from edgekit import files
from edgekit.report import charts, html, style
from edgekit.report.charts import Bar, Point
from edgekit.report.report import Counts

ODD = [0.0, 1.0, -1.0, 1e308, -1e308, 1e-320, 1e-9, 12345.678, math.inf, -math.inf, math.nan]
numbers = st.lists(st.sampled_from(ODD) | st.floats(), max_size=6)


# ---- charts


def coordinates(drawn: str) -> list[float]:
    """Every number in every attribute of an SVG, once it is parsed."""
    root = ElementTree.fromstring(drawn)
    assert root.tag.endswith("svg")
    assert root[0].tag.endswith("title")
    assert root[1].tag.endswith("desc")
    found = []
    for element in root.iter():
        for name, value in element.attrib.items():
            assert "nan" not in value
            assert "inf" not in value
            if name != "class":
                found += [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", value)]
    return found


def assert_drawn(drawn: str) -> None:
    assert all(math.isfinite(one) and abs(one) < 5000 for one in coordinates(drawn))


def bars(values):
    rows = [Bar(NASTY, value, "text", "after", mark) for value, mark in zip(values, reversed(values), strict=True)]
    return charts.bars("t", "d", rows)


def histograms(values):
    edges = sorted(value for value in values if math.isfinite(value))
    counts = [abs(value) for value in values][: max(0, len(edges) - 1)]
    medians = ((values or [1.0])[0], "before"), ((values or [1.0])[-1], "after")
    return charts.histograms("t", "d", edges, (counts, counts), medians, "ms")


def scatter(values):
    kinds = itertools.cycle(("chosen", "front", "faint", "original"))
    points = [Point(x, y, x, NASTY, next(kinds), y, x) for x, y in zip(values, reversed(values), strict=True)]
    return charts.scatter("t", "d", points, ("x", "y"), (1.0,))


def profile(values):
    flags = [("int8", "float", "-")[index % 3] for index in range(len(values))]
    notes = [(0, NASTY)] if values else []
    return charts.profile("t", "d", [None if v == 0 else v for v in values], flags, values, notes)


def matrix(values):
    names = [NASTY] * len(values)
    cells = {(row, row): int(abs(v)) if math.isfinite(v) else 0 for row, v in enumerate(values)}
    return charts.matrix("t", "d", names, [*names, "no answer"], cells)


CHARTS = [bars, histograms, scatter, profile, matrix]


@pytest.mark.parametrize("draw", CHARTS)
@pytest.mark.parametrize(
    "values", [[], [1.0], [0.0], [3.0] * 5, [-2.0, -1.0], [1e300, -1e300], ODD, [1.0, 2.0] * 300], ids=str
)
def test_charts_of_extremes(draw, values):
    assert_drawn(draw(values)) if len(values) < 50 or draw not in (bars, matrix) else coordinates(draw(values))


@pytest.mark.parametrize("draw", CHARTS)
@settings(deadline=None)
@given(values=numbers)
def test_charts_are_whole_whatever_they_are_given(draw, values):
    assert_drawn(draw(values))


@settings(deadline=None)
@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12))
def test_ticks_are_round_and_within(low, width):
    high = low + width
    values = charts.ticks(low, high)
    assert all(low - 1e-6 * width <= value <= high + 1e-6 * width for value in values)
    assert all(a < b for a, b in itertools.pairwise(values))
    assert len(values) <= 11
    if len(values) > 2 and abs(low) < 1e6 * width:
        step = values[1] - values[0]
        assert re.fullmatch(r"[125]e.*|1\.0+e.*", f"{step:.0e}")
        assert len(values) >= 3
    assert len(charts.tick_texts(values)) == len(values)


def test_ticks_by_example():
    assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert charts.ticks(-0.3, 0.31, 3) == pytest.approx([-0.2, 0, 0.2])
    assert charts.tick_texts(charts.ticks(0, 0.02)) == ["0.000", "0.005", "0.010", "0.015", "0.020"]
    assert charts.tick_texts(charts.ticks(0, 40_000, 4)) == ["0", "10,000", "20,000", "30,000", "40,000"]
    assert charts.ticks(3, 3) == [3]
    assert charts.log_ticks(0.3, 7) == [0.5, 1.0, 2.0, 5.0]
    assert charts.log_ticks(1.0, 1e6) == [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]


def test_bars_are_as_long_as_their_values():
    root = ElementTree.fromstring(
        charts.bars("t", "d", [Bar("a", 10.0, "10"), Bar("b", 5.0, "5"), Bar("c", -1.0, "-")])
    )
    lengths = [float(one.attrib["width"]) for one in root.iter() if one.tag.endswith("rect")]
    assert lengths[0] > 100
    assert lengths[1] == pytest.approx(lengths[0] / 2, abs=0.2)
    assert lengths[2] == 0


def test_labels_of_points_do_not_cover_each_other():
    points = [Point(x / 10, 1 + x % 2, 0.5, f"candidate number {x}", "front") for x in range(12)]
    root = ElementTree.fromstring(charts.scatter("t", "d", points, ("x", "y")))
    boxes = [
        (float(one.attrib["x"]), float(one.attrib["y"]), len(one.text or "") * charts.LETTER)
        for one in root.iter()
        if "label" in one.attrib.get("class", "")
    ]
    assert len(boxes) >= 3
    for (x, y, width), (other_x, other_y, other_width) in itertools.combinations(boxes, 2):
        assert abs(y - other_y) >= 12 or x + width <= other_x or other_x + other_width <= x


def test_long_names_keep_both_ends():
    assert charts.clip("/backbone/stage3/conv", 11) == "/back…/conv"
    assert charts.clip("short", 5) == "short"


# ---- colours


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def blend(color: str, ground: str, opacity: float) -> str:
    pairs = [(int(color[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(opacity * top + (1 - opacity) * below):02x}" for top, below in pairs)


@pytest.mark.parametrize("scheme", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_all_text_stands_out(scheme):
    for name in ("ink", "soft", "good", "bad", "before", "after"):
        assert contrast(scheme[name], scheme["ground"]) >= 4.5, name
    for name in ("ink", "soft"):
        assert contrast(scheme[name], scheme["sheet"]) >= 4.5, name
    for name in ("after", "bad"):  # figures in the cells of the confusion matrix
        darkest = blend(scheme[name], scheme["sheet"], charts.DARKEST)
        assert contrast(scheme["ink"], darkest) >= 4.5, name
    assert contrast(scheme["float"], scheme["ground"]) >= 3  # bars, not text


def test_every_class_that_is_used_has_a_style():
    used = set(re.findall(r'class="?([\w -]+)', html.render(full(classes=40)) + html.render(full())))
    words = {word for names in used for word in names.split()} - {
        "front",
        "faint",
        "chosen",
        "plain",
        "first",
        "original",
    }
    rules = style.sheet()
    assert not {word for word in words if f".{word}" not in rules}


# ---- the page


CLOSED = {
    *("html", "head", "body", "main", "style", "title", "svg", "figure", "figcaption", "table", "details", "summary"),
    *("div", "ul", "dl", "pre", "code", "footer", "h1", "h2", "caption", "text", "small", "desc"),
}


class Page(HTMLParser):
    """The tags, attributes and text of a page; what must be closed is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.order: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in CLOSED:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if tag in CLOSED:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data + "\n"
        if self._open and self._open[-1] in ("h2", "summary"):
            self.order.append(data)


def test_the_verdict_comes_first_and_all_sections_follow():
    page = Page(html.render(full(classes=12)))
    words = [word for word in page.text.split("\n") if word.strip()]
    assert words[:6] == [
        "m.onnx -> m.int8.onnx",
        "m.onnx → m.int8.onnx",
        "static int8; x2.00 faster; x0.30 the size",
        "pass accuracy.drop<=0.02",
        "FAIL size.ratio<=0.2",
        "Original and finished model",
    ]
    assert page.order == [
        *("Measured", "Classes", "The other 2 classes", "Layers", "The other 2 nodes", "What was tried"),
        *("How it was made", "What the model is fed with", "Calibration and machine", "Gates", "To run it"),
    ]
    assert page.text.count("Confusions") == 1
    assert "Lost most: class 7" in page.text
    assert "Class: elsewhere it scores 70.00 % top-1" in page.text
    assert "print(1 < 2)" in page.text


def test_sections_without_numbers_are_left_out():
    page = Page(html.render(bare(python="", preprocess={}, notes=())))
    assert page.order == ["Measured", "How it was made", "Calibration and machine"]
    for word in ("Confusions", "Latency", "What was tried", "Layers", "None", "nan"):
        assert word not in page.text
    assert Page(html.render(dataclasses.replace(full(), classes=(), confusion=(), search=(), layers=())))


def test_a_headline_without_parts_is_the_verdict():
    assert '<p class="verdict">just this</p>' in html.render(bare(headline="just this"))


def test_nothing_is_loaded_and_nothing_runs():
    made = html.render(full(classes=40))
    page = Page(made)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "foreignobject"}
    assert not [one for one in page.attributes if one[1] in ("src", "href", "xlink:href", "srcset", "action", "style")]
    assert not [one for one in page.attributes if one[1].startswith("on")]
    assert not re.search(r"url\(|@import|javascript:", made)
    assert set(re.findall(r"https?://[^\"\s]+", made)) == {"http://www.w3.org/2000/svg"}
    assert ("meta", "content", html.POLICY) in page.attributes


def test_odd_names_are_text():
    odd = dataclasses.replace(
        full(classes=12, name=NASTY),
        headline=f"{NASTY}    {NASTY}",
        out={"path": NASTY, "sha256": NASTY},
        done=(NASTY,),
        notes=(NASTY,),
        python=NASTY,
    )
    made = html.render(odd)
    made.encode()
    assert "\x1b" not in made
    assert "\udcff" not in made
    page = Page(made)
    assert "script" not in page.tags
    assert not [one for one in page.attributes if one[1].startswith("on")]
    assert "a<script>alert(1)</script>\"'&|`*]" in page.text
    names = {name for _, name, _ in page.attributes}
    assert "alert(1)" not in " ".join(names)
    for drawn in re.findall(r"<svg.*?</svg>", made, re.DOTALL):
        ElementTree.fromstring(drawn)


@pytest.mark.parametrize("classes", [1, 2, 10, 15, 30, 31])
def test_every_svg_is_whole(classes):
    drawn = re.findall(r"<svg.*?</svg>", html.render(full(classes=classes)), re.DOTALL)
    assert len(drawn) == 6
    for one in drawn:
        assert_drawn(one)


def test_a_thousand_classes_and_five_hundred_layers_stay_small():
    report = full(classes=1000, layers=500, name="n01440764 tench, Tinca tinca <&>")
    counts = Counts.of(12_345, 12_345, 12_345, 1_234_567)
    classes = tuple(dataclasses.replace(one, before=counts, after=counts) for one in report.classes)
    why = "a conversion: 8 bits to float, for /layer2/layer2.0/Pad"
    layers = tuple(dataclasses.replace(one, why=why, mend="") for one in report.layers)
    made = html.render(dataclasses.replace(report, classes=classes, layers=layers))
    assert len(made.encode()) < 300_000
    page = Page(made)
    assert "The other 990 classes" in page.order
    assert "The other 490 nodes" in page.order


def test_every_table_has_a_caption_and_every_picture_a_title():
    made = html.render(full(classes=40))
    assert made.count("<table") == made.count("<caption") >= 6
    assert made.count("<svg") == len(re.findall(r"<svg[^>]*role=\"img\"><title>[^<]+</title><desc>[^<]+</desc>", made))


def test_force_knows_the_page_as_its_own(tmp_path):
    files.write(tmp_path / "r.html", html.render(bare()))
    assert files.made_by_edgekit(tmp_path / "r.html")


def test_the_same_report_gives_the_same_page():
    assert html.render(full(classes=40)) == html.render(full(classes=40))


# ---- as a browser sees it


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser():
    """Dump the page's elements as a headless browser has them, with what it says of errors."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine to open the page with")

    def dump(path, profile):
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        options += ["--no-first-run", "--enable-logging=stderr", f"--user-data-dir={profile}"]
        options += [f"--log-net-log={profile}/net.json"]
        command = [found, *options, "--dump-dom", path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return dump


def test_a_browser_opens_it_without_errors_or_requests(browser, tmp_path):
    report = dataclasses.replace(full(classes=12), notes=(NASTY, '<img src="http://example.invalid/x.png">'))
    files.write(tmp_path / "r.html", html.render(report))
    done = browser(tmp_path / "r.html", tmp_path / "profile")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "static int8; x2.00 faster; x0.30 the size" in done.stdout
    assert done.stdout.count("<svg") == 6
    assert "CONSOLE" not in done.stderr
    asked = (tmp_path / "profile" / "net.json").read_text(errors="replace")
    assert "example.invalid" not in asked
