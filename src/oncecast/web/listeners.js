// The table of listeners, as they report themselves every second.

import { count, duration, element, offsetOf, rate, setText } from "./format.js";

const SILENT_AFTER_S = 5;

const byId = (id) => document.getElementById(id);
const measured = new Map(); // by instance: { stored, atS }

/** Those that share work: a reader without a group (`oncecast tail`) only follows. */
export function listenersOf(status) {
  return (Array.isArray(status.listeners) ? status.listeners : []).filter((listener) => listener.group);
}

export function lagOf(listener, journal) {
  return Number.isFinite(listener.lag) ? listener.lag : Math.max(0, journal.last - offsetOf(listener.cursor));
}

export function showListeners(journal, listeners) {
  const body = byId("listeners");
  while (body.rows.length > listeners.length) body.deleteRow(-1);
  listeners.forEach((listener, index) => showListener(body.rows[index] ?? body.appendChild(emptyRow()), listener, journal));
  byId("no-listeners").hidden = listeners.length > 0;
  body.parentElement.hidden = listeners.length === 0;
}

function showListener(row, listener, journal) {
  const isSilent = listener.age_s > SILENT_AFTER_S;
  row.classList.toggle("silent", isSilent);
  row.classList.toggle("standing", !isSilent && Boolean(listener.standing_by));
  const values = {
    instance: nameOf(listener, isSilent),
    group: listener.group,
    rate: perSecond(isSilent ? NaN : rateOf(listener)),
    lag: count(lagOf(listener, journal)),
    stored: count(listener.stored),
    duplicates: count(listener.duplicates),
    dead: count(listener.dead),
    "in-flight": count(listener.in_flight),
    redis: listener.redis ?? "–",
    postgresql: listener.database ?? "–",
  };
  const states = {
    instance: isSilent ? "bad" : listener.standing_by ? "wait" : "good",
    redis: isSilent ? "none" : stateOf(listener.redis),
    postgresql: isSilent ? "none" : stateOf(listener.database),
  };
  for (const cell of row.cells) {
    setText(cell, values[cell.dataset.of]);
    if (states[cell.dataset.of]) cell.dataset.state = states[cell.dataset.of];
    if (cell.dataset.of === "dead") cell.classList.toggle("bad", listener.dead > 0);
  }
}

function nameOf({ instance, age_s: ageS, standing_by: standingBy }, isSilent) {
  if (isSilent) return `${instance} – silent for ${duration(ageS)}`;
  return standingBy ? `${instance} – stands by: ${standingBy}` : instance;
}

function perSecond(value) {
  return Number.isFinite(value) ? `${rate(value)}/s` : "–";
}

/** What it says itself, or what its count of stored events says. */
function rateOf({ instance, rate: told, stored }) {
  if (Number.isFinite(told)) return told;
  const [before, atS] = [measured.get(instance), performance.now() / 1000];
  const isLater = before !== undefined && stored >= before.stored && atS > before.atS;
  measured.set(instance, { stored, atS });
  return isLater ? (stored - before.stored) / (atS - before.atS) : NaN;
}

function stateOf(dependency) {
  return dependency === "ready" ? "good" : dependency === undefined ? "none" : "bad";
}

function emptyRow() {
  const heads = [...document.querySelectorAll(".listeners thead th")];
  // The roles stay when a narrow page lays the table out as cards.
  const cells = heads.map((head, index) => {
    const of = head.dataset.of;
    return index
      ? element("td", { class: head.className, role: "cell", "data-of": of, "data-label": head.textContent })
      : element("th", { scope: "row", role: "rowheader", "data-of": of });
  });
  return element("tr", { role: "row" }, ...cells);
}
