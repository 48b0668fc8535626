// The table of listeners, from their reports of every second.

import { ask } from "./access.js";
import { count, duration, element, offsetOf, rate, setText } from "./format.js";

const SILENT_AFTER_S = 2.8;

const byId = (id) => document.getElementById(id);
const measured = new Map(); // by instance: { stored, atS }

/** Return the listeners that have a group; a reader without one (`oncecast tail`) shares no work. */
export function listenersOf(status) {
  return (Array.isArray(status.listeners) ? status.listeners : []).filter((listener) => listener.group);
}

export function lagOf(listener, journal) {
  return Number.isFinite(listener.lag) ? listener.lag : Math.max(0, journal.last - offsetOf(listener.cursor));
}

/** Show the connected listeners, and then those that have gone. */
export function showListeners(journal, connected, gone = []) {
  const body = byId("listeners");
  const listeners = [...connected, ...gone.map((listener) => ({ ...listener, gone: true }))];
  while (body.rows.length > listeners.length) body.deleteRow(-1);
  listeners.forEach((listener, index) => showListener(body.rows[index] ?? body.appendChild(rowFor(body.parentElement)), listener, journal));
  byId("no-listeners").hidden = connected.length > 0;
  body.parentElement.hidden = listeners.length === 0;
}

function showListener(row, listener, journal) {
  const isSilent = listener.gone || listener.age_s > SILENT_AFTER_S;
  row.classList.toggle("silent", isSilent);
  row.classList.toggle("standing", !isSilent && Boolean(listener.reason));
  const values = {
    instance: nameOf(listener, isSilent),
    group: listener.group,
    rate: perSecond(isSilent ? NaN : rateOf(listener)),
    lag: count(lagOf(listener, journal)),
    stored: count(listener.stored),
    duplicates: count(listener.duplicates),
    dead: count(listener.dead),
    "in-flight": count(listener.in_flight),
    redis: wordOf(listener, "redis"),
    postgresql: wordOf(listener, "database"),
  };
  const states = {
    instance: isSilent && !listener.gone ? "bad" : stateOf(listener.status),
    redis: stateOf(listener.parts?.redis?.status),
    postgresql: stateOf(listener.parts?.database?.status),
  };
  for (const cell of row.cells) {
    if (cell.dataset.of === "instance") showName(cell, values.instance, listener);
    else setText(cell, values[cell.dataset.of]);
    if (states[cell.dataset.of]) cell.dataset.state = states[cell.dataset.of];
    if (cell.dataset.of === "dead") cell.classList.toggle("bad", listener.dead > 0);
  }
}

/** Show the name; behind that of a listener that has gone, a button to dismiss it. */
function showName(cell, text, { gone, group, instance }) {
  const name = cell.querySelector("span") ?? cell.appendChild(element("span"));
  setText(name, text);
  const shown = cell.querySelector("button");
  if (!gone) shown?.remove();
  else if (!shown) {
    const button = cell.appendChild(element("button", { type: "button", class: "small" }, "Dismiss"));
    button.addEventListener("click", () => dismiss(button));
  }
  const button = cell.querySelector("button");
  const path = `api/listeners/${encodeURIComponent(group)}/${encodeURIComponent(instance)}`;
  if (button && button.dataset.path !== path) {
    button.dataset.path = path;
    button.title = "";
    button.setAttribute("aria-label", `Dismiss ${instance}`);
  }
}

async function dismiss(button) {
  button.disabled = true;
  try {
    await ask(button.dataset.path, { right: "admin", method: "DELETE" });
  } catch (refused) {
    button.title = refused.message;
  } finally {
    button.disabled = false;
  }
}

function nameOf({ instance, age_s: ageS, on_standby: standby, status, reason, gone }, isSilent) {
  if (gone) return status === "draining" ? `${instance} – stopped ${duration(ageS)} ago` : `${instance} – gone for ${duration(ageS)}`;
  if (isSilent) return `${instance} – silent for ${duration(ageS)}`;
  if (standby) return `${instance} – standby: ${standby}`;
  return reason ? `${instance} – ${status}: ${reason}` : instance;
}

function wordOf(listener, part) {
  return listener.parts?.[part]?.status ?? "–";
}

function perSecond(value) {
  return Number.isFinite(value) ? `${rate(value)}/s` : "–";
}

/** Return the reported rate, or one computed from the count of stored events. */
function rateOf({ instance, rate: reported, stored }) {
  if (Number.isFinite(reported)) return reported;
  const [before, atS] = [measured.get(instance), performance.now() / 1000];
  const isLater = before !== undefined && stored >= before.stored && atS > before.atS;
  measured.set(instance, { stored, atS });
  return isLater ? (stored - before.stored) / (atS - before.atS) : NaN;
}

/** Return the colour of a status: ok, degraded, down or draining. */
export function stateOf(status) {
  return { ok: "good", degraded: "wait", draining: "wait", down: "bad" }[status] ?? "none";
}

/** Return an empty row of a table, with a cell for each column. */
export function rowFor(table) {
  const heads = [...table.tHead.rows[0].cells];
  // Explicit roles: a narrow page shows the table as cards, which would lose them.
  const cells = heads.map((head, index) => {
    const of = head.dataset.of;
    return index
      ? element("td", { class: head.className, role: "cell", "data-of": of, "data-label": head.textContent })
      : element("th", { scope: "row", role: "rowheader", "data-of": of });
  });
  return element("tr", { role: "row" }, ...cells);
}
