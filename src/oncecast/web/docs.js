// Shows the API document. All of its content enters the page as text, never as markup.

import { element } from "./format.js";

const byId = (id) => document.getElementById(id);
const METHODS = ["get", "post", "put", "patch", "delete"];

const answer = await fetch("openapi.json");
show(await answer.json());

function show(api) {
  document.title = api.info.title;
  byId("title").textContent = api.info.title;
  byId("version").textContent = api.info.version;
  byId("about").append(...prose(api.info.description));
  byId("links").append(...Object.keys(api.paths).filter((path) => path.endsWith(".json")).map((path) => element("a", { href: path }, path.slice(1))));
  for (const [tag, operations] of grouped(api)) {
    byId("contents").append(element("h2", {}, tag), ...operations.map((o) => element("a", { href: `#${o.operationId}` }, o.summary)));
    byId("document").append(element("h2", {}, tag), ...operations.map((o) => article(o, api)));
  }
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

function grouped(api) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const method of Object.keys(methods).filter((name) => METHODS.includes(name))) {
      const operation = { ...methods[method], method, path };
      const tag = operation.tags?.[0] ?? "Other";
      groups.set(tag, [...(groups.get(tag) ?? []), operation]);
    }
  }
  return groups;
}

function article(operation, api) {
  const made = element("article", { id: operation.operationId }, element("h3", {}, operation.summary));
  const call = element("p", { class: "call" }, element("span", { class: "method", "data-method": operation.method }, operation.method.toUpperCase()), operation.path);
  const refusal = operation.responses["401"]?.description.match(/^The (\w+) token/);
  if (refusal) call.append(element("span", { class: "right" }, `${refusal[1].toUpperCase()}_TOKEN, if it is set`));
  made.append(call);
  if (operation.description) made.append(element("p", {}, ...prose(operation.description)));
  if (operation.parameters?.length) made.append(element("h4", {}, "Parameters"), parameters(operation.parameters));
  if (operation.requestBody) made.append(element("h4", {}, "Body"), ...body(operation.requestBody, api));
  made.append(element("h4", {}, "Try it"), example(operation));
  made.append(element("h4", {}, "Answers"), ...answers(operation.responses, api));
  return made;
}

function parameters(list) {
  const made = element("dl");
  for (const { name, in: where, description, required, schema } of list) {
    const type = element("span", { class: "type" }, ` ${where}, ${typeName(schema)}${required ? ", required" : ""}`);
    made.append(element("dt", {}, name), element("dd", {}, ...prose(description ?? ""), type));
  }
  return made;
}

function body(request, api) {
  const made = request.description ? [element("p", {}, ...prose(request.description))] : [];
  for (const [type, { schema }] of Object.entries(request.content)) {
    made.push(folded(element("span", {}, type), outline(schema, api)));
  }
  return made;
}

function answers(responses, api) {
  return Object.entries(responses).map(([status, { description, content = {} }]) => {
    const [type, media] = Object.entries(content)[0] ?? [];
    const heading = element("span", {}, element("b", {}, status), " ", ...prose(description));
    return type === undefined ? element("p", {}, heading) : folded(heading, outline(media.schema, api), Number(status) < 300);
  });
}

function folded(heading, text, open = false) {
  const made = element("details", {}, element("summary", {}, heading), element("pre", { tabindex: "0" }, text));
  made.open = open;
  return made;
}

/** Return a command to paste, with the example body and the required parameters. */
function example(operation) {
  const path = operation.path.replace(/{(\w+)}/g, (_, name) => (name === "id" ? "evt_456" : name.toUpperCase()));
  const lines = [`curl ${operation.method === "get" ? "" : `-X ${operation.method.toUpperCase()} `}'${location.origin}${path}'`];
  const [type, media] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  if (type !== undefined) {
    lines.push(`-H 'content-type: ${type}'`, `-d '${JSON.stringify(media.example ?? {})}'`);
  }
  const text = lines.join(" \\\n  ");
  const copy = element("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  });
  return element("div", { class: "example" }, element("pre", { tabindex: "0" }, text), ...(navigator.clipboard ? [copy] : []));
}

/** Return a schema as text: names and types, nested by indentation. */
function outline(schema, api, depth = 0, seen = []) {
  if (schema === false) return "never";
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return seen.includes(name) ? name : outline(api.components.schemas[name], api, depth, [...seen, name]);
  }
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives) return alternatives.map((one) => outline(one, api, depth, seen)).join(" | ");
  if (schema.properties) {
    const required = schema.required ?? [];
    const pad = "  ".repeat(depth + 1);
    const members = Object.entries(schema.properties)
      .filter(([, member]) => member !== false)
      .map(([name, member]) => `${pad}${name}${required.includes(name) ? "" : "?"}: ${outline(member, api, depth + 1, seen)}`);
    return members.length ? `{\n${members.join("\n")}\n${"  ".repeat(depth)}}` : "object";
  }
  if (schema.items) return `[ ${outline(schema.items, api, depth, seen)} ]`;
  return typeName(schema);
}

function typeName(schema = {}) {
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const type = Array.isArray(schema.type) ? schema.type.join(" or ") : (schema.type ?? "any JSON");
  const limits = [schema.minimum !== undefined && schema.maximum !== undefined ? `${schema.minimum} to ${schema.maximum}` : "", schema.format ?? ""];
  return [type, ...limits.filter(Boolean)].join(", ");
}

/** Return the nodes of a text with `code` and [links](/to/somewhere). */
function prose(text) {
  return text.split(/(`[^`]+`|\[[^\]]+\]\(\/[^)]*\))/).map((part) => {
    if (part.startsWith("`")) return element("code", {}, part.slice(1, -1));
    const link = part.match(/^\[([^\]]+)\]\((\/[^)]*)\)$/);
    return link ? element("a", { href: link[2] }, link[1]) : part;
  });
}
