// Requests to the producer. If a request needs a token, the page asks for it and keeps it in memory until it is closed.

import { setText } from "./format.js";

const ANSWER_MS = 15000;
const DOING = { publish: "Publishing", subscribe: "Reading", admin: "Operating" };

const byId = (id) => document.getElementById(id);
const tokens = {}; // by right
const wanted = new Set(); // rights whose token is missing or wrong
const [onEntered, onUnlocked] = [[], []]; // callbacks
let cameFrom = null;

/** A request was refused, or its outcome is unknown (`isUncertain`): then it is safe to repeat it. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status; // 0: no answer
    this.isUncertain = status === 0 || status >= 500;
  }
}

/** Return the token for a right; the operator's token grants every right. */
export function tokenFor(right) {
  return tokens[right] || tokens.admin || "";
}

/** Send a request and return the answer's JSON, decoded by `read`; throws Refused. */
export async function ask(path, { right, method = "GET", type = "application/json", body, answerMs = ANSWER_MS, read = JSON.parse }) {
  const token = tokenFor(right);
  const headers = { ...(body === undefined ? {} : { "Content-Type": type }), ...(token && { Authorization: `Bearer ${token}` }) };
  let answer, text;
  try {
    answer = await fetch(path, { method, headers, body, cache: "no-store", signal: AbortSignal.timeout(answerMs) });
    text = await answer.text();
  } catch (error) {
    throw new Refused(error.name === "TimeoutError" ? "The producer does not answer." : "The producer cannot be reached.", 0);
  }
  if (answer.status === 401) {
    want(right, token !== "", right !== "subscribe");
    throw new Refused(`${DOING[right]} needs ${token ? "another" : "a"} token: enter it at the top of the page.`, 401);
  }
  if (wanted.delete(right)) for (const resolve of onUnlocked.splice(0)) resolve();
  const content = parsed(text, read);
  if (!answer.ok) throw new Refused(sentence(content?.detail ?? content?.title ?? `HTTP ${answer.status}`), answer.status);
  return content;
}

/** Resolve when the user has entered a token. */
export function entered() {
  return new Promise((resolve) => onEntered.push(resolve));
}

/** Resolve at once or, if that right needs a token, when the producer has accepted one. */
export async function unlocked(right) {
  while (wanted.has(right)) await new Promise((resolve) => onUnlocked.push(resolve));
}

export function startAccess() {
  byId("access").addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    for (const right of wanted) tokens[right] = field(right).value.trim();
    byId("access").hidden = true;
    cameFrom?.focus();
    cameFrom = null;
    for (const resolve of onEntered.splice(0)) resolve();
  });
}

/** Show the token field of that right; after a click (`isTaken`), focus it, and the button again afterwards. */
function want(right, wasWrong, isTaken) {
  wanted.add(right);
  for (const name of Object.keys(DOING)) field(name).parentElement.hidden = !wanted.has(name);
  setText(byId("access-help"), wasWrong ? "The producer does not accept this token." : "This producer needs a token.");
  byId("access").hidden = false;
  if (!isTaken) return;
  cameFrom = document.activeElement;
  field(right).focus();
}

function field(right) {
  return byId(`token-${right}`);
}

function parsed(text, read) {
  try {
    return read(text);
  } catch {
    return null;
  }
}

function sentence(text) {
  const first = String(text);
  return `${first.charAt(0).toUpperCase()}${first.slice(1)}${/[.!?]$/.test(first) ? "" : "."}`;
}
