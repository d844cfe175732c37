"""The pages of a node, read as a browser reads them: what they say, what they load, and what hostile text cannot do to them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from consistency_service.api.dashboard import words
from consistency_service.core.commands import SetFreeze
from consistency_service.core.rollout import Freeze
from consistency_service.runtime.ports import NotLeader
from edge_client.protocol.messages import EdgeReport, ServedModel
from tests.api.served import PROBLEM, Served, one_node

PAGES = [
    "/",
    "/models/m",
    "/models/m?at=2020-01-01T00:00&everything=true",
    "/edges",
    "/features",
    "/cluster",
    "/timeline",
    "/timeline?at=2030-01-01T00:00",
    "/rollouts",
    "/models/none",
]
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
EVIL = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>"


class Page(HTMLParser):
    """Tags with their attributes, and all text, as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def button(self, key: str) -> dict[str, str | None]:
        return next(button for button in self.all("button") if button.get("id") == f"do-{key}")

    def buttons(self) -> set[str]:
        ids = (str(button.get("id")) for button in self.all("button"))
        return {name.removeprefix("do-") for name in ids if name.startswith("do-")}


async def look(served: Served, path: str, *, status: int = 200) -> Page:
    response = await served.http.get(path, headers=BROWSER)
    assert status == response.status_code, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return Page(response.text)


def edge(served: Served, edge_id: str, **more) -> None:
    """An edge that serves version 1.0.0 of `m`, strongly, unless told otherwise."""
    following = {
        "model": "m",
        "version": "1.0.0",
        "generation": 1,
        "guarantee": "strong",
        "staleness_bound_ms": 0,
        **more.pop("model", {}),
    }
    report = EdgeReport(edge_id=edge_id, life_id="1", epoch=1, revision=1, models=(ServedModel(**following),), **more)
    assert served.node.fleet.report_received(report)


def foreign(page: Page) -> Iterator[str]:
    """Everything in a page that its own node did not serve, or that a policy without `unsafe-inline` forbids."""
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in {"src", "href", "action"} and not (value or "").startswith(("/", "?", "#")):
                yield f"{tag} {name}={value}"
            if name.startswith("on") or name == "style":
                yield f"{tag} {name}"
        if tag in {"script", "link"} and not str(attributes.get("src") or attributes.get("href")).startswith(
            "/static/"
        ):
            yield tag
        if tag in {"style", "img", "iframe", "object", "embed"}:
            yield tag


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(served: Served, path):
    await served.model("m", "1.0.0")
    await served.activate("1.0.0")
    edge(served, "cam-1")
    response = await served.http.get(path, headers=BROWSER)

    assert (404 if "none" in path else 200) == response.status_code
    assert [] == list(foreign(Page(response.text)))
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "no-store" == response.headers["cache-control"]
    assert "access-control-allow-origin" not in response.headers


async def test_the_overview_says_what_is_live_where(served: Served):
    await served.model("m", "1.0.0", "2.0.0")
    served.http.headers["X-CCS-Author"] = "mia"
    await served.activate("1.0.0")
    for number in range(3):
        edge(served, f"cam-{number}", model={"guarantee": "strong" if number else "bounded"})
    page = await look(served, "/")

    assert "1 of 1 node answering n1 leads authority n1 3 edges live" in page.text
    assert re.search(r"m g1 1\.0\.0 – .* mia 2 × 1\.0\.0 strong ?1 × 1\.0\.0 bounded", page.text)
    assert "as of e1 r" in page.text and "read at n1 current" in page.text


async def test_a_model_with_its_versions_history_and_what_was_live_at(served: Served):
    await served.model("m", "1.0.0", "2.0.0")
    await served.activate("1.0.0")
    before_unix_ms = served.node.clock.unix_ms()
    await served.activate("2.0.0")
    then = words.iso(before_unix_ms)

    page = await look(served, f"/models/m?at={then}")
    assert "1.0.0 was live: generation 1" in page.text
    assert {"rollback", "activate-1.0.0"} == page.buttons()
    assert "nothing was live yet" in (await look(served, "/models/m?at=2020-01-01T00:00")).text
    assert "is no instant" in (await look(served, "/models/m?at=yesterday")).text
    assert "There is no model none" in (await look(served, "/models/none", status=404)).text


async def test_a_button_calls_what_it_says(served: Served):
    """The attributes are all that the script has: carried out as they are, they do what the sentence says."""
    await served.model("m", "1.0.0", "2.0.0")
    await served.activate("1.0.0")
    for key, now in (("activate-2.0.0", "2.0.0"), ("rollback", "1.0.0")):
        button = (await look(served, "/models/m")).button(key)
        assert now in str(button["data-says"]) and "from one instant on" in str(button["data-says"])
        answer = await served.http.request(
            str(button["data-method"]),
            str(button["data-path"]),
            content=button["data-body"] or None,
            headers={"If-Match": f'"{button["data-if-match"]}"', "Content-Type": "application/json"},
        )

        assert 200 == answer.status_code, answer.text
        assert now == served.node.metadata.state.models["m"].history[-1].assignment.stable


async def test_what_an_edge_writes_stays_text(served: Served):
    await served.model("m", "1.0.0")
    edge(
        served,
        "cam-1",
        site=EVIL,
        labels={EVIL: EVIL, "turn": "a\u202eb"},
        source=EVIL,
        model={"model": EVIL, "version": EVIL, "guarantee": EVIL, "failed": {"sha256:0": EVIL}},
    )
    edge(served, "cam-2", model={"version": EVIL, "guarantee": EVIL})
    for path in ("/", "/edges", "/models/m", "/edges?site=" + EVIL[:40], f"/timeline?model={EVIL[:30]}&at={EVIL[:9]}"):
        assert [] == list(foreign(await look(served, path)))
    page = await look(served, "/edges")
    assert "turn=a\ufffdb" in page.text and EVIL[:30] in page.text


async def test_what_people_write_stays_text(served: Served):
    served.http.headers["X-CCS-Author"] = EVIL
    await served.model("m", "1.0.0")
    uploaded = await served.put_version("m", "1.5.0")
    body = {"version": "2.0.0", "digest": uploaded, "metadata": {EVIL: EVIL}}
    assert 201 == (await served.http.post("/v1/models/m/versions", json=body)).status_code
    await served.activate("1.0.0")
    await served.node.propose(SetFreeze(frozen=True, reason=EVIL, author=EVIL))
    for path in PAGES[:8]:
        page = await look(served, path)
        assert [] == list(foreign(page)), path
        assert EVIL in page.text


async def test_a_freeze_is_on_every_page(served: Served):
    served.node.metadata.state.freeze = Freeze(author="ops", reason="Black Friday", since_unix_ms=0)
    await served.model("m", "1.0.0")
    for path in PAGES:
        page = await look(served, path, status=404 if "none" in path else 200)
        assert "Frozen by ops: Black Friday" in page.text
    assert json.loads(str((await look(served, "/")).button("freeze")["data-body"])) == {"frozen": False}


async def test_ten_thousand_edges_are_a_page_of_a_hundred(served: Served):
    await served.model("m", "1.0.0")
    for number in range(10_000):
        site = "dock-1" if number % 2 else "dock-2"
        edge(
            served,
            f"cam-{number:05}",
            site=site,
            labels={"line": str(number % 7)},
            model={"staleness_bound_ms": number},
        )
    first = await served.http.get("/edges?sort=-staleness", headers=BROWSER)

    assert len(first.content) < 250_000
    page = Page(first.text)
    assert "1–100 of 10 000 lines" in page.text
    assert "cam-09999" in page.text and "cam-09899" not in page.text
    second = await look(served, "/edges?sort=-staleness&page=2")
    assert "cam-09899" in second.text
    narrowed = await look(served, "/edges?site=dock-1&label=line=3&edge=cam-0000&state=live&guarantee=strong&model=m")
    assert "1–1 of 1 line " in narrowed.text and "cam-00003" in narrowed.text
    assert "No edge is like that" in (await look(served, "/edges?version=9.9.9")).text
    assert "10 000 edges live" in (await look(served, "/")).text


@pytest.mark.parametrize("query", ["sort=nonsense", "sort=--", "page=999999", "state=x", "label==", "guarantee=%00"])
async def test_a_strange_question_is_no_error(served: Served, query):
    edge(served, "cam-1", model={"staleness_bound_ms": None, "version": None})

    await look(served, f"/edges?{query}")


async def test_the_timeline_has_what_was_refused_and_filters(served: Served):
    await served.model("m", "1.0.0")
    await served.model("other", "1.0.0")
    served.http.headers["X-CCS-Author"] = "mia"
    await served.activate("1.0.0")
    assert 409 == (await served.activate("1.0.0")).status_code

    everything = await look(served, "/timeline")
    assert {"ModelCreated", "ActivationScheduled", "ActivationSettled"} <= set(everything.text.split())
    assert "generation 1: 1.0.0, live 206 ms later" in everything.text
    refused = await look(served, "/timeline?refused=1")
    assert "refused m mia unchanged" in refused.text and "1–1 of 1 line" in refused.text
    assert "1–2 of 2 lines" in (await look(served, "/timeline?model=other")).text
    assert "1–1 of 1 line" in (await look(served, "/timeline?author=MI&kind=ActivationScheduled")).text
    then = await look(served, "/timeline?at=2030-01-01T00:00")
    assert "m 1.0.0 g1" in then.text and "other nothing yet" in then.text


async def test_the_cluster_as_its_nodes_see_it(served: Served):
    page = await look(served, "/cluster")

    assert "n1 this one" in page.text and "leader authority" in page.text
    assert "connected" in page.text


async def test_a_node_that_cannot_confirm_its_state_says_so(served: Served, monkeypatch):
    async def nobody(**_):
        return NotLeader(leader_id=None)

    monkeypatch.setattr(served.node.metadata.log, "barrier", nobody)
    page = await look(served, "/")

    assert "locally, not confirmed" in page.text
    assert "This node could not confirm that its state is current" in page.text


async def test_a_region_without_history(tmp_path):
    async with one_node(tmp_path, run=False) as served:
        page = await look(served, "/")

    assert "no history yet" in page.text and "no leader" in page.text


async def test_nothing_is_there_for_people_and_for_programs(served: Served):
    assert "There is no such page" in (await look(served, "/nonsense", status=404)).text
    for path, headers in (("/nonsense", {}), ("/v1/nonsense", BROWSER)):
        response = await served.http.get(path, headers=headers)
        assert (404, PROBLEM) == (response.status_code, response.headers["content-type"])
    assert PROBLEM == (await served.http.post("/edges", headers=BROWSER)).headers["content-type"]


async def test_static_files_are_kept_for_ever_under_their_digest(served: Served):
    page = await look(served, "/")
    addresses = {str(script["src"]) for script in page.all("script")} | {str(link["href"]) for link in page.all("link")}

    assert 4 == len(addresses)
    for address in addresses:
        assert re.fullmatch(r"/static/[a-z.]+\?[0-9a-f]{12}", address)
        response = await served.http.get(address)
        assert 200 == response.status_code and "immutable" in response.headers["cache-control"]
        assert "nosniff" == response.headers["x-content-type-options"]
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", response.content)
    assert 404 == (await served.http.get("/static/..%2frouting.py")).status_code


OWN = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://n1"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://n1"},
    {"Origin": "https://N1"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"},
]
OTHERS = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://n1:9000"},
    {"Sec-Fetch-Site": "nonsense"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://n1:9000"},
    {"Origin": "http://n1.evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
]
CALLS = [
    ("POST", "/v1/models"),
    ("PATCH", "/v1/models/m/policy"),
    ("DELETE", "/v1/models/m"),
    ("POST", "/v1/models/m/rollback"),
    ("POST", "/v1/artifacts"),
    ("PUT", "/v1/freeze"),
    ("POST", "/v1/cluster/transfer"),
    ("DELETE", "/v1/cluster/members/n1"),
]


@pytest.mark.parametrize("headers", OTHERS)
async def test_another_site_changes_nothing(served: Served, headers):
    await served.model("m", "1.0.0", "2.0.0")
    before = served.node.metadata.state.revision
    for method, path in CALLS:
        response = await served.http.request(method, path, json={"name": "x"}, headers=headers)

        assert (403, "urn:ccs:problem:cross_site") == (response.status_code, response.json()["type"]), (method, path)
    assert (before, 2) == (served.node.metadata.state.revision, len(await served.store.digests()))


@pytest.mark.parametrize("headers", OWN)
async def test_ones_own_pages_and_programs_do(served: Served, headers):
    assert 201 == (await served.http.post("/v1/models", json={"name": "m"}, headers=headers)).status_code


def test_words():
    assert ["0 ms", "999 ms", "1 s", "1 min 30 s", "10 min", "2 h 5 min", "3 d 4 h"] == [
        words.duration(ms) for ms in (0, 999, 1_000, 90_000, 630_000, 7_500_000, 273_600_000)
    ]
    assert ("5 s ago", "in 5 s", "now") == tuple(words.ago(at, now_unix_ms=10_000) for at in (5_000, 15_000, 10_000))
    assert ("0.25 %", "100 %") == (words.share(25), words.share(10_000))
    assert ("10 B", "1.5 kB", "2.25 GB") == tuple(map(words.size, (10, 1_500, 2_250_000_000)))
    assert words.unix_ms_of("2026-11-20T14:00") == words.unix_ms_of("2026-11-20T15:00+01:00") == 1_795_183_200_000
    assert 80 == len(words.clip("x" * 1_000)) and "a\ufffdb" == words.clip("a\x00b")
