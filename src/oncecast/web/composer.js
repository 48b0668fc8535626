// The form that publishes an event, from a template or written freely, once or in many copies.

import { draftOf, publish } from "./copies.js";
import { count, element, faultOfJson, offsetOf, setText, showSteps } from "./format.js";
import { listenersOf } from "./listeners.js";
import { TEMPLATES } from "./templates.js";

const COPIES_MAX = 10000;

const byId = (id) => document.getElementById(id);

export function startComposer({ watch }) {
  const form = byId("compose");
  const [type, data, copies] = [byId("type"), byId("data"), byId("copies")];
  let own = { type: "", data: "{\n  \n}" }; // the last event that was not from a template
  let draft = null; // the event of the last attempt, until the form changes
  let sent = null; // the last accepted event: { draft, tookMs, isBroadcast, processed }

  function choose() {
    const chosen = TEMPLATES[form.elements.template.value] ?? own;
    type.value = chosen.type;
    data.value = chosen.data;
    report(type, byId("type-help"), "");
    report(data, byId("data-help"), "");
  }

  function changed({ target }) {
    draft = null;
    setText(byId("send"), "Publish");
    if (target.name === "template") {
      choose();
      return;
    }
    if (target !== copies) {
      own = { type: type.value, data: data.value };
      form.elements.template.value = "own";
    }
    check();
  }

  /** Return the event in the form, or null; show each fault next to its field. */
  function check() {
    const number = Number(copies.value);
    const faults = [
      report(type, byId("type-help"), faultOfType(type.value)),
      report(data, byId("data-help"), faultOfJson(data.value)),
      report(copies, byId("copies-help"), Number.isInteger(number) && number >= 1 && number <= COPIES_MAX ? "" : `1 to ${count(COPIES_MAX)} copies`),
    ];
    return faults.some(Boolean) ? null : { type: type.value.trim(), data: data.value.trim(), copies: number };
  }

  async function submit() {
    const checked = check();
    if (checked === null) {
      form.querySelector("[aria-invalid=true]").focus();
      return;
    }
    draft ??= draftOf(checked.type, checked.data, checked.copies);
    byId("send").disabled = true;
    setText(byId("send"), "Publishing");
    const outcome = await send(draft);
    byId("send").disabled = false;
    setText(byId("send"), outcome);
  }

  /** Publish, show the outcome, and return the button's next text. */
  async function send(sending) {
    const started = performance.now();
    const broadcast = watch(sending.ids.at(-1));
    sent = null;
    showProgress(sending);
    try {
      await publish(sending, () => showProgress(sending));
    } catch (refused) {
      showFailure(sending, refused);
      if (draft !== sending) return "Publish";
      return sending.accepted ? `Publish the other ${count(sending.ids.length - sending.accepted)}` : "Publish again";
    }
    if (draft === sending) draft = null;
    const accepted = { draft: sending, tookMs: performance.now() - started, isBroadcast: false, processed: 0 };
    sent = accepted;
    showAccepted();
    broadcast.then(() => {
      accepted.isBroadcast = true;
      if (sent === accepted) showAccepted();
    });
    return "Publish";
  }

  function showProgress({ accepted, ids }) {
    const bar = byId("sending");
    bar.hidden = accepted === ids.length || ids.length === 1;
    bar.max = ids.length;
    bar.value = accepted;
    setText(byId("fault"), "");
    setText(byId("advice"), bar.hidden ? "" : `${count(accepted)} of ${count(ids.length)} accepted`);
    byId("receipt").replaceChildren();
    showSteps(byId("way"), []);
  }

  function showAccepted() {
    const { draft: { ids, cursor }, tookMs, isBroadcast, processed } = sent;
    const [many, tookText] = [ids.length > 1, `${count(Math.max(1, Math.round(tookMs)))} ms`];
    if (!byId("receipt").firstChild) {
      const facts = many ? { "First id": ids[0], "Last id": ids.at(-1), "Last cursor": cursor } : { Id: ids[0], Cursor: cursor };
      byId("receipt").append(...Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
    }
    const isProcessed = processed === ids.length;
    showSteps(byId("way"), [
      { text: `${many ? `${count(ids.length)} accepted` : "Accepted"} and on disk in ${tookText}`, state: "done" },
      { text: "Broadcast", state: isBroadcast ? "done" : "now" },
      { text: `Processed by the listeners${many && processed && !isProcessed ? `: ${count(processed)}` : ""}`, state: isProcessed ? "done" : "now" },
    ]);
  }

  function showFailure({ accepted, ids }, { message, isUncertain }) {
    byId("sending").hidden = true;
    const partly = `${count(accepted)} of ${count(ids.length)} were accepted. `;
    const advice = isUncertain ? "Publishing again is safe: the ids stay the same, so nothing is stored twice." : accepted ? "" : "Nothing was accepted.";
    setText(byId("fault"), message);
    setText(byId("advice"), `${accepted ? partly : ""}${advice}`);
  }

  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    if (!byId("send").disabled) submit();
  });
  form.addEventListener("input", changed);
  form.addEventListener("keydown", (pressed) => {
    if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) form.requestSubmit();
  });
  choose();

  return {
    /** Take a new status: show how many of the copies each group has processed. */
    follow(status) {
      if (!sent) return;
      const groups = new Map();
      for (const { group, cursor } of listenersOf(status)) {
        groups.set(group, Math.max(offsetOf(cursor) || 0, groups.get(group) ?? 0));
      }
      const { first, ids, last } = sent.draft;
      const reached = Math.min(last, ...groups.values());
      if (groups.size && reached >= first) {
        sent.processed = reached === last ? ids.length : reached - first + 1;
        showAccepted();
      }
    },
  };
}

function report(field, help, fault) {
  field.setAttribute("aria-invalid", String(fault !== ""));
  setText(help, fault);
  return fault;
}

function faultOfType(text) {
  if (!text.trim()) return "An event needs a type.";
  return /\p{Cc}/u.test(text) ? "A type has no control characters." : "";
}
