/** The table of sessions: those that are active first, then the others page by page. */

import { get, Refused, rereader } from "./api.js";
import { empty, h, keyed, problems } from "./dom.js";
import { count, duration, moment } from "./format.js";

const PAGE = 25;
const MOST = 200;
const PAUSE_MS = 2500;

export function sessions(signal) {
  const [active, ended] = [h("tbody", { class: "active" }), h("tbody")];
  const table = h(
    "table",
    { class: "sessions" },
    h("caption", { class: "unseen" }, "Sessions, those that are active first"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        HEADS.map(([name, hidden]) => h("th", { scope: "col", class: hidden }, name)),
      ),
    ),
    active,
    ended,
  );
  const none = empty("No session has begun yet.");
  none.hidden = table.hidden = true; // until that is known
  const problem = problems();
  const more = h("button", { type: "button", hidden: true, onclick: further }, "More");
  const others = h("p", { class: "note", hidden: true });
  const known = new Map();
  let next = null;

  const refresh = rereader(() => load(null), PAUSE_MS, signal);

  /** Read on until another row is there: a page may hold nothing but sessions that are active and shown already. */
  async function further() {
    const before = ended.childElementCount;
    while (next && ended.childElementCount === before) if (!(await load(next))) return;
  }

  /** Read a page, or all that is shown anew; false where that fails. */
  async function load(cursor) {
    const shown = Math.min(MOST, Math.max(PAGE, known.size));
    const place = cursor ? `limit=${PAGE}&cursor=${encodeURIComponent(cursor)}` : `limit=${shown}`;
    try {
      const [now, page] = await Promise.all([
        get(`/sessions?active=true&limit=${MOST}`, signal),
        get(`/sessions?${place}`, signal),
      ]);
      if (cursor || known.size <= shown) next = page.next;
      for (const one of page.items) known.set(one.sessionId, one);
      problem.show("");
      draw(now);
      return true;
    } catch (error) {
      if (error instanceof Refused) problem.show(`The sessions cannot be read: ${error.message}`);
      else if (error.name !== "AbortError") throw error;
      return false;
    }
  }

  function draw(now) {
    const live = new Set(now.items.map((one) => one.sessionId));
    const rest = [...known.values()].filter((one) => one.endedAt || !live.has(one.sessionId));
    keyed(active, now.items, (one) => one.sessionId, row);
    keyed(
      ended,
      rest.sort((one, other) => other.startedAt.localeCompare(one.startedAt)),
      (one) => one.sessionId,
      row,
    );
    none.hidden = now.items.length + rest.length > 0;
    table.hidden = !none.hidden;
    more.hidden = !next;
    others.hidden = !now.next;
    others.textContent = `More than ${count(MOST)} sessions are active; these are the latest.`;
  }

  const element = h("section", { class: "panel" }, h("h2", {}, "Sessions"), problem.element, none, others, table, more);
  refresh();
  return { element, refresh };
}

const HEADS = [
  ["Session", null],
  ["User", "wide"],
  ["Model", "wide"],
  ["Mode", "wider"],
  ["Began", null],
  ["Lasted", null],
];

function row(one) {
  const lasted = one.endedAt ? duration(Date.parse(one.endedAt) - Date.parse(one.startedAt)) : null;
  return h(
    "tr",
    { "data-session": one.sessionId },
    h("th", { scope: "row" }, h("a", { href: `#/sessions/${encodeURIComponent(one.sessionId)}` }, one.sessionId)),
    h("td", { class: "wide id", title: one.userId }, one.userId?.slice(0, 8) ?? "unknown"),
    h("td", { class: "wide" }, one.model),
    h("td", { class: "wider" }, one.mode),
    h("td", {}, moment(one.startedAt)),
    h("td", {}, lasted ?? h("span", { class: "badge", "data-tone": "good" }, "active")),
  );
}
