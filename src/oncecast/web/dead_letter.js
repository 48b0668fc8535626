// One dead letter, opened: the event as it was received, the trace, and the way back.

import { element, faultOfJson, setText } from "./format.js";
import { change, letter as read, mend, replay } from "./letters_api.js";

/** Fill `entry`, the details of that letter. */
export async function openLetter(entry, group, letter, onReplayed) {
  const body = element("div", { class: "letter" }, element("p", { class: "quiet" }, "Reading it"));
  entry.append(body);
  try {
    show(body, group, await read(group, letter), onReplayed);
  } catch (refused) {
    const again = element("button", { type: "button", class: "plain" }, "Try again");
    again.onclick = () => {
      body.remove();
      openLetter(entry, group, letter, onReplayed);
    };
    body.replaceChildren(element("p", { class: "bad" }, refused.message), again);
  }
}

function show(body, group, letter, onReplayed) {
  body.replaceChildren(
    element("p", { class: "cause" }, letter.error),
    element("p", { class: "quiet" }, `From ${letter.source}, given up by ${letter.listener}.`),
    folded("The event as received", JSON.stringify(letter.event, null, 2), !letter.trace),
    ...(letter.trace ? [folded("Trace", letter.trace, false)] : []),
    wayBack(group, letter, onReplayed),
  );
}

function folded(title, text, isOpen) {
  const made = element("details", {}, element("summary", {}, title), element("pre", { tabindex: "0", "aria-label": title }, text));
  made.open = isOpen;
  return made;
}

/** Data to replay it with, and the button: it mends first where the data was changed. */
function wayBack(group, letter, onReplayed) {
  const data = letter.edited ? letter.edited_data : letter.event.data;
  let before = data === undefined ? "" : JSON.stringify(data, null, 2);
  const field = element("textarea", { rows: Math.min(12, Math.max(3, before.split("\n").length)), spellcheck: "false", autocapitalize: "off", autocomplete: "off" });
  field.value = before;
  const button = element("button", { type: "submit", class: "primary" }, "Replay");
  const discarding = element("button", { type: "button", class: "plain" }, "Discard");
  const help = element("p", { class: "help bad" });
  const outcome = element("p", { role: "status" });

  field.oninput = () => {
    setText(help, "");
    field.removeAttribute("aria-invalid");
    setText(button, field.value === before ? "Replay" : "Mend and replay");
  };

  async function act() {
    const isChanged = field.value !== before;
    const fault = isChanged ? faultOfJson(field.value) || (field.value.trim() ? "" : "Data is JSON: null, if there is none.") : "";
    setText(help, fault);
    field.setAttribute("aria-invalid", String(fault !== ""));
    if (fault) {
      field.focus();
      return;
    }
    button.disabled = discarding.disabled = true;
    outcome.className = "quiet";
    setText(outcome, isChanged ? "Mending and replaying" : "Replaying");
    const { isOver, isStored, text } = await editAndReplay(isChanged ? field.value : null);
    setText(outcome, text);
    outcome.className = isStored ? "good" : "bad";
    button.disabled = discarding.disabled = false;
    button.hidden = discarding.hidden = field.readOnly = isOver;
    setText(button, field.value === before ? "Replay" : "Mend and replay");
    onReplayed();
  }

  async function editAndReplay(mended) {
    try {
      if (mended !== null) {
        await mend(group, letter, mended);
        before = mended;
      }
      return await replay(group, letter);
    } catch ({ message, isUncertain }) {
      return { isStored: false, isOver: false, text: isUncertain ? `${message} Asking again is safe.` : message };
    }
  }

  let isDiscarded = false;
  discarding.onclick = async () => {
    button.disabled = discarding.disabled = true;
    try {
      await change(isDiscarded ? "restore" : "discard", group, letter);
      isDiscarded = !isDiscarded;
      outcome.className = "quiet";
      setText(outcome, isDiscarded ? "Discarded: it is listed no more, and its row is kept." : "Restored.");
    } catch ({ message }) {
      outcome.className = "bad";
      setText(outcome, message);
    }
    setText(discarding, isDiscarded ? "Restore" : "Discard");
    button.disabled = discarding.disabled = false;
    button.hidden = field.readOnly = isDiscarded;
    onReplayed();
  };

  const form = element(
    "form",
    { novalidate: "" },
    element("label", {}, letter.edited ? "Data, edited" : "Data", field),
    help,
    element("div", { class: "actions" }, button, discarding, outcome),
  );
  form.onsubmit = (submitted) => {
    submitted.preventDefault();
    if (!button.disabled) act();
  };
  field.onkeydown = (pressed) => {
    if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) form.requestSubmit();
  };
  return form;
}
