// The dead letters of a group, newest first; each can be opened, edited and replayed.

import { count, element, setText } from "./format.js";
import { openDeadLetter } from "./dead_letter.js";
import { newest } from "./dead_letters_api.js";
import { listenersOf } from "./listeners.js";

const PAGE = 20;
const SHOWN_MAX = 1000;
const dayAndTime = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

const byId = (id) => document.getElementById(id);

export function startDeadLetters() {
  const list = byId("dead-letters-list");
  const entries = new Map(); // by source and id
  let wanted = PAGE;
  let asked = ""; // the part of the status that the list was last loaded for
  let latest = 0;

  async function refresh() {
    const turn = ++latest;
    const group = byId("group").value;
    try {
      const page = await newest(group, wanted);
      if (turn === latest) show(group, page);
    } catch (refused) {
      if (turn !== latest) return;
      setText(byId("dead-letters-fault"), refused.status === 404 ? "This producer does not relay dead letters." : refused.message);
      setText(byId("dead"), "–");
      if (refused.isUncertain) asked = ""; // the next status loads it again
    }
  }

  function show(group, { dead_letters: deadLetters, next }) {
    setText(byId("dead-letters-fault"), "");
    const kept = new Set(deadLetters.map(keyOf));
    for (const [key, entry] of entries) {
      entry.classList.toggle("gone", !kept.has(key));
      if (!entry.open) dropIfGone(key, entry); // an open entry stays, and shows its outcome
    }
    deadLetters.forEach((deadLetter, index) => {
      const key = keyOf(deadLetter);
      if (!entries.has(key)) entries.set(key, entryOf(group, deadLetter, { onReplayed: refresh, onClosed: (entry) => dropIfGone(key, entry) }));
      const item = entries.get(key).parentElement;
      setText(item.querySelector(".cause"), deadLetter.error);
      if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
    });
    setText(byId("dead"), `${count(deadLetters.length)}${next ? "+" : ""}`);
    byId("dead").classList.toggle("bad", deadLetters.length > 0);
    byId("no-dead-letters").hidden = entries.size > 0;
    byId("older").hidden = !next || wanted >= SHOWN_MAX;
  }

  function dropIfGone(key, entry) {
    if (!entry.classList.contains("gone")) return;
    if (entry.contains(document.activeElement)) byId("dead-letters").focus();
    entry.parentElement.remove();
    entries.delete(key);
    byId("no-dead-letters").hidden = entries.size > 0;
  }

  byId("refresh").onclick = refresh;
  byId("older").onclick = () => {
    wanted = Math.min(wanted + PAGE, SHOWN_MAX);
    refresh();
  };
  byId("group").onchange = () => {
    list.replaceChildren();
    entries.clear();
    refresh();
  };

  return {
    refresh,
    /** Take a new status: reload the list if listeners or their counts of dead letters have changed. */
    follow(status) {
      const listeners = listenersOf(status);
      showGroups([...new Set(listeners.map((listener) => listener.group))].sort());
      byId("refresh").disabled = listeners.length === 0;
      if (listeners.length === 0) {
        asked = "";
        setText(byId("dead-letters-fault"), "Dead letters are kept in PostgreSQL; a listener shows them once it is connected.");
        return;
      }
      const now = JSON.stringify(listeners.map(({ instance, dead, parts }) => [instance, dead, parts?.database?.status]));
      if (now !== asked) {
        asked = now;
        refresh();
      }
    },
  };
}

function showGroups(groups) {
  const select = byId("group");
  if (groups.length && groups.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
    const chosen = select.value;
    select.replaceChildren(...groups.map((group) => element("option", { value: group }, group)));
    if (groups.includes(chosen)) select.value = chosen;
  }
  select.parentElement.hidden = select.options.length < 2;
}

function keyOf({ source, id }) {
  return JSON.stringify([source, id]);
}

function entryOf(group, deadLetter, { onReplayed, onClosed }) {
  const died = new Date(deadLetter.died_at);
  const attempts = deadLetter.attempts === 1 ? "1 attempt" : `${count(deadLetter.attempts)} attempts`;
  const entry = element(
    "details",
    {},
    element(
      "summary",
      {},
      element("time", { datetime: died.toISOString() }, when(died)),
      element("span", { class: "type" }, deadLetter.type),
      element("span", { class: "id" }, deadLetter.id),
      element("span", { class: "preview" }, `${attempts} · `, element("span", { class: "cause" })),
    ),
  );
  entry.addEventListener("toggle", () => {
    if (!entry.open) onClosed(entry);
    else if (entry.children.length === 1) openDeadLetter(entry, group, deadLetter, onReplayed);
  });
  element("li", {}, entry);
  return entry;
}

/** Return the time of day, with the date if it is not today. */
function when(date) {
  return date.toDateString() === new Date().toDateString() ? date.toTimeString().slice(0, 8) : dayAndTime.format(date);
}
