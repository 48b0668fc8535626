// An event that fails on purpose: shows its attempts, its dead letter, and its replay with edited data.

import { draftOf, publish, SOURCE } from "./copies.js";
import { count, setText, showSteps } from "./format.js";
import { edit, read, replay } from "./dead_letters_api.js";
import { listenersOf } from "./listeners.js";

const TYPE = "oncecast.failing";
const CHECK_EVERY_MS = 15000;

const byId = (id) => document.getElementById(id);

export function startFailing({ onReplayed }) {
  let group = null; // a group whose application fails such events
  let busy = false;
  let life = null; // { draft, group, failures: by retries left, isDead, isEdited, outcome }

  async function send() {
    const unsure = life && !life.draft.accepted ? life.draft : null; // its outcome is unknown: send the same event again
    life = { draft: unsure ?? draftOf(TYPE, '{"fails": true}', 1), group, failures: new Map(), isDead: false, isEdited: false, outcome: null };
    await act(() => publish(life.draft));
  }

  async function editAndReplay() {
    const event = { id: life.draft.ids[0], source: SOURCE };
    await act(async () => {
      if (!life.isEdited) await edit(life.group, event, '{"fails": false}');
      life.isEdited = true;
      show();
      life.outcome = await replay(life.group, event);
      onReplayed();
    });
  }

  /** Run the action of a button, and show an error next to it. */
  async function act(work) {
    busy = true;
    setText(byId("failing-fault"), "");
    show();
    try {
      await work();
    } catch ({ message, isUncertain }) {
      setText(byId("failing-fault"), isUncertain ? `${message} Trying again is safe.` : message);
    }
    busy = false;
    show();
  }

  function show() {
    const runs = life !== null && life.draft.accepted > 0 && !life.isDead;
    byId("fail").disabled = busy || runs || group === null;
    byId("failing-hint").hidden = group !== null;
    byId("edit").hidden = !life?.isDead || life.outcome?.isOver === true;
    byId("edit").disabled = busy;
    showSteps(byId("life"), life?.draft.accepted ? stepsOf(life, busy) : []);
  }

  byId("fail").onclick = send;
  byId("edit").onclick = editAndReplay;

  return {
    /** Take a new status: find a listener that fails on request, and collect its failed attempts. */
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
  else checkDeadLetter(life);
}

/** Look for the dead letter itself: a restarted listener no longer reports the failures. */
async function checkDeadLetter(life) {
  life.checkAt ??= performance.now() + CHECK_EVERY_MS;
  if (performance.now() < life.checkAt) return;
  life.checkAt = performance.now() + CHECK_EVERY_MS;
  life.isDead = await read(life.group, { id: life.draft.ids[0], source: SOURCE }).then(() => true, () => false);
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
  if (isEdited) steps.push({ text: "Edited", note: '{"fails": false}', state: "done" });
  if (isEdited && !outcome && busy) steps.push({ text: "Replaying", state: "now" });
  if (outcome) steps.push({ text: outcome.text, state: outcome.isStored ? "done" : "bad" });
  return steps;
}
