// An event that fails on purpose, followed from its acceptance to its death, and on to `stored` once it is mended.

import { draftOf, publish, SOURCE } from "./copies.js";
import { count, setText, showSteps } from "./format.js";
import { letter, mend, replay } from "./letters_api.js";
import { listenersOf } from "./listeners.js";

const TYPE = "oncecast.failing";
const LOOK_EVERY_MS = 15000;

const byId = (id) => document.getElementById(id);

export function startFailing({ onReplayed }) {
  let group = null; // one that fails such events on request
  let busy = false;
  let life = null; // { draft, group, failures: by retries left, isDead, isEdited, outcome }

  async function send() {
    const unsure = life && !life.draft.accepted ? life.draft : null; // no answer yet: the same event again
    life = { draft: unsure ?? draftOf(TYPE, '{"fails": true}', 1), group, failures: new Map(), isDead: false, isEdited: false, outcome: null };
    await act(() => publish(life.draft));
  }

  async function editAndReplay() {
    const event = { id: life.draft.ids[0], source: SOURCE };
    await act(async () => {
      if (!life.isEdited) await mend(life.group, event, '{"fails": false}');
      life.isEdited = true;
      show();
      life.outcome = await replay(life.group, event);
      onReplayed();
    });
  }

  /** Do what a button asks for; what goes wrong is told beside it. */
  async function act(work) {
    busy = true;
    setText(byId("failing-fault"), "");
    show();
    try {
      await work();
    } catch ({ message, isUncertain }) {
      setText(byId("failing-fault"), isUncertain ? `${message} Asking again is safe.` : message);
    }
    busy = false;
    show();
  }

  function show() {
    const runs = life !== null && life.draft.accepted > 0 && !life.isDead;
    byId("fail").disabled = busy || runs || group === null;
    byId("failing-hint").hidden = group !== null;
    byId("mend").hidden = !life?.isDead || life.outcome?.isOver === true;
    byId("mend").disabled = busy;
    showSteps(byId("life"), life?.draft.accepted ? stepsOf(life, busy) : []);
  }

  byId("fail").onclick = send;
  byId("mend").onclick = editAndReplay;

  return {
    /** The producer told which attempts failed, and who is there. */
    follow(status) {
      const listeners = listenersOf(status);
      group = listeners.find((listener) => listener.demonstration)?.group ?? null;
      if (life?.draft.accepted && !life.isDead) note(life, listeners);
      show();
    },
  };
}

function note(life, listeners) {
  const reported = listeners.filter((listener) => listener.group === life.group).flatMap((listener) => listener.failures ?? []);
  for (const failure of reported) {
    if (failure.id === life.draft.ids[0] && failure.source === SOURCE) life.failures.set(failure.retries_left, failure);
  }
  if (life.failures.has(0)) life.isDead = true;
  else lookForIt(life);
}

/** A listener that was restarted has forgotten its failures; the dead letter is still there. */
async function lookForIt(life) {
  life.lookAt ??= performance.now() + LOOK_EVERY_MS;
  if (performance.now() < life.lookAt) return;
  life.lookAt = performance.now() + LOOK_EVERY_MS;
  life.isDead = await letter(life.group, { id: life.draft.ids[0], source: SOURCE }).then(() => true, () => false);
}

function stepsOf({ draft, failures, isDead, isEdited, outcome }, busy) {
  const failed = [...failures.values()].sort((a, b) => b.retries_left - a.retries_left);
  const steps = [{ text: "Accepted", note: draft.ids[0], state: "done" }];
  failed.forEach(({ retries_left: left, error }, index) => {
    const rest = left === 1 ? "1 retry left" : `${left ? count(left) : "no"} retries left`;
    steps.push({ text: `Attempt ${index + 1} failed, ${rest}`, note: index ? "" : error, state: "failed" });
  });
  if (!isDead) steps.push({ text: failed.length ? "Waiting for the next attempt" : "Waiting for the first attempt", state: "now" });
  else steps.push({ text: "Dead: kept as a dead letter", state: "bad" });
  if (isEdited) steps.push({ text: "Mended", note: '{"fails": false}', state: "done" });
  if (isEdited && !outcome && busy) steps.push({ text: "Replaying", state: "now" });
  if (outcome) steps.push({ text: outcome.text, state: outcome.isStored ? "done" : "bad" });
  return steps;
}
