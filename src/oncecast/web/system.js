// The state of the system: asks the producer once a second, and says so when it does not answer.

import { count, duration, element, offsetOf, rate, setText } from "./format.js";

const POLL_MS = 1000;
const POLL_SLOWEST_MS = 5000;
const ANSWER_MS = 3000;
const RATES_KEPT = 60;
const SILENT_AFTER_S = 5;

const byId = (id) => document.getElementById(id);

export function startSystem({ onStatus }) {
  const rates = [];
  let before = null;
  let failures = 0;
  let answeredAt = performance.now();

  async function poll() {
    if (!document.hidden) {
      try {
        const answer = await fetch("api/status", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
        if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
        const status = await answer.json();
        failures = 0;
        answeredAt = performance.now();
        show(status);
        onStatus(status);
      } catch {
        failures += 1;
        before = null;
      }
      byId("system").dataset.stale = failures > 1 ? `No answer for ${duration((performance.now() - answeredAt) / 1000)}` : "";
    }
    setTimeout(poll, Math.min(POLL_MS * 2 ** Math.max(0, failures - 1), POLL_SLOWEST_MS));
  }

  function show(status) {
    const journal = status.journal ?? {};
    const listeners = listenersOf(status);
    measureRate(journal);
    setText(byId("accepted"), count(journal.last));
    const followers = (status.listeners?.length ?? 0) - listeners.length;
    setText(byId("subscribers"), count(status.subscribers + followers));
    setText(byId("lag"), count(largestLag(journal, listeners)));
    const dead = listeners.reduce((sum, listener) => sum + (listener.dead ?? 0), 0);
    setText(byId("dead"), count(dead));
    byId("dead").classList.toggle("bad", dead > 0);
    showListeners(journal, listeners);
  }

  function measureRate(journal) {
    const now = { at: performance.now(), last: journal.last, name: journal.name };
    if (before !== null && before.name === now.name && now.last >= before.last && now.at - before.at < 5 * POLL_MS) {
      rates.push(((now.last - before.last) * 1000) / (now.at - before.at));
      if (rates.length > RATES_KEPT) rates.shift();
      setText(byId("rate"), rate(rates.at(-1)));
      drawRates(rates);
    }
    before = now;
  }

  poll();
}

/** Those that share work: a reader without a group (`oncecast tail`) only follows. */
export function listenersOf(status) {
  return (Array.isArray(status.listeners) ? status.listeners : []).filter((listener) => listener.group);
}

function lagOf(listener, journal) {
  return Number.isFinite(listener.lag) ? listener.lag : Math.max(0, journal.last - offsetOf(listener.cursor));
}

/** A group is as far as the furthest of its listeners; the system as far as its slowest group. */
function largestLag(journal, listeners) {
  const lags = new Map();
  for (const listener of listeners) {
    const lag = lagOf(listener, journal);
    if (Number.isFinite(lag)) lags.set(listener.group, Math.min(lag, lags.get(listener.group) ?? Infinity));
  }
  return lags.size ? Math.max(...lags.values()) : NaN;
}

function drawRates(rates) {
  const peak = Math.max(1, ...rates);
  const step = 120 / (RATES_KEPT - 1);
  const left = 120 - (rates.length - 1) * step;
  const points = rates.map((value, index) => `${(left + index * step).toFixed(1)},${(26 - (24 * value) / peak).toFixed(1)}`);
  byId("spark-line").setAttribute("points", points.join(" "));
  byId("spark-area").setAttribute("d", `M${left.toFixed(1)},28 L${points.join(" L")} L120,28 Z`);
}

function showListeners(journal, listeners) {
  const body = byId("listeners");
  while (body.rows.length > listeners.length) body.deleteRow(-1);
  listeners.forEach((listener, index) => {
    const row = body.rows[index] ?? body.appendChild(emptyRow());
    const silent = listener.age_s > SILENT_AFTER_S;
    row.classList.toggle("silent", silent);
    const values = [
      silent ? `${listener.instance} – silent for ${duration(listener.age_s)}` : listener.instance,
      listener.group,
      count(lagOf(listener, journal)),
      count(listener.stored),
      count(listener.duplicates),
      count(listener.dead),
      count(listener.in_flight),
      listener.redis,
      listener.database,
    ];
    values.forEach((value, column) => setText(row.cells[column], String(value ?? "–")));
    row.cells[0].dataset.state = silent ? "bad" : "good";
    row.cells[7].dataset.state = silent ? "none" : stateOf(listener.redis);
    row.cells[8].dataset.state = silent ? "none" : stateOf(listener.database);
    row.cells[5].classList.toggle("bad", listener.dead > 0);
  });
  byId("no-listeners").hidden = listeners.length > 0;
  body.parentElement.hidden = listeners.length === 0;
}

function stateOf(dependency) {
  return dependency === "ready" ? "good" : dependency === undefined ? "none" : "bad";
}

function emptyRow() {
  const heads = [...document.querySelectorAll(".listeners thead th")];
  // The roles stay when a narrow page lays the table out as cards.
  const cells = heads.map((head, index) =>
    index
      ? element("td", { class: head.className, role: "cell", "data-label": head.textContent })
      : element("th", { scope: "row", role: "rowheader" }),
  );
  return element("tr", { role: "row" }, ...cells);
}
