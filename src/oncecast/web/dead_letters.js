// The dead letters of a group, newest first; each opens to be looked at, mended and replayed.

import { count, element, setText } from "./format.js";
import { openLetter } from "./letter.js";
import { newest } from "./letters_api.js";
import { listenersOf } from "./listeners.js";

const PAGE = 20;
const SHOWN_MAX = 1000;
const dayAndTime = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

const byId = (id) => document.getElementById(id);

export function startLetters() {
  const list = byId("letters-list");
  const entries = new Map(); // by source and id
  let wanted = PAGE;
  let asked = ""; // what the list depends on, as it was when last asked for
  let latest = 0;

  async function refresh() {
    const turn = ++latest;
    const group = byId("group").value;
    try {
      const page = await newest(group, wanted);
      if (turn === latest) show(group, page);
    } catch (refused) {
      if (turn !== latest) return;
      setText(byId("letters-fault"), refused.status === 404 ? "This producer cannot be asked for dead letters." : refused.message);
      setText(byId("dead"), "–");
      if (refused.isUncertain) asked = ""; // the next status asks again
    }
  }

  function show(group, { dead_letters: letters, next }) {
    setText(byId("letters-fault"), "");
    const kept = new Set(letters.map(keyOf));
    for (const [key, entry] of entries) {
      entry.classList.toggle("gone", !kept.has(key));
      if (!entry.open) dropIfGone(key, entry); // else who reads on, or has just replayed it, keeps it in view
    }
    letters.forEach((letter, index) => {
      const key = keyOf(letter);
      if (!entries.has(key)) entries.set(key, entryOf(group, letter, { onReplayed: refresh, onClosed: (entry) => dropIfGone(key, entry) }));
      const item = entries.get(key).parentElement;
      setText(item.querySelector(".cause"), letter.error);
      if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
    });
    setText(byId("dead"), `${count(letters.length)}${next ? "+" : ""}`);
    byId("dead").classList.toggle("bad", letters.length > 0);
    byId("no-letters").hidden = entries.size > 0;
    byId("older").hidden = !next || wanted >= SHOWN_MAX;
  }

  function dropIfGone(key, entry) {
    if (!entry.classList.contains("gone")) return;
    if (entry.contains(document.activeElement)) byId("letters").focus();
    entry.parentElement.remove();
    entries.delete(key);
    byId("no-letters").hidden = entries.size > 0;
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
    /** The producer told who is there, and how many died. */
    follow(status) {
      const listeners = listenersOf(status);
      showGroups([...new Set(listeners.map((listener) => listener.group))].sort());
      byId("refresh").disabled = listeners.length === 0;
      if (listeners.length === 0) {
        asked = "";
        setText(byId("letters-fault"), "Dead letters are kept in PostgreSQL; a listener shows them once it is connected.");
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

function entryOf(group, letter, { onReplayed, onClosed }) {
  const died = new Date(letter.died_at);
  const attempts = letter.attempts === 1 ? "1 attempt" : `${count(letter.attempts)} attempts`;
  const entry = element(
    "details",
    {},
    element(
      "summary",
      {},
      element("time", { datetime: died.toISOString() }, when(died)),
      element("span", { class: "type" }, letter.type),
      element("span", { class: "id" }, letter.id),
      element("span", { class: "preview" }, `${attempts} · `, element("span", { class: "cause" })),
    ),
  );
  entry.addEventListener("toggle", () => {
    if (!entry.open) onClosed(entry);
    else if (entry.children.length === 1) openLetter(entry, group, letter, onReplayed);
  });
  element("li", {}, entry);
  return entry;
}


/** The time of a day; of another day, with its date. */
function when(date) {
  return date.toDateString() === new Date().toDateString() ? date.toTimeString().slice(0, 8) : dayAndTime.format(date);
}
