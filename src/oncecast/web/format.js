// Formatting and page elements. Foreign text enters the page only through textContent.

const whole = new Intl.NumberFormat("en");
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** Return a count with thousands separators; a dash if it is not a number. */
export function count(value) {
  return Number.isFinite(value) ? whole.format(value) : "–";
}

/** Return a rate, with one decimal below 10. */
export function rate(value) {
  return Number.isFinite(value) ? (value < 10 ? tenths : whole).format(value < 10 ? value : Math.round(value)) : "–";
}

/** Return the local time of day with milliseconds. */
export function clock(date) {
  const pad = (value, width = 2) => String(value).padStart(width, "0");
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}`;
}

/** Return a duration: 0.4 s, 12 s, 3 min. */
export function duration(seconds) {
  if (seconds < 10) return `${tenths.format(seconds)} s`;
  return seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

/** Return a size: 28 KiB, 1.2 GiB. */
export function bytes(value) {
  const power = Math.max(0, Math.min(4, Math.floor(Math.log2(value || 1) / 10)));
  return `${tenths.format(value / 1024 ** power)} ${["bytes", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** Return the offset of a cursor `EPOCH:OFFSET`; NaN if there is none. */
export function offsetOf(cursor) {
  const text = typeof cursor === "string" ? cursor.slice(cursor.lastIndexOf(":") + 1) : "";
  return /^\d+$/.test(text) ? Number(text) : NaN;
}

/** Parse JSON and, if the browser supports it, keep numbers exactly as written instead of rounding them. */
export function parseExactly(text) {
  const keep = (_key, value, context) =>
    typeof value === "number" && context?.source !== undefined && context.source !== String(value) ? JSON.rawJSON(context.source) : value;
  return JSON.parse(text, JSON.rawJSON ? keep : undefined);
}

/** Return a new element with these attributes and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

/** Set the text only if it changes, to keep a selection and not repeat screen reader output. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Show the steps `{ text, note, state }`; changes only what differs, so that screen readers read only news. */
export function showSteps(list, steps) {
  while (list.children.length > steps.length) list.lastElementChild.remove();
  steps.forEach(({ text, note = "", state = "" }, index) => {
    const item = list.children[index] ?? list.appendChild(element("li", {}, element("span"), element("small")));
    setText(item.firstChild, text);
    setText(item.lastChild, note);
    if (item.className !== state) item.className = state;
  });
}

/** Return what is wrong with the JSON in `text`, and where; "" if it is valid or empty. */
export function faultOfJson(text) {
  if (!text.trim()) return "";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `Not JSON: ${placed(error.message, text)}`;
  }
}

/** Return the engine's message, with the position as line and column. */
function placed(message, text) {
  const position = /at position (\d+)/.exec(message);
  if (!position || /\(line \d+/.test(message)) return message;
  const lines = text.slice(0, Number(position[1])).split("\n");
  return message.replace(position[0], `at line ${lines.length}, column ${lines.at(-1).length + 1}`);
}

/** Return a new event id: `evt_` and a UUIDv7, so that later ids sort later. */
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
