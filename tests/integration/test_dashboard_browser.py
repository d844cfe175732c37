"""The dashboard in a real browser, Debian's Chromium without a screen: what only a browser can tell."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from consistency_service.api.server import serve
from consistency_service.core.commands import CreateRollout
from consistency_service.core.strategy import Stage, Strategy
from edge_client.protocol.messages import EdgeReport, ServedModel
from tests.api.served import Served, one_node
from tests.api.test_rollouts import Edges

expect.set_options(timeout=20_000)  # what is waited for has to happen; how fast is for benchmarks

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATHS = (
    "/",
    "/models/m",
    "/edges",
    "/features",
    "/cluster",
    "/timeline?at=2030-01-01T00:00",
    "/rollouts",
    "/rollouts/r-1",
    "/docs",
)
NEXT = "2.0.0-rc.1+build.20261122"
LONG = "a-rather-long-name-of-a-model-that-somebody-chose-for-good-reasons"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium"),
    pytest.mark.timeout(120),
]


@dataclass
class Visit:
    """A node on a socket, with models `m` and a long one, an edge and a rollout, and a browser that looks at it."""

    served: Served
    url: str
    browser: Browser
    complaints: list[str] = field(default_factory=list)
    """What the browser's console was told, and what pages tried to load from elsewhere."""

    async def open(self, path: str = "/", **context) -> Page:
        page = await (await self.browser.new_context(**context)).new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._own(request.url))
        await page.goto(self.url + path)
        return page

    def _own(self, url: str) -> None:
        if not url.startswith(self.url):
            self.complaints.append(f"asked for {url}")


@asynccontextmanager
async def _serving(served: Served) -> AsyncIterator[str]:
    shutdown, ports = asyncio.Event(), asyncio.Queue[int]()
    task = asyncio.create_task(
        serve(served.app, host="127.0.0.1", port=0, shutdown=shutdown, listening=ports.put_nowait)
    )
    try:
        yield f"http://127.0.0.1:{await ports.get()}"
    finally:
        shutdown.set()
        async with asyncio.timeout(10):
            await task


@pytest.fixture
async def visit(tmp_path) -> AsyncIterator[Visit]:
    async with one_node(tmp_path) as served, async_playwright() as playwright:
        models = []
        for name in ("m", LONG):
            await served.model(name, "1.0.0", NEXT)
            await served.activate("1.0.0", model=name)
            versions = served.node.metadata.state.models[name].versions
            models.append(
                ServedModel(
                    model=name,
                    version="1.0.0",
                    generation=1,
                    guarantee="strong",
                    staleness_bound_ms=0,
                    ready=tuple(version.digest for version in versions.values()),
                )
            )
        report = EdgeReport(
            edge_id="gateway-at-the-northern-loading-dock-with-camera-17",
            life_id="1",
            site="dock-3",
            labels={"accelerator": "orin-nx-16gb", "line": "4", "x" * 24: "y" * 24},
            epoch=1,
            revision=3,
            models=tuple(models),
        )
        served.node.fleet.report_received(report)
        assert (await served.http.patch(f"/v1/features/classes/{LONG}", json={"kind": "critical"})).status_code == 200
        stages = (Stage(share_bp=100, bake_ms=60_000), Stage(share_bp=1_000), Stage(share_bp=10_000))
        await served.node.propose(
            CreateRollout(
                rollout_id="r-1",
                models={LONG: NEXT},
                strategy=Strategy(stages=stages),
                start=False,
                author="mia",
            )
        )
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        try:
            async with _serving(served) as url:
                yield Visit(served=served, url=url, browser=browser)
                await browser.close()
        finally:
            await browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_load_in_silence_and_nothing_is_wider_than_a_narrow_screen(visit: Visit, scheme):
    page = await visit.open(viewport={"width": 320, "height": 700}, color_scheme=scheme)
    for path in PATHS:
        await page.goto(visit.url + path)
        await expect(page.locator("h1").first).to_be_visible()
        width = await page.evaluate("document.documentElement.scrollWidth")

        assert 320 == width, (path, await page.evaluate(WIDER))
    assert [] == visit.complaints


WIDER = """[...document.querySelectorAll("main *")].filter((one) => one.getBoundingClientRect().right > innerWidth)
    .map((one) => one.outerHTML.slice(0, 150)).slice(0, 5)"""


async def test_an_activation_shows_by_itself(visit: Visit):
    page = await visit.open("/")
    await expect(page.locator("#link")).to_have_text("live")
    await page.evaluate("window.untouched = true")
    live = page.locator("#models tr", has=page.get_by_role("link", name="m", exact=True)).locator(".version")
    await expect(live).to_have_text("1.0.0")
    await visit.served.activate(NEXT)

    await expect(live).to_have_text(NEXT)
    assert await page.evaluate("window.untouched"), "the page was not loaded again"
    assert [] == visit.complaints


async def test_what_is_typed_and_where_one_is_survive_what_happens_meanwhile(visit: Visit):
    page = await visit.open("/timeline")
    await expect(page.locator("#link")).to_have_text("live")
    await page.get_by_label("Author contains").press_sequentially("mi")
    await visit.served.activate(NEXT)
    await expect(page.locator("#items")).to_contain_text("generation 2")

    await expect(page.get_by_label("Author contains")).to_be_focused()
    assert "mi" == await page.get_by_label("Author contains").input_value()


async def test_by_keyboard_alone_from_the_first_key_to_a_change_under_ones_name(visit: Visit):
    page = await visit.open("/models/m")
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to the content")).to_be_focused()
    await expect(page.get_by_text("Skip to the content")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await _tab_to(page, "Activate")
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert "solid" == outline, "where one is can be seen"

    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(f"serves {NEXT} instead of 1.0.0, all from one instant on")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await expect(page.locator("button:focus")).to_have_text("Activate")
    assert 1 == visit.served.node.metadata.state.models["m"].generation

    await page.keyboard.press("Enter")
    await page.keyboard.press("Enter")
    await expect(dialog).to_be_visible()
    assert 1 == visit.served.node.metadata.state.models["m"].generation, "nobody changes anything without a name"
    await page.keyboard.type("Mia Schröder 智")
    await page.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()
    await expect(page.locator(".version.big")).to_have_text(NEXT)
    assert "Mia Schröder 智" == visit.served.node.metadata.state.models["m"].history[-1].author
    assert [] == visit.complaints


async def _tab_to(page: Page, label: str) -> None:
    for _ in range(60):
        await page.keyboard.press("Tab")
        if label == await page.evaluate("document.activeElement.textContent"):
            return
    pytest.fail(f"no way to {label} by keyboard")


async def test_a_refusal_is_told_where_it_was_asked_for(visit: Visit):
    """Somebody else was faster: the generation that the visitor saw is not the present one any more."""
    page = await visit.open("/models/m")
    await page.get_by_role("button", name="Activate").click()
    await visit.served.activate(NEXT)
    await page.get_by_label("Your name").fill("mia")
    await page.get_by_role("dialog").get_by_role("button", name="Activate").click()

    await expect(page.locator("#confirm-outcome")).to_contain_text("model m is at generation 2")
    assert 2 == visit.served.node.metadata.state.models["m"].generation


async def test_a_reason_is_asked_for_where_the_call_takes_one(visit: Visit):
    page = await visit.open("/rollouts/r-1")
    requests: list[tuple[str, str | None, dict[str, str]]] = []

    async def answer(route):
        requests.append((route.request.url, route.request.post_data, await route.request.all_headers()))
        await route.fulfill(status=200, json={})

    await page.route("**/v1/rollouts/**", answer)
    await page.get_by_role("button", name="Start").click()
    await page.get_by_label("Your name").fill("mia")
    await page.get_by_role("dialog").get_by_role("button", name="Start").click()
    assert [] == requests, "a reason is required"
    await page.locator("#confirm-reason").fill("ticket 7")
    await page.get_by_role("dialog").get_by_role("button", name="Start").click()
    await expect(page.get_by_role("dialog")).to_be_hidden()
    ((url, body, headers),) = requests

    assert (f"{visit.url}/v1/rollouts/r-1/start", '{"reason":"ticket 7"}') == (url, body)
    assert ("mia", "application/json") == (headers["x-ccs-author"], headers["content-type"])
    assert re.fullmatch('"[0-9]+"', headers["if-match"]) and re.fullmatch("[0-9a-f]{32}", headers["idempotency-key"])


ANALYSED = {
    "stages": [{"share": "50%", "bake": "10m"}, {"share": "100%"}],
    "analysis": [{"metric": "error_rate", "worse_max": "5%"}],
}


async def test_a_rollout_is_watched_held_and_sent_back_in_the_browser(visit: Visit):
    body = {"rollout_id": "r-live", "models": {"m": NEXT}, "strategy": ANALYSED, "reason": "ticket 8"}
    async with Edges(visit.served, count=20).reporting():
        created = await visit.served.http.post("/v1/rollouts", json=body, headers={"X-CCS-Author": "ann"})
        assert 201 == created.status_code, created.text
        page = await visit.open("/rollouts/r-live")
        phase, moves = page.locator("#summary .tag").first, page.locator("#moves tbody tr")
        await expect(phase).to_have_text("baking", timeout=15_000)
        await page.evaluate("window.untouched = true")
        await expect(page.locator("#live .edges")).to_contain_text(
            re.compile(r"(\d+) of \1 edges ready"), timeout=15_000
        )
        await expect(page.locator("#live .edges")).to_contain_text(re.compile(r"(\d+) of \1 serve"), timeout=15_000)
        await expect(page.locator("#live .exposure")).to_contain_text("readings by the candidate of m")
        await expect(page.locator("#live .finding svg circle")).to_have_count(3, timeout=15_000)

        await _order(page, "Pause", reason="wait for the night shift")
        await expect(phase).to_have_text("paused", timeout=5_000)
        assert "paused" == visit.served.node.metadata.state.rollouts["r-live"].phase
        await expect(moves.first).to_contain_text("Mia Schröder")
        await expect(moves.first).to_contain_text("wait for the night shift")

        await _order(page, "Abort", reason="it is not ours")
        await expect(phase).to_have_text("aborted", timeout=15_000)
        order = page.locator("#moves tbody tr", has=page.get_by_role("cell", name="abort", exact=True))
        await expect(order).to_contain_text("Mia Schröder")
        await expect(order).to_contain_text("it is not ours")
        await expect(page.get_by_role("button", name="Retry")).to_be_visible()
        await expect(page.locator("#live .edges")).to_contain_text(re.compile(r"(\d+) of \1 serve"), timeout=15_000)
        assert await page.evaluate("window.untouched"), "the page was not loaded again"
    assert [] == visit.complaints


async def _order(page: Page, label: str, *, reason: str) -> None:
    """Press the button, say who and why, and confirm."""
    await page.get_by_role("button", name=label, exact=True).click()
    dialog = page.get_by_role("dialog")
    await page.get_by_label("Your name").fill("Mia Schröder")
    await page.locator("#confirm-reason").fill(reason)
    await dialog.get_by_role("button", name=label, exact=True).click()
    await expect(dialog).to_be_hidden()


async def test_colours_follow_the_system_until_one_chooses(visit: Visit):
    page = await visit.open("/", color_scheme="dark")
    dark = await _ground(page)
    await page.get_by_role("button", name="Dark").click()
    light = await _ground(page)
    await page.reload()

    assert (True, False, light) == (_is_dark(dark), _is_dark(light), await _ground(page))
    assert not _is_dark(await _ground(await visit.open("/", color_scheme="light")))


async def _ground(page: Page) -> str:
    return str(await page.evaluate("getComputedStyle(document.body).backgroundColor"))


def _is_dark(colour: str) -> bool:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) < 200


async def test_without_scripts_one_reads_and_has_no_buttons_that_do_nothing(visit: Visit):
    page = await visit.open("/models/m", java_script_enabled=False)

    await expect(page.locator("h1")).to_have_text("m")
    await expect(page.get_by_role("button", name="Activate")).to_have_count(0)
    await page.goto(visit.url + "/edges")
    await page.get_by_label("Edge contains").fill("northern")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator("#edges tbody tr")).to_have_count(2)


async def test_a_page_of_another_site_cannot_ask_for_a_change(visit: Visit):
    """The browser itself tells whose page asks."""
    await visit.served.activate(NEXT)
    page = await visit.open("/")
    await page.goto("about:blank")
    form = f"<form method=post action='{visit.url}/v1/models/m/rollback'><button>Win a prize</button></form>"
    await page.set_content(form)
    async with page.expect_response("**/rollback") as told:
        await page.get_by_role("button").click()

    assert 403 == (await told.value).status
    assert NEXT == visit.served.node.metadata.state.models["m"].history[-1].assignment.stable
