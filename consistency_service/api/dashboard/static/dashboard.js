// Makes pages live, and buttons work. The server makes all HTML; this only asks for the page again when something
// happened, and puts in place the parts (data-live) that came out different.
"use strict";

const QUIET_MS = 250; // events come in bursts
const POLL_MS = 5000; // what edges report is no event
const RETRY_MS = 2000;

const remembered = {
  get(name) { try { return localStorage.getItem(name) || ""; } catch { return ""; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* then it is typed again */ } },
};
const byId = (id) => document.getElementById(id);

// ---- live

const link = byId("link");
let stream = null;
let timer = 0;
let asking = false;
let again = false;

function say(state, text) {
  if (link.textContent !== text) link.textContent = text;
  link.dataset.state = state;
}

function position() {
  return `${document.body.dataset.epoch}-${document.body.dataset.revision}`;
}

function follow() {
  if (stream !== null || document.hidden) return;
  stream = new EventSource(`/v1/events?after=${position()}`);
  stream.onopen = () => say("on", "live");
  stream.onmessage = () => refreshSoon(QUIET_MS);
  stream.onerror = () => {
    say("off", "reconnecting");
    if (stream !== null && stream.readyState === EventSource.CLOSED) {
      unfollow();
      setTimeout(async () => { await refresh(); follow(); }, RETRY_MS);
    }
  };
}

function unfollow() {
  if (stream !== null) stream.close();
  stream = null;
}

function refreshSoon(delayMs) {
  clearTimeout(timer);
  timer = setTimeout(refresh, delayMs);
}

async function refresh() {
  if (document.hidden) return;
  if (asking) { again = true; return; }
  asking = true;
  try {
    const response = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (response.redirected) { location.assign(response.url); return; } // the session has ended
    if (!response.ok && response.status !== 404) throw new Error(String(response.status));
    take(new DOMParser().parseFromString(await response.text(), "text/html"));
    if (stream !== null && stream.readyState === EventSource.OPEN) say("on", "live");
  } catch {
    say("off", "no answer");
  } finally {
    asking = false;
    refreshSoon(again ? QUIET_MS : POLL_MS);
    again = false;
  }
}

function take(page) {
  const fresh = page.querySelectorAll("[data-live]");
  const known = document.querySelectorAll("[data-live]");
  if (page.title !== document.title || [...fresh].map((part) => part.id).join() !== [...known].map((part) => part.id).join()) {
    // A part came or went, a rollout for instance: take the whole of what is below the heading bar.
    swap(byId("main"), page.getElementById("main"));
    swap(byId("strip"), page.getElementById("strip"));
  } else {
    for (const part of fresh) swap(byId(part.id), part);
  }
  document.title = page.title;
  Object.assign(document.body.dataset, page.body.dataset);
  enable();
}

function swap(old, fresh) {
  if (old === null || fresh === null) return;
  const shown = old.cloneNode(true);
  for (const button of shown.querySelectorAll(".needs-script")) button.hidden = true;
  for (const details of shown.querySelectorAll("details")) details.open = false;
  if (shown.isEqualNode(fresh)) return;
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const open = [...old.querySelectorAll("details[open]")].map((details) => details.id);
  const typed = [...old.querySelectorAll("form input, form select")].map((field) => [field.id, field.value]);
  old.replaceChildren(...document.importNode(fresh, true).childNodes);
  old.className = fresh.className;
  for (const id of open) if (id && byId(id)) byId(id).open = true;
  for (const [id, value] of typed) if (id && byId(id)) byId(id).value = value;
  if (focused !== null) refocus(old, focused);
}

function refocus(part, focused) {
  const same = focused.id ? byId(focused.id) : [...part.querySelectorAll("a, summary")].find(
    (one) => one.getAttribute("href") === focused.getAttribute("href") && one.textContent === focused.textContent);
  if (same) { same.hidden = false; same.focus({ preventScroll: true }); }
}

// ---- buttons

const dialog = byId("confirm");
const known = "known" in byId("confirm-author").dataset; // logged in: the node says who
let asked = null;

function enable() {
  for (const button of document.querySelectorAll(".needs-script")) button.hidden = false;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-path]");
  if (button !== null) confirm(button);
});

function confirm(button) {
  asked = { ...button.dataset, id: button.id, key: randomKey() };
  byId("confirm-title").textContent = asked.title;
  byId("confirm-says").textContent = asked.says;
  byId("confirm-do").textContent = asked.label;
  byId("confirm-do").className = button.classList.contains("danger") ? "danger" : "primary";
  if (!known) byId("confirm-author").value = remembered.get("ccs.author");
  byId("confirm-reason").value = "";
  byId("confirm-reason").required = "reason" in asked;
  byId("confirm-why").hidden = !("reason" in asked);
  byId("confirm-cancel").textContent = "Cancel";
  outcome("", "");
  busy(false);
  dialog.showModal();
  (byId("confirm-author").value ? byId("reason" in asked ? "confirm-reason" : "confirm-do") : byId("confirm-author")).focus();
}

byId("confirm-cancel").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  const button = asked && byId(asked.id);
  if (button) button.focus();
  asked = null;
});
byId("confirm-form").addEventListener("submit", (event) => {
  event.preventDefault();
  carryOut(asked);
});

async function carryOut(what) {
  const author = byId("confirm-author").value.trim();
  if (!author) { byId("confirm-author").focus(); return; }
  if (!known) remembered.set("ccs.author", author);
  busy(true);
  outcome("", "Asked. This answers when it has taken effect; it goes on if you close this.");
  const headers = { "Idempotency-Key": what.key, "X-CCS-Author": bytesOf(author) };
  if (what.ifMatch) headers["If-Match"] = `"${what.ifMatch}"`;
  let body = what.body || undefined;
  if ("reason" in what) body = JSON.stringify({ ...JSON.parse(body), reason: byId("confirm-reason").value.trim() });
  if (body) headers["Content-Type"] = "application/json";
  try {
    const response = await fetch(what.path, { method: what.method, headers, body });
    const answer = await response.json().catch(() => ({}));
    if (response.ok) {
      if (asked === what) done(answer);
      refreshSoon(0);
      return;
    }
    if (asked === what) outcome("bad", `${answer.title || "Refused"}: ${answer.detail || response.status}`);
    if (response.status !== 503) what.key = randomKey(); // unknown outcomes are asked for again under their own key
    refreshSoon(0);
  } catch {
    if (asked === what) outcome("bad", "No answer. It may or may not have been done; asking again does not do it twice.");
  }
  if (asked === what) busy(false);
}

function done(answer) {
  const late = Object.entries(answer.not_ready || {});
  if (late.length === 0) { dialog.close(); return; }
  byId("confirm-cancel").textContent = "Close";
  const some = late.slice(0, 5).map(([edge, why]) => `${edge}: ${why}`).join("; ");
  outcome("warn", `Done. ${late.length} not ready by then: ${some}`);
}

function busy(is) {
  byId("confirm-do").disabled = is;
  byId("confirm-author").readOnly = is || known;
  byId("confirm-reason").readOnly = is;
}

function outcome(state, text) {
  byId("confirm-outcome").textContent = text;
  byId("confirm-outcome").className = state;
}

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function bytesOf(text) { // headers carry bytes; ours are UTF-8
  return String.fromCharCode(...new TextEncoder().encode(text));
}

// ---- colours

const theme = byId("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

function showTheme() {
  theme.setAttribute("aria-pressed", String(isDark()));
}

theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  remembered.set("ccs.theme", document.documentElement.dataset.theme);
  showTheme();
});
system.addEventListener("change", showTheme);

// ---- begin

document.addEventListener("visibilitychange", () => {
  if (document.hidden) { unfollow(); say("off", "paused"); } else { refresh(); follow(); }
});
enable();
showTheme();
follow();
refreshSoon(POLL_MS);
