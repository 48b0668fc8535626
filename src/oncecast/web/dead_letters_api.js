// Dead letters, as the producer relays them from a live listener of the group; each raises Refused.

import { ask } from "./access.js";
import { parseExactly } from "./format.js";

const PATH = "api/dead-letters";
const ANSWER_MS = 130000; // a replay runs handlers, and the relay waits for them

/** The newest: `{ dead_letters, next }`. */
export function newest(group, limit) {
  return ask(`${PATH}?${new URLSearchParams({ group, limit })}`, { right: "subscribe" });
}

/** One, with its event and trace. */
export function letter(group, { id, source }) {
  return ask(address(group, { id, source }), { right: "subscribe", read: parseExactly });
}

/** Put `data`, a JSON text, in place of the event's; the original is kept. */
export function mend(group, { id, source }, data) {
  return ask(address(group, { id, source }), { right: "admin", method: "PUT", body: data });
}

/** Process it again: `{ isStored, isOver, text }`. */
export async function replay(group, { id, source }) {
  const body = JSON.stringify({ events: [{ id, source }] });
  const path = `${PATH}/replay?${new URLSearchParams({ group })}`;
  const { results } = await ask(path, { right: "admin", method: "POST", body, answerMs: ANSWER_MS });
  const { outcome, error } = results[0];
  const texts = {
    stored: "Replayed: it is stored now.",
    failed: `It failed again: ${error}`,
    not_dead: "It is dead no longer: it was replayed elsewhere.",
    unknown: `Whether it is stored is unknown; replaying it again is safe. ${error ?? ""}`,
  };
  return { isStored: outcome === "stored", isOver: outcome === "stored" || outcome === "not_dead", text: texts[outcome] ?? outcome };
}

/** Give it up for good, or bring it back: `what` is `discard` or `restore`. Raises where nothing was changed. */
export async function change(what, group, { id, source }) {
  const body = JSON.stringify({ events: [{ id, source }] });
  const path = `${PATH}/${what}?${new URLSearchParams({ group })}`;
  const { not_done: failures } = await ask(path, { right: "admin", method: "POST", body });
  if (failures.length) throw new Error(`Nothing was changed: ${failures[0].error}.`);
}

function address(group, { id, source }) {
  return `${PATH}/${encodeURIComponent(id)}?${new URLSearchParams({ source, group })}`;
}
