// How things are shown. Text of others goes into the page through textContent only.

const whole = new Intl.NumberFormat("en");
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** A count with its thousands parted; a dash for anything that is no number. */
export function count(value) {
  return Number.isFinite(value) ? whole.format(value) : "–";
}

/** A rate: one digit after the point below 10. */
export function rate(value) {
  return Number.isFinite(value) ? (value < 10 ? tenths : whole).format(value < 10 ? value : Math.round(value)) : "–";
}

/** The local time of day, to the millisecond. */
export function clock(date) {
  const pad = (value, width = 2) => String(value).padStart(width, "0");
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}`;
}

/** A duration in words: 0.4 s, 12 s, 3 min. */
export function duration(seconds) {
  if (seconds < 10) return `${tenths.format(seconds)} s`;
  return seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

/** The offset in a cursor `EPOCH:OFFSET`; NaN if there is none. */
export function offsetOf(cursor) {
  const text = typeof cursor === "string" ? cursor.slice(cursor.lastIndexOf(":") + 1) : "";
  return /^\d+$/.test(text) ? Number(text) : NaN;
}

/** An element with text or child elements; attributes by name. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

/** Set the text only where it changes: what is selected stays selected, what is read aloud is not repeated. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** A fresh event id: `evt_` and a UUIDv7, so that later ids sort later. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  let time = Date.now();
  for (let i = 5; i >= 0; i--) {
    bytes[i] = time % 256;
    time = Math.floor(time / 256);
  }
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `evt_${[hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-")}`;
}
