// Writing an event and publishing it. Its id is drawn before it is first sent and kept until it is accepted or
// changed, so that publishing it again after a lost answer is publishing the same event.

import { element, newId, offsetOf, setText } from "./format.js";
import { SAMPLES } from "./samples.js";
import { listenersOf } from "./system.js";

const ANSWER_MS = 15000;
const SOURCE = "/oncecast";

const byId = (id) => document.getElementById(id);

export function startComposer() {
  const form = byId("compose");
  const [type, data, token] = [byId("type"), byId("data"), byId("token")];
  let sample = 0;
  let draft = null; // { id, time } of the event as it stands, once it was tried
  let sent = null; // the last accepted: { id, offset, steps }

  function fill() {
    const chosen = SAMPLES[sample++ % SAMPLES.length];
    type.value = chosen.type;
    data.value = chosen.data;
    changed();
  }

  function changed() {
    draft = null;
    check();
  }

  /** The event as it stands, or null; tells what is wrong beside the field. */
  function check() {
    const typeFault = faultOfType(type.value);
    tell(type, byId("type-help"), typeFault);
    const dataFault = faultOfJson(data.value);
    tell(data, byId("data-help"), dataFault);
    return typeFault || dataFault ? null : { type: type.value.trim(), data: data.value.trim() };
  }

  async function publish() {
    const checked = check();
    if (checked === null) {
      form.querySelector("[aria-invalid=true]").focus();
      return;
    }
    draft ??= { id: newId(), time: new Date().toISOString() };
    const head = JSON.stringify({ specversion: "1.0", id: draft.id, source: SOURCE, type: checked.type, time: draft.time });
    // The data goes out as it was written: decoding it here would round its large numbers.
    const body = checked.data ? `${head.slice(0, -1)},"data":${checked.data}}` : head;
    byId("send").disabled = true;
    setText(byId("send"), "Publishing");
    try {
      await post(draft.id, body);
    } finally {
      byId("send").disabled = false;
      setText(byId("send"), "Publish");
    }
  }

  async function post(id, text) {
    const started = performance.now();
    try {
      const answer = await fetch("events", {
        method: "POST",
        headers: {
          "Content-Type": "application/cloudevents+json",
          ...(token.value ? { Authorization: `Bearer ${token.value}` } : {}),
        },
        body: text,
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      const body = await answer.json().catch(() => ({}));
      if (answer.status === 202) {
        draft = null;
        showAccepted(id, body.events?.[0]?.cursor, performance.now() - started);
        return;
      }
      if (answer.status === 401 || answer.status === 403) byId("access").hidden = false;
      showFailure(body.detail ?? body.title ?? `HTTP ${answer.status}`, answer.status >= 500);
    } catch (error) {
      showFailure(error.name === "TimeoutError" ? "The producer does not answer." : "The producer cannot be reached.", true);
    }
  }

  function showAccepted(id, cursor, tookMs) {
    const steps = {
      accepted: step(`Accepted and on disk in ${Math.max(1, Math.round(tookMs))} ms`, true),
      broadcast: step("Broadcast", false),
      processed: step("Processed by its listeners", false),
    };
    sent = { id, offset: offsetOf(cursor), steps };
    byId("outcome").replaceChildren(
      element("dl", {}, element("dt", {}, "Id"), element("dd", {}, id), element("dt", {}, "Cursor"), element("dd", {}, cursor ?? "–")),
      element("ol", { class: "steps" }, ...Object.values(steps)),
    );
  }

  function showFailure(reason, again) {
    sent = null;
    const advice = again ? "Publish it again safely: it keeps its id, so it stays one event." : "Nothing was accepted.";
    byId("outcome").replaceChildren(
      element("p", { class: "bad" }, reason),
      element("p", { class: "quiet" }, advice),
    );
  }

  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    if (!byId("send").disabled) publish();
  });
  form.addEventListener("input", changed);
  form.addEventListener("keydown", (pressed) => {
    if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) form.requestSubmit();
  });
  byId("sample").onclick = fill;
  fill();

  return {
    /** Events came over the broadcast. */
    seen(events) {
      if (sent && events.some((event) => event.id === sent.id && event.source === SOURCE)) done(sent.steps.broadcast);
    },
    /** The producer told how far the groups are. */
    progressed(status) {
      if (!sent) return;
      const groups = new Map();
      for (const { group, cursor } of listenersOf(status)) {
        groups.set(group, Math.max(offsetOf(cursor) || 0, groups.get(group) ?? 0));
      }
      if (groups.size && [...groups.values()].every((offset) => offset >= sent.offset)) done(sent.steps.processed);
    },
  };
}

function step(text, isDone) {
  return element("li", isDone ? { class: "done" } : {}, text);
}

function done(item) {
  item.classList.add("done");
}

function tell(field, help, fault) {
  field.setAttribute("aria-invalid", String(fault !== ""));
  help.classList.toggle("bad", fault !== "");
  setText(help, fault);
}

function faultOfType(text) {
  if (!text.trim()) return "An event needs a type.";
  return /\p{Cc}/u.test(text) ? "A type has no control characters." : "";
}

/** What is wrong with the JSON in `text`, and where; nothing at all is an event without data. */
function faultOfJson(text) {
  if (!text.trim()) return "";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `Not JSON: ${placed(error.message, text)}`;
  }
}

/** The engine's message, with its position as line and column. */
function placed(message, text) {
  const position = /at position (\d+)/.exec(message);
  if (!position || /\(line \d+/.test(message)) return message;
  const lines = text.slice(0, Number(position[1])).split("\n");
  return message.replace(position[0], `at line ${lines.length}, column ${lines.at(-1).length + 1}`);
}
