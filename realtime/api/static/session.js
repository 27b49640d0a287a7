/** One session: what it is, what it comes to, what happened in it; and speaking with it where it was begun here. */

import { get, hear, Refused, rereader, sleep } from "./api.js";
import { h, json, problems } from "./dom.js";
import { count, duration, money, time } from "./format.js";
import { begunHere, conversation } from "./speak.js";
import { timeline } from "./timeline.js";

const PAGE = 500;
const PAUSE_MS = 1200;

const TOTALS = [
  [
    "Tokens",
    (one) => count(one.tokensPrompt + one.tokensCompletion),
    (one) => `${count(one.tokensPrompt)} in, ${count(one.tokensCompletion)} out`,
  ],
  ["Cost", (one) => money(one.cost), () => ""],
  ["Calls", (one) => count(one.calls), (one) => `${count(one.errors)} failed`],
  ["Scripts", (one) => count(one.scripts), () => ""],
  ["Previews", (one) => count(one.previews), () => ""],
  ["Builds", (one) => count(one.builds), () => ""],
];

export function session(id, { signal, connected }) {
  const about = h("div", { class: "about" });
  const totals = h("dl", { class: "cards" });
  const problem = problems();
  const moments = timeline(signal);
  const reread = reader(id, moments, problem, signal);
  const on = {
    session: (now) => {
      problem.show("");
      about.replaceChildren(...facts(now));
      totals.replaceChildren(...TOTALS.map((one) => card(one, now)));
      reread();
    },
    trouble: ({ error }) => problem.show(`The session cannot be read: ${error}`),
  };
  follow(id, on, problem, { signal, connected });
  return [
    h("p", {}, h("a", { href: "#/" }, "← Overview")),
    h("h1", { class: "id" }, `Session ${id}`),
    problem.element,
    about,
    h("section", { "aria-label": "Totals" }, totals),
    begunHere(id) && conversation(id, signal),
    moments.element,
  ].filter(Boolean);
}

/** Hear of changes. One that was begun here may not be stored yet: it is asked for again. */
async function follow(id, on, problem, { signal, connected }) {
  while (!signal.aborted) {
    try {
      await hear(`/sessions/${encodeURIComponent(id)}/stream`, on, connected, signal);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      connected("refused");
      if (error.status !== 404 || !begunHere(id)) {
        problem.show(error.message);
        return;
      }
      problem.show("The session has begun; nothing of it is stored yet.");
      await sleep(PAUSE_MS, signal);
    }
  }
}

/** Makes a function that reads the timeline anew. */
function reader(id, moments, problem, signal) {
  let pages = 1;
  const reread = rereader(load, PAUSE_MS, signal);

  async function load() {
    const items = [];
    let cursor = null;
    try {
      for (let page = 0; page < pages; page += 1) {
        const place = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
        const part = await get(`/sessions/${encodeURIComponent(id)}/timeline?limit=${PAGE}${place}`, signal);
        items.push(...part.items);
        cursor = part.next;
        if (!cursor) break;
      }
      moments.show(items, cursor && (() => ((pages += 1), reread())));
    } catch (error) {
      if (error instanceof Refused) problem.show(`The timeline cannot be read: ${error.message}`);
      else if (error.name !== "AbortError") throw error;
    }
  }

  return reread;
}

function facts(one) {
  const state = one.endedAt
    ? ["Ended ", time(one.endedAt), ` after ${duration(Date.parse(one.endedAt) - Date.parse(one.startedAt))}`]
    : [h("span", { class: "badge", "data-tone": "good" }, "active")];
  return [
    h("p", {}, "Began ", time(one.startedAt), ". ", ...state),
    h(
      "p",
      {},
      h("span", { class: "chip" }, one.model),
      h("span", { class: "chip" }, one.mode),
      h("span", { class: "chip id" }, `user ${one.userId ?? "unknown"}`),
    ),
    json("More about it", one.meta),
  ].filter(Boolean);
}

function card([name, value, note], one) {
  const parts = [h("dt", {}, name), h("dd", { class: "figure" }, value(one)), h("dd", { class: "note" }, note(one))];
  return h("div", { class: "card", "data-card": name }, parts);
}
