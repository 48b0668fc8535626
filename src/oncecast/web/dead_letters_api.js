// Requests about dead letters, which the producer relays to a listener of the group; each throws Refused.

import { ask } from "./access.js";
import { parseExactly } from "./format.js";

const PATH = "api/dead-letters";
const ANSWER_MS = 130000; // a replay runs handlers, and the relay waits for them

/** Return the newest dead letters: `{ dead_letters, next }`. */
export function newest(group, limit) {
  return ask(`${PATH}?${new URLSearchParams({ group, limit })}`, { right: "subscribe" });
}

/** Return one dead letter with its event and trace. */
export function read(group, { id, source }) {
  return ask(address(group, { id, source }), { right: "subscribe", read: parseExactly });
}

/** Store `data`, a JSON text, as edited data; the original is kept. */
export function edit(group, { id, source }, data) {
  return ask(address(group, { id, source }), { right: "admin", method: "PUT", body: data });
}

/** Replay a dead letter; return `{ isStored, isOver, text }`. */
export async function replay(group, { id, source }) {
  const body = JSON.stringify({ events: [{ id, source }] });
  const path = `${PATH}/replay?${new URLSearchParams({ group })}`;
  const { results } = await ask(path, { right: "admin", method: "POST", body, answerMs: ANSWER_MS });
  const { outcome, error } = results[0];
  const texts = {
    stored: "Replayed and stored.",
    failed: `The replay failed: ${error}`,
    not_dead: "It is no longer a dead letter: somebody else replayed it.",
    unknown: `The outcome is unknown; replaying it again is safe. ${error ?? ""}`,
  };
  return { isStored: outcome === "stored", isOver: outcome === "stored" || outcome === "not_dead", text: texts[outcome] ?? outcome };
}

/** Discard or restore a dead letter: `what` is `discard` or `restore`. Throws if nothing was changed. */
export async function change(what, group, { id, source }) {
  const body = JSON.stringify({ events: [{ id, source }] });
  const path = `${PATH}/${what}?${new URLSearchParams({ group })}`;
  const { not_done: failures } = await ask(path, { right: "admin", method: "POST", body });
  if (failures.length) throw new Error(`Nothing was changed: ${failures[0].error}.`);
}

function address(group, { id, source }) {
  return `${PATH}/${encodeURIComponent(id)}?${new URLSearchParams({ source, group })}`;
}
