// Conflicts of a group, newest first: other content under a used identity. Each can be opened, replayed
// under a new id, or discarded. The list appears with the first conflict.

import { ask } from "./access.js";
import { count, element, parseExactly, setText } from "./format.js";
import { listenersOf } from "./listeners.js";

const PATH = "api/conflicts";
const PAGE = 50;
const ANSWER_MS = 130000; // a replay runs handlers, and the relay waits for them

const byId = (id) => document.getElementById(id);

export function startConflicts() {
  const list = byId("conflicts-list");
  const entries = new Map(); // by cursor
  let asked = ""; // the part of the status that the list was last loaded for
  let latest = 0;

  async function refresh() {
    const turn = ++latest;
    const group = byId("group").value;
    try {
      const page = await ask(`${PATH}?${new URLSearchParams({ group, limit: PAGE })}`, { right: "subscribe" });
      if (turn === latest) show(group, page);
    } catch (refused) {
      if (turn !== latest) return;
      setText(byId("conflicts-fault"), refused.message);
      setText(byId("conflicts-count"), "–");
      if (refused.isUncertain) asked = ""; // the next status loads it again
    }
  }

  function show(group, { conflicts, next }) {
    setText(byId("conflicts-fault"), "");
    const open = new Set(conflicts.map(({ cursor }) => cursor));
    for (const [cursor, entry] of entries) {
      entry.classList.toggle("gone", !open.has(cursor));
      if (!entry.open) dropIfGone(cursor, entry); // an open entry stays, and shows its outcome
    }
    conflicts.forEach((conflict, index) => {
      const { cursor } = conflict;
      if (!entries.has(cursor)) entries.set(cursor, entryOf(group, conflict, { onChanged: refresh, onClosed: (entry) => dropIfGone(cursor, entry) }));
      const item = entries.get(cursor).parentElement;
      if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
    });
    const number = `${count(conflicts.length)}${next ? "+" : ""}`;
    setText(byId("conflicts-count"), number);
    byId("conflicts-count").classList.toggle("bad", conflicts.length > 0);
    byId("conflicts").hidden = entries.size === 0;
  }

  function dropIfGone(cursor, entry) {
    if (!entry.classList.contains("gone")) return;
    if (entry.contains(document.activeElement)) byId("dead-letters").focus();
    entry.parentElement.remove();
    entries.delete(cursor);
    byId("conflicts").hidden = entries.size === 0;
  }

  byId("group").addEventListener("change", () => {
    list.replaceChildren();
    entries.clear();
    refresh();
  });

  return {
    /** Take a new status: reload the list if listeners or their counts of conflicts have changed. */
    follow(status) {
      const listeners = listenersOf(status);
      const now = JSON.stringify(listeners.map(({ instance, conflicts, parts }) => [instance, conflicts, parts?.database?.status]));
      if (listeners.length && now !== asked) {
        asked = now;
        refresh();
      }
    },
  };
}

function entryOf(group, conflict, { onChanged, onClosed }) {
  const seen = new Date(conflict.seen_at);
  const entry = element(
    "details",
    {},
    element(
      "summary",
      {},
      element("time", { datetime: seen.toISOString() }, seen.toTimeString().slice(0, 8)),
      element("span", { class: "type" }, conflict.type ?? "?"),
      element("span", { class: "id" }, conflict.id),
    ),
  );
  entry.addEventListener("toggle", () => {
    if (!entry.open) onClosed(entry);
    else if (entry.children.length === 1) openConflict(entry, group, conflict, onChanged);
  });
  element("li", {}, entry);
  return entry;
}

async function openConflict(entry, group, { cursor }, onChanged) {
  const body = element("div", { class: "dead-letter" }, element("p", { class: "quiet" }, "Loading"));
  entry.append(body);
  try {
    const conflict = await ask(`${PATH}/${encodeURIComponent(cursor)}?${new URLSearchParams({ group })}`, { right: "subscribe", read: parseExactly });
    const taken = conflict.row ? `${conflict.row.cursor} has the same identity and is ${conflict.row.status}.` : "The row with the same identity was pruned.";
    body.replaceChildren(
      element("p", { class: "quiet" }, `${cursor}, from ${conflict.source}. ${taken}`),
      element("pre", { tabindex: "0", "aria-label": "The event as received" }, JSON.stringify(conflict.event, null, 2)),
      formOf(group, cursor, onChanged),
    );
  } catch (refused) {
    const again = element("button", { type: "button", class: "plain" }, "Try again");
    again.onclick = () => {
      body.remove();
      openConflict(entry, group, { cursor }, onChanged);
    };
    body.replaceChildren(element("p", { class: "bad" }, refused.message), again);
  }
}

/** Return a form: the new id, and the buttons Replay and Discard. */
function formOf(group, cursor, onChanged) {
  const field = element("input", { maxlength: "512", placeholder: "a random id", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
  const replaying = element("button", { type: "submit", class: "primary" }, "Replay");
  const discarding = element("button", { type: "button", class: "plain" }, "Discard");
  const outcome = element("p", { role: "status" });

  async function act(work) {
    replaying.disabled = discarding.disabled = field.readOnly = true;
    outcome.className = "quiet";
    let result;
    try {
      result = await work();
    } catch ({ message, isUncertain }) {
      result = { isOver: false, isGood: false, text: isUncertain ? `${message} Trying again is safe.` : message };
    }
    setText(outcome, result.text);
    outcome.className = result.isGood ? "good" : "bad";
    replaying.disabled = discarding.disabled = false;
    replaying.hidden = discarding.hidden = field.readOnly = result.isOver;
    onChanged();
  }

  const form = element(
    "form",
    { novalidate: "" },
    element("label", {}, "Replay under the id", field),
    element("div", { class: "actions" }, replaying, discarding, outcome),
  );
  form.onsubmit = (submitted) => {
    submitted.preventDefault();
    if (!replaying.disabled) act(() => replay(group, cursor, field.value || null));
  };
  discarding.onclick = () => act(() => discard(group, cursor));
  return form;
}

async function replay(group, cursor, id) {
  const body = JSON.stringify({ conflicts: [{ cursor, id }] });
  const { results } = await ask(`${PATH}/replay?${new URLSearchParams({ group })}`, { right: "admin", method: "POST", body, answerMs: ANSWER_MS });
  const { outcome, error, id: newId } = results[0];
  const texts = {
    stored: `Replayed and stored as ${newId}.`,
    failed: `The replay failed, and the conflict stays open: ${error}`,
    not_open: "The conflict is no longer open: somebody else replayed or discarded it.",
    unknown: `The outcome is unknown; replaying it again is safe. ${error ?? ""}`,
  };
  return { isGood: outcome === "stored", isOver: outcome === "stored" || outcome === "not_open", text: texts[outcome] ?? outcome };
}

async function discard(group, cursor) {
  const body = JSON.stringify({ cursors: [cursor] });
  const { not_done: failures } = await ask(`${PATH}/discard?${new URLSearchParams({ group })}`, { right: "admin", method: "POST", body });
  if (failures.length) return { isGood: false, isOver: false, text: `Nothing was changed: ${failures[0].error}.` };
  return { isGood: true, isOver: true, text: "Discarded: it is no longer listed, and its row is kept." };
}
