// The table of groups: how far each is behind, and whether it holds events back.

import { count, duration, setText } from "./format.js";
import { rowFor } from "./listeners.js";

const LATE_S = 60;

const byId = (id) => document.getElementById(id);

export function showGroups(groups, journal) {
  const body = byId("groups");
  while (body.rows.length > groups.length) body.deleteRow(-1);
  groups.forEach((group, index) => {
    const row = body.rows[index] ?? body.appendChild(rowFor(byId("groups-table")));
    const [state, word] = stateOf(group, journal);
    const values = {
      group: group.name,
      lag: count(group.behind),
      late: group.oldest_unfinished_s > 0 ? duration(group.oldest_unfinished_s) : "–",
      listeners: count(group.connected),
      state: word,
    };
    for (const cell of row.cells) {
      setText(cell, values[cell.dataset.of]);
      if (cell.dataset.of === "state") cell.dataset.state = state;
    }
  });
  byId("groups-table").hidden = groups.length === 0;
}

/** Return the colour and the words for a group's state. */
function stateOf(group, journal) {
  if (group.forgotten) return ["none", "forgotten: no events are kept for it"];
  if (group.expired) return ["none", "expired: no events are kept for it"];
  if (!group.connected && group.behind) return ["bad", "no listener"];
  if (journal.held_back_by === group.name) return ["wait", "fills the journal"];
  if (group.oldest_unfinished_s > LATE_S) return ["wait", "late"];
  return ["good", group.behind ? "working" : "up to date"];
}
