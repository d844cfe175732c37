"""Logging in, in a real browser, by TLS: what a cookie's attributes are worth, only a browser can tell."""

from __future__ import annotations

import os
import shutil

import pytest
from playwright.async_api import async_playwright, expect

from tests.api.secured import authority, tls_node

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium"),
    pytest.mark.timeout(120),
]
expect.set_options(timeout=20_000)


async def test_a_visitor_logs_in_looks_changes_and_leaves(tmp_path):
    certs = authority(tmp_path / "certs")
    async with tls_node(tmp_path, certs) as (url, served), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(ignore_https_errors=True, viewport={"width": 1000, "height": 700})
        page = await context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)

        await page.goto(f"{url}/cluster")
        await expect(page).to_have_url(f"{url}/login?next=/cluster")
        await look(page, "login")
        await page.get_by_label("Token").fill("ccs_wrong")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_contain_text("not known")
        assert [text for text in complaints if "401" not in text] == []
        complaints.clear()
        await look(page, "login-refused")

        await page.get_by_label("Token").fill(served.table.tokens["operator"])
        await page.get_by_role("button", name="Log in").click()
        await expect(page).to_have_url(f"{url}/cluster")
        await expect(page.locator("#link")).to_have_text("live")
        await expect(page.locator(".visitor")).to_contain_text("operator")
        assert "" == await page.evaluate("document.cookie"), "scripts do not see it"
        cookie = next(one for one in await context.cookies() if one["name"].startswith("__Host-"))
        assert (True, True, "Strict") == (cookie["httpOnly"], cookie["secure"], cookie["sameSite"])
        await look(page, "logged-in")

        await page.goto(f"{url}/")
        await page.get_by_role("button", name="Freeze").click()
        assert "operator" == await page.get_by_label("Your name").input_value()
        await page.get_by_label("Reason").fill("because")
        await page.locator("#confirm-do").click()
        await expect(page.locator("#strip")).to_contain_text("by operator: because")
        freeze = served.node.metadata.state.freeze
        assert freeze is not None and "operator" == freeze.author

        # the session ends with its token, without anybody reloading
        served.table.write("")
        await expect(page).to_have_url(f"{url}/login", timeout=30_000)
        served.table.add("again", "viewer")
        await page.get_by_label("Token").fill(served.table.tokens["again"])
        await page.get_by_role("button", name="Log in").click()
        await expect(page).to_have_url(f"{url}/")
        await expect(page.get_by_role("button", name="Lift the freeze")).to_be_hidden()
        await page.get_by_role("button", name="Log out").click()
        await expect(page).to_have_url(f"{url}/login")
        await page.goto(f"{url}/edges")
        await expect(page).to_have_url(f"{url}/login?next=/edges")
        await browser.close()


async def look(page, name: str) -> None:
    """A picture for people, where `CCS_PICTURES` says so."""
    if directory := os.environ.get("CCS_PICTURES"):
        await page.screenshot(path=f"{directory}/{name}.png")
