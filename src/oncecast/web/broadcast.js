// The live broadcast, a plain WebSocket client. At any rate, the list shows only the newest events, a few times a second.

import { tokenFor, unlocked } from "./access.js";
import { clock, count, element, parseExactly, setText } from "./format.js";

const SHOWN_MAX = 200;
const SHOW_EVERY_MS = 200;
const RECONNECT_BASE_MS = 500;
const RECONNECT_MAX_MS = 15000;
const PREVIEW_CHARS = 400;
const WATCHED_MAX = 10;

const byId = (id) => document.getElementById(id);

export function startBroadcast() {
  const list = byId("events");
  let waiting = []; // received and not shown yet: { text, at } or { notice }, oldest first, SHOWN_MAX at most
  let received = 0;
  let missed = 0; // received since the pause
  let paused = false;
  let failures = 0;
  let lostAt = null;
  const watched = new Map(); // callbacks by event id

  async function connect() {
    await unlocked("subscribe");
    const socket = new WebSocket(new URL("./", location.href.replace(/^http/, "ws")), ["cloudevents.json", ...credentials()]);
    socket.onopen = () => {
      failures = 0;
      setState("good", "Live");
      if (lostAt !== null) hold({ notice: `Connection lost at ${clock(lostAt)}: events broadcast since then are not shown`, at: new Date() });
      lostAt = null;
    };
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") return;
      received += 1;
      for (const [id, notify] of watched) if (data.includes(id) && watched.delete(id)) notify();
      if (paused) missed += 1;
      hold({ text: data, at: new Date() });
    };
    socket.onclose = ({ reason }) => {
      failures += 1;
      if (failures === 1) lostAt ??= received ? new Date() : null;
      const delay = Math.min(RECONNECT_BASE_MS * 2 ** Math.min(failures - 1, 10), RECONNECT_MAX_MS) * (0.5 + Math.random() / 2);
      setState(failures > 1 ? "bad" : "wait", reason ? `Reconnecting: ${reason}` : "Reconnecting");
      setTimeout(connect, delay);
    };
  }

  function hold(item) {
    waiting.push(item);
    if (waiting.length > 2 * SHOWN_MAX) waiting = waiting.slice(-SHOWN_MAX);
  }

  function show() {
    const { scrollTop } = list;
    if (waiting.length && !paused && !document.hidden) {
      const newest = waiting.slice(-SHOWN_MAX).map(readItem).reverse();
      waiting = [];
      const heightBefore = list.scrollHeight;
      list.prepend(...newest.map(entry));
      while (list.children.length > SHOWN_MAX) list.lastElementChild.remove();
      if (scrollTop > 0) list.scrollTop = scrollTop + list.scrollHeight - heightBefore; // a reader who has scrolled down stays in place
      byId("no-events").hidden = true;
    }
    const pausedNote = paused ? `${count(missed)} more since the pause` : `${count(received)} received`;
    setText(byId("live-count"), received || paused ? pausedNote : "");
  }

  byId("pause").onclick = () => {
    paused = !paused;
    missed = 0;
    byId("pause").classList.toggle("on", paused);
    setText(byId("pause"), paused ? "Resume" : "Pause");
    show();
  };
  byId("clear").onclick = () => {
    list.replaceChildren();
    waiting = [];
    received = missed = 0;
    byId("no-events").hidden = false;
    show();
  };
  setInterval(show, SHOW_EVERY_MS);

  return {
    connect,
    /** Resolve when the event with that id is broadcast, even while paused. No other event may contain the id. */
    watch(id) {
      if (watched.size >= WATCHED_MAX) watched.delete(watched.keys().next().value);
      return new Promise((resolve) => watched.set(id, resolve));
    },
  };
}

/** Return the token as a subprotocol, because a page's WebSocket cannot send headers. */
function credentials() {
  const token = tokenFor("subscribe");
  return token ? [`bearer.${btoa(token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`] : [];
}

function setState(state, text) {
  byId("connection").dataset.state = state;
  setText(byId("connection"), text);
}

function readItem(item) {
  if (item.notice) return item;
  try {
    const event = JSON.parse(item.text);
    return event !== null && typeof event === "object" ? { ...item, event } : item;
  } catch {
    return item;
  }
}

function entry({ event, text, notice, at }) {
  if (notice) return element("li", { class: "notice-line" }, notice);
  const { type, id, source, data } = event ?? {};
  const preview = event === undefined ? text : data === undefined ? "" : JSON.stringify(data);
  const summary = element(
    "summary",
    {},
    element("time", { datetime: at.toISOString() }, clock(at)),
    element("span", { class: "type" }, String(type ?? "unreadable")),
    element("span", { class: "id" }, String(id ?? "")),
    element("span", { class: "preview" }, preview.slice(0, PREVIEW_CHARS)),
  );
  const details = element("details", {}, summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) {
      details.append(element("pre", { tabindex: "0", "aria-label": `Event ${id ?? ""} of ${source ?? ""}` }, event ? JSON.stringify(parseExactly(text), null, 2) : text));
    }
  });
  return element("li", {}, details);
}
