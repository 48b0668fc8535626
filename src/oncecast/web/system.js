// The state of the system: polls the producer once a second, and shows when it does not answer.

import { ask, entered } from "./access.js";
import { bytes, count, duration, rate, setText } from "./format.js";
import { showGroups } from "./groups.js";
import { listenersOf, showListeners, stateOf } from "./listeners.js";

const POLL_MS = 1000;
const POLL_SLOWEST_MS = 5000;
const ANSWER_MS = 3000;
const HIDDEN_EVERY = 10; // a hidden page polls every tenth time, for its title and icon
const RATES_KEPT = 60;
const NEARLY_FULL = 0.7;

const byId = (id) => document.getElementById(id);

/** Start polling; resolve after the first answer or error. */
export function startSystem({ onStatus }) {
  const rates = [];
  let before = null;
  let failures = 0;
  let looks = 0; // while the page is hidden
  let answeredAt = performance.now();

  async function poll() {
    if (!document.hidden || (looks += 1) % HIDDEN_EVERY === 0) {
      const { status, refused } = await ask("api/status", { right: "subscribe", answerMs: ANSWER_MS }).then(
        (status) => ({ status }),
        (refused) => ({ refused }),
      );
      if (refused?.status === 401) {
        entered().then(poll);
        return;
      }
      if (status) answered(status);
      else unanswered();
    }
    setTimeout(poll, Math.min(POLL_MS * 2 ** Math.max(0, failures - 1), POLL_SLOWEST_MS));
  }

  function answered(status) {
    failures = 0;
    answeredAt = performance.now();
    byId("system").dataset.stale = "";
    show(status);
    onStatus(status);
  }

  function unanswered() {
    failures += 1;
    before = null;
    if (failures < 2) return;
    const text = `No answer for ${duration((performance.now() - answeredAt) / 1000)}`;
    byId("system").dataset.stale = text;
    showState("bad", `The producer does not answer: ${text.toLowerCase()}. What is shown below is older.`);
  }

  function show(status) {
    const journal = status.journal ?? {};
    const listeners = listenersOf(status);
    measureRate(journal);
    setText(byId("accepted"), count(journal.last));
    const followers = (status.listeners?.length ?? 0) - listeners.length;
    setText(byId("subscribers"), count(status.subscribers + followers));
    setText(byId("lag"), count(largestLag(status.groups)));
    showFill(journal);
    showHealth(status);
    showListeners(journal, listeners, status.gone);
    showGroups(status.groups ?? [], journal);
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

  return poll();
}

/** Return the lag of the slowest group that events are kept for. */
function largestLag(groups = []) {
  const lags = groups.filter((group) => !group.expired && !group.forgotten).map((group) => group.behind);
  return lags.length ? Math.max(...lags) : NaN;
}

/** Show the state of the whole, with the reason and what to do; in the title and the icon, too. */
function showHealth({ status, since, reason, remedy, listeners = [], gone = [] }) {
  const works = listeners.some((each) => ["ok", "degraded"].includes(each.status));
  const state = status !== "ok" && listeners.length + gone.length && !works ? "bad" : stateOf(status);
  const at = since ? ` since ${new Date(since).toLocaleTimeString()}` : "";
  showState(state, status === "ok" ? "All is well." : `${capital(status ?? "unknown")}${at}: ${reason ?? "no reason given"}.${remedy ? ` To do: ${remedy}.` : ""}`);
}

/** Show the state of the whole in its line, the title and the icon. */
function showState(state, text) {
  byId("health").dataset.state = state;
  setText(byId("health"), text);
  const mark = { good: "", wait: "▲ ", bad: "✖ " }[state] ?? "";
  document.title = `${mark}Oncecast`;
  const icon = document.querySelector('link[rel="icon"]');
  const file = { wait: "web/icon-wait.svg", bad: "web/icon-bad.svg" }[state] ?? "web/icon.svg";
  if (icon.getAttribute("href") !== file) icon.setAttribute("href", file);
}

function capital(word) {
  return word.charAt(0).toUpperCase() + word.slice(1);
}

/** If the journal is nearly full, show the group that holds it back and what happens when it is full. */
function showFill({ bytes: used, max_bytes: most, held_back_by: group }) {
  const isNews = used > most * NEARLY_FULL;
  byId("fill").hidden = !isNews;
  if (!isNews) return;
  byId("fill-bar").value = used / most;
  const full = `The journal is ${Math.floor((100 * used) / most)} % full: ${bytes(used)} of ${bytes(most)}.`;
  const why = group ? ` It keeps the events that the group ${group} has not processed; when it is full, publishing is refused.` : "";
  setText(byId("fill-text"), full + why);
}

function drawRates(rates) {
  const peak = Math.max(1, ...rates);
  const step = 120 / (RATES_KEPT - 1);
  const left = 120 - (rates.length - 1) * step;
  const points = rates.map((value, index) => `${(left + index * step).toFixed(1)},${(26 - (24 * value) / peak).toFixed(1)}`);
  byId("spark-line").setAttribute("points", points.join(" "));
  byId("spark-area").setAttribute("d", `M${left.toFixed(1)},28 L${points.join(" L")} L120,28 Z`);
}
