"""The site: built strictly, whole, from the tree; it loads nothing from elsewhere, and every link and anchor leads somewhere."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from ops.site import figures, hooks
from tests.docs.pages import DOCS, ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LOADING = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("audio", "src"),
    ("embed", "src"),
    ("object", "data"),
}
FONTS_AND_IMPORTS = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import", re.IGNORECASE)

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("site")]


class Page(HTMLParser):
    """What a page loads, where it leads, and where one can land in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.loads += [given[name] for kind, name in LOADING if kind == tag and given.get(name)]
        if tag == "link" and given.get("href"):
            (self.links if given.get("rel") in {"canonical", "prev", "next"} else self.loads).append(given["href"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        assert "@import" not in (given.get("style") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    directory: Path = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    env = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "http_proxy": "http://127.0.0.1:1",
        "https_proxy": "http://127.0.0.1:1",
    }
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert (0, "", "") == (built.returncode, built.stdout, built.stderr)
    return directory


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def test_every_page_of_the_tree_is_in_the_site_and_in_the_navigation(site, pages):
    navigation = {
        (site / unquote(urlsplit(link).path)).resolve() for link in pages[site / "index.html"].links if ":" not in link
    }
    missing = [
        str(path.relative_to(DOCS))
        for path in DOCS.rglob("*.md")
        if (site / path.relative_to(DOCS)).with_suffix(".html").resolve() not in navigation | {site / "index.html"}
    ]

    assert [] == missing


def test_no_page_loads_anything_from_elsewhere(site, pages):
    foreign = [(path.name, url) for path, page in pages.items() for url in page.loads if urlsplit(url).netloc]
    styles = [str(path) for path in site.rglob("*.css") if FONTS_AND_IMPORTS.search(path.read_text(encoding="utf-8"))]

    assert ([], []) == (foreign, styles)


def test_every_link_and_anchor_leads_somewhere(site, pages):
    dead = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors | {"__top"}
            ):
                dead.append((str(path.relative_to(site)), link))

    assert [] == dead


def test_what_a_page_loads_is_found_wherever_it_stands():
    page = Page(
        '<link rel="stylesheet" href="https://a/x.css"><link rel="canonical" href="https://b/"><script src="//c/x.js"></script>'
        '<img src="x.png"><a href="d.html#e">d</a><h2 id="f"></h2>'
    )

    assert ["https://a/x.css", "//c/x.js", "x.png"] == page.loads
    assert ["https://b/", "d.html#e"] == page.links
    assert {"f"} == page.anchors
    assert ["x.css", "y.css"] == [
        name
        for name, text in (("x.css", "@import 'z'"), ("y.css", "src:url(https://a)"), ("z.css", "url(data:)"))
        if FONTS_AND_IMPORTS.search(text)
    ]


@pytest.mark.parametrize("page", [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))], ids=lambda p: p.name)
def test_every_link_of_a_file_leads_to_a_file_of_the_repository(page):
    """As whoever reads it in the repository's browser follows it."""
    text = hooks.FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [found["target"] for found in hooks.LINK.finditer(text)]
    dead = [target for target in targets if ":" not in target and not (page.parent / unquote(target)).exists()]

    assert [] == dead


def test_the_pictures_are_what_the_code_draws():
    """If this fails: python -m ops.site.figures."""
    for name, draw in figures.FIGURES.items():
        assert draw() == (figures.FOLDER / f"{name}.svg").read_text(encoding="utf-8"), name


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium")
def test_a_browser_without_network_shows_it_and_searches_it_from_a_disk_and_from_a_server(site, pages):
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own = f"http://127.0.0.1:{server.server_port}/"
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        try:
            for base in (own, f"{site.as_uri()}/"):
                assert [] == visit(
                    browser, base, ["explanation/protocol.html", "reference/rollouts.html", "index.html"]
                )
        finally:
            browser.close()
            server.shutdown()


def visit(browser, base: str, paths: list[str]) -> list[str]:
    """What the browser complained of; every page fits a telephone, pictures are drawn, and a search finds something."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((base, "data:", "blob:")) else complaints.append(request.url),
    )
    for path in paths:
        page.goto(base + path)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            complaints.append(f"{path} is {wide} px too wide")
    page.goto(f"{base}explanation/protocol.html")
    expect(page.locator(".figure svg").first).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator("input.md-search__input").press_sequentially("staleness", delay=20)
    expect(page.locator(".md-search-result__item").first).to_be_visible(timeout=20_000)
    page.close()
    return complaints


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Says nothing."""
