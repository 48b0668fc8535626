// Publish an event, or many copies of it. Each copy gets its id before it is first sent and keeps it, so that a retry
// after a lost answer publishes the same events.

import { ask } from "./access.js";
import { newId, offsetOf } from "./format.js";

export const SOURCE = "/oncecast";
const REQUEST_MAX_EVENTS = 1000;
const REQUEST_MAX_BYTES = 4 * 1024 * 1024;

/** Return a draft, of which nothing is accepted yet. `data` is JSON text, or empty. */
export function draftOf(type, data, copies) {
  return {
    type,
    data,
    time: new Date().toISOString(),
    ids: Array.from({ length: copies }, newId),
    accepted: 0,
    first: NaN, // offsets
    last: NaN,
    cursor: "–",
  };
}

/** Publish the rest of the draft in requests; throws Refused. `draft.accepted` counts the accepted events in any case. */
export async function publish(draft, onProgress = () => {}) {
  while (draft.accepted < draft.ids.length) {
    const ids = draft.ids.slice(draft.accepted, draft.accepted + atOnce(draft));
    const body = `[${ids.map((id) => eventText(draft, id)).join()}]`;
    const { events } = await ask("events", { right: "publish", method: "POST", type: "application/cloudevents-batch+json", body });
    draft.cursor = events?.at(-1)?.cursor ?? "–";
    draft.first = draft.accepted ? draft.first : offsetOf(events?.[0]?.cursor);
    draft.last = offsetOf(draft.cursor);
    draft.accepted += ids.length;
    onProgress();
  }
}

/** Return the event's JSON with the data as written: decoding would round large numbers. */
function eventText({ type, data, time }, id) {
  const head = JSON.stringify({ specversion: "1.0", id, source: SOURCE, type, time });
  return data ? `${head.slice(0, -1)},"data":${data}}` : head;
}

function atOnce(draft) {
  const eventBytes = new Blob([eventText(draft, draft.ids[0])]).size;
  return Math.max(1, Math.min(REQUEST_MAX_EVENTS, Math.floor(REQUEST_MAX_BYTES / eventBytes)));
}
