// Find events that have ended, or wait for another attempt, by id, type or outcome.

import { ask } from "./access.js";
import { element, parseExactly, setText } from "./format.js";

const LIMIT = 20;
const RETRYING_LIMIT = 200;

const byId = (id) => document.getElementById(id);

export function startFind() {
  let latest = 0;
  byId("find-form").addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    const turn = ++latest;
    setText(byId("find-fault"), "Looking …");
    try {
      const found = await find();
      if (turn === latest) show(found);
    } catch (refused) {
      if (turn !== latest) return;
      byId("found").replaceChildren();
      setText(byId("find-fault"), refused.message);
    }
  });
}

/** Return the ended events and those that wait for another attempt. */
async function find() {
  const group = byId("group").value;
  const [id, type, status] = ["find-id", "find-type", "find-status"].map((name) => byId(name).value.trim());
  const given = Object.entries({ group, id, type, status }).filter(([, value]) => value);
  const ended = await ask(`api/events?${new URLSearchParams([...given, ["limit", LIMIT]])}`, { right: "subscribe", read: parseExactly });
  const waiting = status ? [] : await retrying(group);
  const chosen = waiting.filter((each) => (!id || each.id === id) && (!type || each.type === type));
  return { ended: ended.events, waiting: chosen.slice(0, LIMIT), hasMore: Boolean(ended.next), isStale: ended.stale };
}

async function retrying(group) {
  const query = new URLSearchParams(group ? { group, limit: RETRYING_LIMIT } : { limit: RETRYING_LIMIT });
  return (await ask(`api/retrying?${query}`, { right: "subscribe" })).retrying;
}

function show({ ended, waiting, hasMore, isStale }) {
  const nothing = !ended.length && !waiting.length;
  const notes = [
    nothing ? "No such event has ended or waits for another attempt." : "",
    hasMore ? `Only the newest ${LIMIT} are shown.` : "",
    isStale ? "PostgreSQL is down: these are events that the listener remembers." : "",
  ];
  setText(byId("find-fault"), notes.filter(Boolean).join(" "));
  const entries = [...waiting.map(waitingEntry), ...ended.map(endedEntry)];
  byId("found").replaceChildren(...entries.map((entry) => element("li", {}, entry)));
}

function waitingEntry(event) {
  const facts = {
    outcome: `waits for attempt ${event.attempts + 1}`,
    "next attempt": event.next_at,
    "last error": event.error,
    "failed at": `${event.failed_at}, by ${event.listener}`,
    source: event.source,
  };
  return entryOf(event.failed_at, "retrying", event, facts);
}

function endedEntry(row) {
  const facts = {
    accepted: row.accepted_at,
    stored: row.stored_at,
    "stored by": row.listener,
    attempts: String(row.attempts),
    cursor: row.cursor,
  };
  return entryOf(row.stored_at, row.status, row.event, facts, JSON.stringify(row.event, null, 2));
}

function entryOf(at, status, { type, id }, facts, text) {
  const summary = element("summary", {});
  summary.append(
    element("time", { class: "quiet" }, at.slice(11, 23)),
    element("span", { class: "type" }, type),
    element("span", { class: "id" }, id),
    element("span", { class: status === "stored" ? "preview" : "preview bad" }, status),
  );
  const list = element("dl", { class: "facts" });
  for (const [name, value] of Object.entries(facts)) list.append(element("dt", {}, name), element("dd", {}, value));
  const details = element("details", {}, summary, list);
  if (text) details.append(element("pre", {}, text));
  return details;
}
