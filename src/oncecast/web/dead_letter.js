// An open dead letter: the event as received, the trace, and a form to edit, replay or discard it.

import { element, faultOfJson, setText } from "./format.js";
import { change, edit, read, replay } from "./dead_letters_api.js";

/** Load the dead letter and show it in `entry`. */
export async function openDeadLetter(entry, group, deadLetter, onReplayed) {
  const body = element("div", { class: "dead-letter" }, element("p", { class: "quiet" }, "Loading"));
  entry.append(body);
  try {
    show(body, group, await read(group, deadLetter), onReplayed);
  } catch (refused) {
    const again = element("button", { type: "button", class: "plain" }, "Try again");
    again.onclick = () => {
      body.remove();
      openDeadLetter(entry, group, deadLetter, onReplayed);
    };
    body.replaceChildren(element("p", { class: "bad" }, refused.message), again);
  }
}

function show(body, group, deadLetter, onReplayed) {
  body.replaceChildren(
    element("p", { class: "cause" }, deadLetter.error),
    element("p", { class: "quiet" }, `From ${deadLetter.source}, given up by ${deadLetter.listener}.`),
    folded("The event as received", JSON.stringify(deadLetter.event, null, 2), !deadLetter.trace),
    ...(deadLetter.trace ? [folded("Trace", deadLetter.trace, false)] : []),
    formOf(group, deadLetter, onReplayed),
  );
}

function folded(title, text, isOpen) {
  const made = element("details", {}, element("summary", {}, title), element("pre", { tabindex: "0", "aria-label": title }, text));
  made.open = isOpen;
  return made;
}

/** Return a form with the data to replay. If the data was changed, Replay stores the edited data first. */
function formOf(group, deadLetter, onReplayed) {
  const data = deadLetter.edited ? deadLetter.edited_data : deadLetter.event.data;
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
    setText(button, field.value === before ? "Replay" : "Edit and replay");
  };

  async function act() {
    const isChanged = field.value !== before;
    const fault = isChanged ? faultOfJson(field.value) || (field.value.trim() ? "" : "Enter JSON; null if there is no data.") : "";
    setText(help, fault);
    field.setAttribute("aria-invalid", String(fault !== ""));
    if (fault) {
      field.focus();
      return;
    }
    button.disabled = discarding.disabled = true;
    outcome.className = "quiet";
    setText(outcome, isChanged ? "Editing and replaying" : "Replaying");
    const { isOver, isStored, text } = await editAndReplay(isChanged ? field.value : null);
    setText(outcome, text);
    outcome.className = isStored ? "good" : "bad";
    button.disabled = discarding.disabled = false;
    button.hidden = discarding.hidden = field.readOnly = isOver;
    setText(button, field.value === before ? "Replay" : "Edit and replay");
    onReplayed();
  }

  async function editAndReplay(data) {
    try {
      if (data !== null) {
        await edit(group, deadLetter, data);
        before = data;
      }
      return await replay(group, deadLetter);
    } catch ({ message, isUncertain }) {
      return { isStored: false, isOver: false, text: isUncertain ? `${message} Trying again is safe.` : message };
    }
  }

  let isDiscarded = false;
  discarding.onclick = async () => {
    button.disabled = discarding.disabled = true;
    try {
      await change(isDiscarded ? "restore" : "discard", group, deadLetter);
      isDiscarded = !isDiscarded;
      outcome.className = "quiet";
      setText(outcome, isDiscarded ? "Discarded: it is no longer listed, and its row is kept." : "Restored.");
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
    element("label", {}, deadLetter.edited ? "Data, edited" : "Data", field),
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
