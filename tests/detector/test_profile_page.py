"""The page of a profile: all numbers, every chart, readable without pictures, and nothing from outside."""

import copy
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from detector.errors import MissingExtraError
from detector.profile import charts
from detector.profile.page import make_page
from detector.profile.record import make_record
from tests.profile_measurement import STAGE_MS, make_measurement

pytest.importorskip("matplotlib")
MEASUREMENT = make_measurement(frames=40, loop=2)
RECORD = make_record(MEASUREMENT, ["drive <1>"])
SECTIONS = ("machine", "cards", "side-by-side", "stages", "ranges", "frames", "cost", "distribution", "worst", "method")


class Elements(HTMLParser):
    """Every start tag with its attributes, and what was left open."""

    VOID = ("meta", "img", "br", "use", "path", "rect")

    def __init__(self, page):
        super().__init__()
        self.found, self.open, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"{tag} at {self.getpos()}"

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def page():
    return make_page(RECORD, MEASUREMENT.pictures)


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


def test_elements_close_and_every_section_is_there(elements):
    assert elements.open == []
    names = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert set(SECTIONS) <= set(names)
    assert len(elements.all("h1")) == 1 and len(elements.all("title")) == 1
    assert "Latency of tiny on drive <1>" in elements.texts, "names are escaped"


def test_it_needs_nothing_from_outside(page, elements):
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for tag, attributes in elements.found:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
    assert re.findall(r"url\((?!#)", page) == [] and "@import" not in page
    policy = next(meta["content"] for meta in elements.all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'", "and the browser holds it to that"


def test_light_and_dark_have_every_colour(page):
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    used = set(re.findall(r"var\(--([a-z_]+)\)", page)) | set(re.findall(r"var\(--([a-z_]+),", page))
    for palette in (light, dark):
        assert used - {"accent"} <= set(re.findall(r"--([a-z_]+):", palette))
    assert not any(colour in page for colour in charts.COLOURS.values())
    assert not re.findall(r"(?:fill|stroke): #(?!fff)[0-9a-f]{6}", page), "a colour that no theme knows"


def test_the_table_has_the_record_s_numbers(page):
    table = ElementTree.fromstring(re.search(r"<table>.*?</table>", page.replace("class=first", ""), re.DOTALL)[0])
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.iter("tr")}
    assert list(rows)[2:] == [*STAGE_MS, "total"]
    for name, cells in list(rows.items())[2:]:
        wanted = [
            f"{(mode['total'] if name == 'total' else mode['stages'][name])[key]:.2f}"
            for mode in RECORD["modes"].values()
            for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")
        ]
        assert cells == wanted


def test_the_numbers_to_look_at_first(elements):
    text = " ".join(elements.texts)
    assert f"{RECORD['speedup']['total']:.2f}×" in text and f"network {RECORD['speedup']['backbone']:.2f}×" in text
    for mode in RECORD["modes"].values():
        assert f"{mode['total']['p50_ms']:.1f} ms" in text and f"peak {mode['peak_mb']:.0f} MB" in text
    assert RECORD["machine"]["cpu"] in text and RECORD["date"][:10] in text and RECORD["revision"] in text


def test_charts_are_named_for_those_who_do_not_see_them(elements):
    drawn = [svg for svg in elements.all("svg") if svg.get("role") == "img"]
    assert [svg["aria-label"] for svg in drawn] == [
        charts.CHARTS[name][2] for name in ("bars", "ranges", "frames", "cost", "distribution")
    ]
    assert all("viewbox" in svg and "width" not in svg for svg in drawn)
    assert all(name in elements.texts for name in STAGE_MS), "text of the charts is text"


def test_pictures_of_the_slowest_frames(elements):
    pictures = elements.all("img")
    assert [picture["alt"].split(":")[0] for picture in pictures] == ["frame 000003", "frame 000001"]
    runs = RECORD["modes"]["sparse"]["frame_ms"][3::40]
    assert f"000003: {np.median(runs):.1f} ms" in elements.texts and len(runs) == 2


def test_bars_are_means_end_to_end():
    svg = charts.draw_charts(RECORD)["bars"]
    for mode in RECORD["modes"].values():
        assert f"{np.mean(mode['frame_ms']):.1f} ms" in svg


def test_the_same_profile_gives_the_same_page(page):
    assert make_page(RECORD, MEASUREMENT.pictures) == page


def test_one_frame_and_no_tile_are_drawn():
    measured = make_measurement(frames=1)
    record = copy.deepcopy(make_record(measured, ["one"]))
    record["tiles"]["active"] = [0]
    page = make_page(record, ())
    assert Elements(page).open == [] and "nan" not in page


def test_a_missing_matplotlib_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"roadblocks\[plots\]"):
        make_page(RECORD, ())


@pytest.fixture
def browse(tmp_path):
    """Gives DOM and console messages of a page in headless Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed: apt install chromium")

    def run(page):
        file = tmp_path / "page.html"
        file.write_text(page)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
        command = [program, *options, "--enable-logging=stderr", "--dump-dom", file.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return run


@pytest.mark.browser
def test_a_browser_shows_it_without_complaint(page, browse):
    dom, console = browse(page)
    assert console == []
    assert all(f'id="{name}"' in dom for name in SECTIONS)
    assert dom.count("<svg ") == len(charts.CHARTS) and dom.count("<img ") == 2


@pytest.mark.browser
def test_a_browser_refuses_what_is_outside(page, browse):
    """The counter-check: had the page asked for anything, the console would have said so."""
    _, console = browse(page.replace("</main>", '<img src="http://127.0.0.1:9/x.png" alt=""><script>1</script></main>'))
    assert any("127.0.0.1:9" in line for line in console) and any("script" in line for line in console)
